"""Functions of TensorFlow tensors -> a SavedModel. Called by `export.py` once it is known that TensorFlow is there.

What is saved is a bare holder of the traced functions and their variables, not the object that they came from: a
SavedModel written so is read by TF1's loader too (`tf.saved_model.save` of a Keras 3 model is not), and it is smaller.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import ExportError, KernelError, disk_full, is_disk_full

DEFAULT = "serving_default"

_NEEDS_EXAMPLE = (
    "Give an example of its input, `--example EXPR` (a batch of rows), or declare it: "
    "`@tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32)])`."
)


def export_function(obj: Any, folder: Path, signatures: dict[str, Any], example: Any) -> tuple[str, Any, bool]:
    """Save a tf.Module, a loaded SavedModel, a tf.function, a concrete function or a Python function.

    Returns what it was in words, the example as a value by input name or as the rows of the only input, and whether the
    function that answers by default takes just one number of rows.
    """
    import tensorflow as tf

    owners: list[Any] = []
    loaded = getattr(obj, "signatures", None)
    if isinstance(obj, tf.Module) or _is_trackable(tf, obj):
        kind, owners = "tf.Module", [obj]
        if signatures:
            functions = {name: _method(obj, name) if value is None else value for name, value in signatures.items()}
        elif isinstance(loaded, Mapping) and loaded:
            kind, functions = "loaded SavedModel", dict(loaded)
        else:
            functions = _methods(obj, example)
    else:
        kind = "tf.function" if _is_traced(obj) else "Python function"
        functions = {name: obj if value is None else value for name, value in (signatures or {DEFAULT: obj}).items()}
    functions = _with_default(functions)
    example = _by_name(functions[DEFAULT], example)
    with quiet_tensorflow():
        traced = {name: _trace(tf, function, name, example) for name, function in functions.items()}
        _save(
            tf,
            traced,
            [*owners, *(owner for function in functions.values() for owner in _owners(tf, function))],
            folder,
        )
        inputs = tf.nest.flatten(traced[DEFAULT].structured_input_signature)
        fixed = any(isinstance(x, tf.TensorSpec) and x.shape.rank and x.shape[0] is not None for x in inputs)
    return kind, example, fixed


def export_keras_signatures(model: Any, folder: Path, signatures: dict[str, Any], example: Any) -> None:
    """Save a Keras model (TensorFlow backend) that has more signatures than the one that `model.export` gives it."""
    import tensorflow as tf

    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise ExportError(
            "More signatures need a Keras model with declared inputs (Sequential with an Input layer, or functional).",
            "Leave --signature out, or register a tf.Module whose methods call the model.",
        )
    functions: dict[str, Any] = {}
    for name, value in signatures.items():
        functions[name] = getattr(model, name, None) if value is None else value
        if not callable(functions[name]):
            raise ExportError(
                f"The model has no method {name!r} to export.",
                f"Say what it is: `--signature {name}=EXPR` with a function.",
            )

    @tf.function(input_signature=[tf.TensorSpec(x.shape, x.dtype, x.name) for x in inputs])  # type: ignore[untyped-decorator]
    def call(*rows: Any) -> Any:
        return model(rows[0] if len(rows) == 1 else list(rows), training=False)

    with quiet_tensorflow():
        traced = {DEFAULT: call.get_concrete_function()} if DEFAULT not in functions else {}
        specs = call.input_signature
        for name, function in functions.items():
            traced[name] = _trace(tf, function, name, _by_name(function, example), specs)
        _save(tf, traced, [model], folder)


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Without "Assets written to ..." and the like, which would name our staging folder in the user's notebook."""
    logger = logging.getLogger("tensorflow")
    absl = logging.getLogger("absl")
    before = logger.level, absl.level
    logger.setLevel(logging.ERROR)
    absl.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before[0])
        absl.setLevel(before[1])


def _is_trackable(tf: Any, obj: Any) -> bool:
    return isinstance(obj, tf.__internal__.tracking.Trackable) and not _is_traced(obj)


def _is_traced(function: Any) -> bool:
    """A tf.function, bound or not, or a concrete function."""
    return hasattr(function, "get_concrete_function") or hasattr(function, "structured_input_signature")


def _method(module: Any, name: str) -> Callable[..., Any]:
    method = getattr(module, name, None)
    if method is None and name == DEFAULT:
        method = module if callable(module) else None
    if not callable(method):
        raise ExportError(
            f"{type(module).__name__} has no method {name!r} to export.",
            f"Name one of its methods, or say what it is: `--signature {name}=EXPR`.",
        )
    return method  # type: ignore[no-any-return]


def _methods(module: Any, example: Any) -> dict[str, Any]:
    """What a module offers by itself: its tf.functions that declare their input, and with an example its `__call__`."""
    found: dict[str, Any] = {}
    for name in dir(type(module)) + list(vars(module)):
        if name.startswith("_") and name != "__call__":
            continue
        function = inspect.getattr_static(module, name, None)
        if _is_traced(function) and getattr(getattr(module, name), "input_signature", None) is not None:
            found[DEFAULT if name == "__call__" else name] = getattr(module, name)
    if DEFAULT not in found and example is not None and callable(module):
        found = {DEFAULT: module.__call__, **found}
    if not found:
        raise ExportError(
            f"It is not said what of this {type(module).__name__} is to be served: no method of it declares its input.",
            "Decorate one, `@tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32)])`, or "
            + ("give `--example EXPR`." if callable(module) else "name one: `--signature METHOD --example EXPR`."),
        )
    return found


def _with_default(functions: dict[str, Any]) -> dict[str, Any]:
    """One function must answer when a request names none: `serve`, `predict`, else the first."""
    if DEFAULT in functions:
        return functions
    main = next((name for name in ("serve", "predict", "call") if name in functions), next(iter(functions)))
    return {DEFAULT: functions[main], **functions}


def _parameters(function: Any) -> list[str]:
    """Names of the positional parameters; [] where they cannot be told."""
    try:
        parameters = inspect.signature(getattr(function, "python_function", function)).parameters.values()
    except (TypeError, ValueError):
        return []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return names[1:] if names[:1] == ["self"] else names


def _by_name(function: Any, example: Any) -> Any:
    """An example by position as one by parameter name; others stay."""
    if isinstance(example, tuple):
        names = _parameters(function)
        if len(example) > len(names):
            raise ExportError(
                f"The example has {len(example)} values, and the function takes {len(names)}.",
                "Give a tuple with one value for each parameter, or an array for the only one.",
            )
        return dict(zip(names, example, strict=False))
    return example


def _trace(tf: Any, function: Any, name: str, example: Any, fallback: Any = None) -> Any:
    """The concrete function to save. Raises ExportError where it cannot be traced."""
    if hasattr(function, "structured_input_signature"):
        return function
    if not callable(function):
        raise ExportError(
            f"Signature {name!r} is a {type(function).__name__}, not a function.", "Give a function of tensors."
        )
    traceable = function if _is_traced(function) else tf.function(function)
    if getattr(traceable, "input_signature", None) is not None:
        return _attempt(name, traceable.get_concrete_function)
    if example is None and fallback is not None:
        return _attempt(name, lambda: traceable.get_concrete_function(*fallback))
    if example is None:
        raise ExportError(f"The types of the inputs of {_called(function, name)} are unknown.", _NEEDS_EXAMPLE)
    try:
        return _attempt(name, lambda: traceable.get_concrete_function(*_specs(tf, function, example, open_rows=True)))
    except ExportError:
        # Some code wants to know how many rows there are; served so it takes just that many, and a warning will say so.
        specs = _specs(tf, function, example, open_rows=False)
        with contextlib.suppress(ExportError):
            return _attempt(name, lambda: traceable.get_concrete_function(*specs))
        raise


def _attempt(name: str, trace: Callable[[], Any]) -> Any:
    try:
        return trace()
    except KernelError:
        raise
    except Exception as error:  # tracing runs the user's code, which may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ExportError(
            f"Signature {name!r} could not be traced: {lines[-1] if lines else type(error).__name__}",
            "It must be made of TensorFlow operations (or numpy-like ones that tensors understand): numpy, pandas and "
            "scikit-learn cannot run inside a graph.",
        ) from error


def _called(function: Any, name: str) -> str:
    return f"{getattr(function, '__name__', None) or type(function).__name__!s} (signature {name!r})"


def _specs(tf: Any, function: Any, example: Any, open_rows: bool) -> list[Any]:
    """TensorSpecs in the order of the function's parameters, from an example; `open_rows` leaves their number open."""

    def spec(value: Any, name: str | None) -> Any:
        if isinstance(value, Mapping):
            return {key: spec(item, str(key)) for key, item in value.items()}
        try:
            tensor = tf.convert_to_tensor(value)
        except (TypeError, ValueError) as error:
            raise ExportError(
                f"The example{f' for {name!r}' if name else ''} is not a tensor: a {type(value).__name__}.",
                "Give an array, or a tuple or dict of arrays where the function takes several.",
            ) from error
        shape = list(tensor.shape)
        if shape and open_rows:
            shape[0] = None
        return tf.TensorSpec(shape, tensor.dtype, name)

    names = _parameters(function)
    if isinstance(example, Mapping) and set(example) <= set(names) and all(isinstance(key, str) for key in example):
        return [spec(example[name], name) for name in names if name in example]
    return [spec(example, names[0] if names else None)]


def _owners(tf: Any, function: Any) -> list[Any]:
    """Trackable objects that a function uses: what it is bound to, what it closes over, and its globals."""
    python = getattr(function, "python_function", function)
    found = [getattr(function, "__self__", None), getattr(python, "__self__", None)]
    with contextlib.suppress(TypeError, ValueError):
        used = inspect.getclosurevars(inspect.unwrap(python))
        found += [*used.nonlocals.values(), *used.globals.values()]
    return [owner for owner in found if isinstance(owner, tf.__internal__.tracking.Trackable)]


def _save(tf: Any, functions: dict[str, Any], owners: list[Any], folder: Path) -> None:
    holder = tf.Module()
    holder.held = list(
        {id(v): v for function in functions.values() for v in getattr(function, "variables", ())}.values()
    )
    try:
        try:
            tf.saved_model.save(holder, str(folder), signatures=functions)
        except AssertionError:
            # The functions use more than variables (lookup tables, asset files): these live in the objects around them.
            shutil.rmtree(folder)
            folder.mkdir(mode=0o700)
            holder.owners = list({id(owner): owner for owner in owners}.values())
            tf.saved_model.save(holder, str(folder), signatures=functions)
    except tf.errors.ResourceExhaustedError as error:
        if is_disk_full(error):
            raise disk_full(folder) from error
        raise
    except (AssertionError, ValueError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ExportError(
            f"TensorFlow could not save this object: {lines[0] if lines else type(error).__name__}",
            "A signature takes tensors and returns a tensor, a flat list or a flat dict of tensors; what it uses "
            "(variables, tables) must be attributes of one tf.Module: register that.",
        ) from error

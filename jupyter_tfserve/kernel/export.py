"""A live object (Keras model, tf.Module, tf.function, Python function) or a path -> a version directory. Called by
`registering.py`; imports TensorFlow only for what cannot be written without it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..store import EXAMPLE, versions_in
from .errors import ExportError, KernelError, disk_full, is_disk_full, need_tensorflow
from .values import first_row, request_body

_GRAPHS = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")


@dataclass(frozen=True)
class Exported:
    """A version directory that was written."""

    kind: str  #: what the object was, in words: "Keras model"
    example: dict[str, Any] | None  #: the body of a Predict request: one row, where the model takes any number of them


def is_saved_model(folder: Path) -> bool:
    """Whether this folder is one SavedModel."""
    return any((folder / name).is_file() for name in _GRAPHS)


def as_path(obj: Any) -> Path | None:
    """The absolute path that a string or path object means in this kernel; None for other objects."""
    if not isinstance(obj, (str, os.PathLike)):
        return None
    text = os.fsdecode(obj)
    if "://" in text:
        raise ExportError(
            f"{text} is not a folder of this machine.",
            "Copy it to a local folder first (for example with `tf.io.gfile` or your cloud's tool) and register that.",
        )
    return Path(os.path.abspath(os.path.expanduser(text)))


def is_base_path(path: Path) -> bool:
    """Whether `path` is to be served in place: version folders inside, as TF Serving wants them. Raises ExportError
    for a path that is neither that nor a SavedModel.
    """
    if is_saved_model(path):
        return False
    versions = versions_in(path)
    if any(is_saved_model(folder) for folder in versions.values()):
        return True
    if not path.exists():
        raise ExportError(
            f"There is nothing at {path}.",
            f"Relative paths start at this kernel's working directory, {os.getcwd()}.",
        )
    if path.suffix in (".keras", ".h5", ".hdf5"):
        raise ExportError(
            f"{path.name} is a Keras archive, not a SavedModel.",
            f"Load it and register the model: `model = keras.models.load_model({str(path)!r})`.",
        )
    if not path.is_dir():
        raise ExportError(f"{path} is a file.", "Give the folder of a SavedModel (the one that holds saved_model.pb).")
    raise ExportError(
        f"{path} holds neither saved_model.pb nor version folders (1/, 2/, ...) with one.",
        "Give the folder of a SavedModel, or a base path as TensorFlow Serving wants it: BASE/NUMBER/saved_model.pb.",
    )


def export(obj: Any, folder: Path, *, signatures: Mapping[str, Any] | None = None, example: Any = None) -> Exported:
    """Write `obj` as a SavedModel into `folder`, which exists and is empty.

    `signatures` maps names to functions of the object (None: the object's method of that name). `example` is what the
    object is called with: a batch of rows, a dict of them by input name, or a tuple of them by position. It gives a
    Python function its input types, and its first row is kept beside the model.

    Raises ExportError if the object has no way to become a SavedModel, KernelError if TensorFlow is missing.
    """
    signatures = dict(signatures or {})
    path = as_path(obj)
    if path is not None:
        if signatures:
            raise ExportError("A SavedModel on disk has its signatures already.", "Leave --signature out.")
        if is_base_path(path):
            raise ExportError(f"{path} holds several versions.", "Give the folder of one of them.")
        _copy(path, folder)
        kind, fixed = "SavedModel", False
    elif is_keras_model(obj):
        _keras(obj, folder, signatures, example)
        kind, fixed = "Keras model", any(x.shape[0] is not None for x in getattr(obj, "inputs", None) or () if x.shape)
    elif not _is_tensorflow(obj) and (_family(obj) in _REMEDIES or not callable(obj)):
        raise ExportError(f"A {_type(obj)} cannot be exported as a SavedModel.", _remedy(obj))
    else:
        need_tensorflow("Exporting a function")
        from .functions import export_function

        kind, example, fixed = export_function(obj, folder, signatures, example)
    body = None
    if example is not None:
        body = request_body(example)
        if not fixed:
            body = first_row(body)
        target = folder / EXAMPLE
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(body), encoding="utf-8")
    return Exported(kind, body)


def read_example(version: Path) -> dict[str, Any] | None:
    """The example that was kept with a version, if there is one."""
    try:
        body = json.loads((version / EXAMPLE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None


def is_keras_model(obj: Any) -> bool:
    """Whether `obj` is a model of Keras 3 (any backend), tf.keras or tf_keras; found by name: nothing is imported."""
    return any(
        kind.__name__ == "Model" and kind.__module__.split(".")[0] in ("keras", "tf_keras")
        for kind in type(obj).__mro__
    )


def _copy(source: Path, folder: Path) -> None:
    needed = sum(entry.stat().st_size for entry in source.rglob("*") if entry.is_file())
    if needed > shutil.disk_usage(folder).free:
        raise disk_full(folder, needed)
    # Links are followed: the copy must not change when what they point to does.
    shutil.copytree(source, folder, dirs_exist_ok=True)


def _keras(model: Any, folder: Path, signatures: dict[str, Any], example: Any) -> None:
    family = next(kind.__module__.split(".")[0] for kind in type(model).__mro__ if kind.__name__ == "Model")
    need_tensorflow("Exporting a Keras model")
    if not getattr(model, "built", True):
        if example is None:
            raise ExportError(
                "This Keras model has not been built yet: the shapes of its inputs are unknown.",
                "Call it once on data (`model(x)`), or give `--example x`.",
            )
        model(example)
    if signatures:
        from .functions import export_keras_signatures

        export_keras_signatures(model, folder, signatures, example)
        return
    from .functions import quiet_tensorflow

    try:
        with quiet_tensorflow():
            if family == "tf_keras":
                model.export(str(folder))
            else:
                model.export(str(folder), verbose=False)
    except (KernelError, OSError):
        raise
    except Exception as error:  # Keras raises whatever its backend does; none of it may pass for a bug of ours
        if is_disk_full(error):
            raise disk_full(folder) from error
        backend = _keras_backend(family)
        raise ExportError(
            f"Keras could not export this {type(model).__name__} (backend {backend}): {first_line(error)}",
            "Call the model once on data before registering it; code in layers must use keras.ops or TensorFlow."
            if backend in ("tensorflow", "jax")
            else "Save it (`model.save`) and load it in a kernel with KERAS_BACKEND=tensorflow, which exports it.",
        ) from error


def _keras_backend(family: str) -> str:
    keras = sys.modules.get("keras")
    return "tensorflow" if family == "tf_keras" or keras is None else str(keras.backend.backend())


def first_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _is_tensorflow(obj: Any) -> bool:
    """Whether the object comes from TensorFlow or derives from one of its classes; nothing is imported for it."""
    return any(kind.__module__.split(".")[0] == "tensorflow" for kind in type(obj).__mro__)


def _family(obj: Any) -> str:
    """The library that an object's class comes from, looking through what the user derived from it."""
    found = (kind.__module__.split(".")[0] for kind in type(obj).__mro__)
    return next((name for name in found if name in _REMEDIES), type(obj).__module__.split(".")[0])


def _type(obj: Any) -> str:
    kind = type(obj)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.split('.')[0]} {kind.__name__}"


_AS_FUNCTION = "write its prediction step as a function of TensorFlow operations and register that with `--example`"

_REMEDIES = {
    "sklearn": f"TensorFlow Serving runs TensorFlow graphs: {_AS_FUNCTION} (for a linear model: "
    "`lambda x: x @ m.coef_.T + m.intercept_`), or train the model in Keras.",
    "xgboost": f"TensorFlow Serving runs TensorFlow graphs: {_AS_FUNCTION}.",
    "lightgbm": f"TensorFlow Serving runs TensorFlow graphs: {_AS_FUNCTION}.",
    "torch": "TensorFlow Serving runs TensorFlow graphs: load the weights into a Keras model (Keras 3 runs on PyTorch "
    f"too), or {_AS_FUNCTION}.",
}


def _remedy(obj: Any) -> str:
    return _REMEDIES.get(
        _family(obj),
        "Give a Keras model, a tf.Module, a tf.function, a Python function of tensors with `--example`, or the path of "
        "a SavedModel or of a folder of versions.",
    )

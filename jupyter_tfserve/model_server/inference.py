"""What TF Serving checks before and after a run, and Classify and Regress, in arrays: the frontends translate to and
from the wire.

Errors have TF Serving's codes and texts (`servables/tensorflow/predict_util.cc`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .core.batch_queue import Queue
from .core.batching import Batcher
from .core.servable import DEFAULT_SIGNATURE, Array, Signature, TensorInfo
from .errors import Code, ServingError, invalid


def signature(servable: Batcher, name: str, code: Code = Code.INVALID_ARGUMENT) -> Signature:
    """The signature of that name, "" for the default one. Over gRPC an unknown one is FAILED_PRECONDITION, over REST
    not.
    """
    found = servable.signatures.get(name or DEFAULT_SIGNATURE)
    if found is None:
        raise ServingError(
            code,
            f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def',
            f"The model has {', '.join(sorted(servable.signatures)) or 'no signature'}.",
        )
    return found


def queue(servable: Batcher, name: str, output_filter: Sequence[str], code: Code) -> Queue:
    """Where requests for a signature and the outputs that are asked for wait; `code` is as of `signature`."""
    if not output_filter and (whole := servable.whole(name)) is not None:
        return whole
    called = signature(servable, name, code)
    return servable.queue(called, filtered(called, output_filter))


def filtered(called: Signature, output_filter: Sequence[str]) -> tuple[str, ...]:
    """The outputs that are asked for: all of them where the filter is empty."""
    if not output_filter:
        return called.output_names
    for place, name in enumerate(output_filter):
        if name not in called.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {{{','.join(called.outputs)}}}."
            )
        if name in output_filter[:place]:
            raise invalid(f"duplicate output tensor alias: {name}")
    return tuple(output_filter)


def explained(error: ServingError, called: Signature, fed: Sequence[Array]) -> ServingError:
    """An error of the graph, which knows nothing of the signature's inputs, with those named that do not fit."""
    if error.code is not Code.INVALID_ARGUMENT:
        return error
    misfits = [
        f"{takes(name, info)[:-1]}; {info.dtype}{shape_text(array.shape)} came."
        for (name, info), array in zip(called.inputs.items(), fed, strict=True)
        if not _fits(array.shape, info.shape)
    ]
    if not misfits:
        return error
    return ServingError(error.code, error.message, " ".join(filter(None, [error.remedy, *misfits])))


def _fits(shape: tuple[int, ...], declared: tuple[int, ...] | None) -> bool:
    return declared is None or (
        len(shape) == len(declared) and all(b in (-1, a) for a, b in zip(shape, declared, strict=True))
    )


def complete(called: Signature, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """The inputs with defaults filled in; their names and types checked."""
    if inputs.keys() != called.inputs.keys():
        extra = sorted(inputs.keys() - called.inputs.keys())
        missing = sorted(called.inputs.keys() - inputs.keys() - called.defaults.keys())
        if extra or missing:
            raise invalid(
                "input size does not match signature: "
                f"{len(inputs)}!={len(called.inputs)} len({{{','.join(sorted(inputs))}}}) != "
                f"len({{{','.join(called.inputs)}}}). Sent extra: {{{','.join(extra)}}}. "
                f"Missing but required: {{{','.join(missing)}}}."
            )
        inputs = {**called.defaults, **inputs}
    for place, (name, info) in enumerate(called.inputs.items()):
        if inputs[name].dtype != info.numpy:
            raise invalid(
                f"Expects arg[{place}] to be {info.dtype} but {dtype_name(inputs[name].dtype)} is provided",
                takes(name, info),
            )
    return inputs


CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"


def classify(
    servable: Batcher,
    name: str,
    examples: Sequence[bytes],
    check_method: bool = False,
    timeout_ms: int = 0,
    api: str = "Classify",
) -> list[list[tuple[bytes, float]]]:
    """Label and score of each class, for each serialized tf.Example (`servables/tensorflow/classifier.cc`). `api` is
    what the metrics call it.
    """
    called = _example_signature(servable, name, CLASSIFY_METHOD if check_method else "")
    outputs = tuple(key for key in ("classes", "scores") if key in called.outputs)
    if not outputs or len(outputs) != len(called.outputs):
        raise invalid(
            'Expected classification signature outputs to be "classes" and/or "scores"; '
            f"found {', '.join(called.outputs)}"
        )
    found = _run_examples(servable, called, examples, outputs, timeout_ms, api)
    _check_dtype(found, "classes", "string", "class labels")
    _check_dtype(found, "scores", "float", "scores")
    for key, array in found.items():
        if array.ndim != 2 or len(array) != len(examples):
            raise invalid(f"Expected output Tensor shape to be [{len(examples)} ?] for {key}, got {list(array.shape)}")
    if len(outputs) == 2 and found["classes"].shape != found["scores"].shape:
        raise invalid(
            f"Tensors class and score should match in dimension sizes: {list(found['classes'].shape)} "
            f"and {list(found['scores'].shape)}"
        )
    shape = found[outputs[0]].shape
    classes = found["classes"].tolist() if "classes" in found else [[b""] * shape[1]] * shape[0]
    scores = found["scores"].tolist() if "scores" in found else [[0.0] * shape[1]] * shape[0]
    return [list(zip(*row, strict=True)) for row in zip(classes, scores, strict=True)]


def regress(
    servable: Batcher,
    name: str,
    examples: Sequence[bytes],
    check_method: bool = False,
    timeout_ms: int = 0,
    api: str = "Regress",
) -> Array:
    """One float32 for each serialized tf.Example, shape [n] (`servables/tensorflow/regressor.cc`)."""
    called = _example_signature(servable, name, REGRESS_METHOD if check_method else "")
    if list(called.outputs) != ["outputs"]:
        raise invalid(f'Expected regression signature to have one output "outputs"; found {", ".join(called.outputs)}')
    found = _run_examples(servable, called, examples, ("outputs",), timeout_ms, api)
    _check_dtype(found, "outputs", "float", "output")
    values = found["outputs"]
    if values.shape not in ((len(examples),), (len(examples), 1)):
        raise invalid(
            f"Expected output Tensor shape to be either [{len(examples)}] or [{len(examples)}, 1], "
            f"got {list(values.shape)}"
        )
    return values.reshape(-1)


def _example_signature(servable: Batcher, name: str, method: str) -> Signature:
    """A signature that takes tf.Examples; with `method`, of that method name."""
    called = servable.signatures.get(name or DEFAULT_SIGNATURE)
    if called is None:
        raise invalid(f"No signature was found with the name: {name or DEFAULT_SIGNATURE}")
    if method and called.method_name != method:
        raise invalid(f"Expected signature method_name to be {method}. Was: {called.method_name}")
    if list(called.inputs) != ["inputs"]:
        raise invalid(f'Expected one input Tensor, "inputs"; signature {called.name} has {", ".join(called.inputs)}')
    return called


def _run_examples(
    servable: Batcher, called: Signature, examples: Sequence[bytes], outputs: tuple[str, ...], timeout_ms: int, api: str
) -> dict[str, Array]:
    if not examples:
        raise invalid("Input is empty.")
    batch = np.empty(len(examples), object)
    batch[:] = examples
    # The declared dtype is not looked at: TF Serving does not, and there are models that declare a wrong one.
    return dict(zip(outputs, servable.run(called, {"inputs": batch}, outputs, timeout_ms, api), strict=True))


def _check_dtype(found: Mapping[str, Array], key: str, expected: str, what: str) -> None:
    if key in found and dtype_name(found[key].dtype) != expected:
        raise invalid(
            f"Expected {what} Tensor of DT_{expected.upper()}. Got: DT_{dtype_name(found[key].dtype).upper()}"
        )


_NAMES = {
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.float16): "half",
    np.dtype(object): "string",
}


def dtype_name(dtype: np.dtype[np.generic]) -> str:
    """TensorFlow's name of a dtype (`DataTypeString`)."""
    return _NAMES.get(dtype, dtype.name)


def takes(name: str, info: TensorInfo) -> str:
    """A sentence for whoever sent something else."""
    return f"Input {name!r} takes {info.dtype}{shape_text(info.shape)}."


def shape_text(shape: tuple[int, ...] | None) -> str:
    """A declared shape as people read it: "[?,784]"."""
    if shape is None:
        return " of any shape"
    return "[" + ",".join("?" if size < 0 else str(size) for size in shape) + "]"

"""PredictRequest and PredictResponse: what gRPC carries, and REST where a client asks for it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tensorflow_serving.apis import predict_pb2

from ..core.servable import Array, Signature
from ..errors import Code, ServingError
from ..inference import complete, takes
from . import proto_tensor


def parse(payload: bytes, code: Code = Code.INTERNAL) -> Any:
    """A PredictRequest. Raises ServingError with `code` if the bytes are none."""
    try:
        return predict_pb2.PredictRequest.FromString(payload)
    except Exception:  # protobuf's DecodeError, which differs between its implementations
        raise ServingError(code, "The request is no tensorflow.serving.PredictRequest") from None


def inputs(request: Any, signature: Signature) -> list[Array]:
    """The tensors of a PredictRequest in the signature's order, defaults filled in. Raises ServingError with the name
    of one that is malformed or does not fit, and what the signature takes there.
    """
    tensors = request.inputs
    if len(tensors) == len(signature.inputs):
        fitting = _fitting(tensors, signature)
        if fitting is not None:
            return fitting
    arrays: dict[str, Array] = {}
    for name in tensors:
        try:
            arrays[name] = proto_tensor.decode(tensors[name], name)
        except ServingError as error:
            if name not in signature.inputs:
                raise
            raise ServingError(error.code, error.message, takes(name, signature.inputs[name])) from None
    fed = complete(signature, arrays)
    return [fed[name] for name in signature.inputs]


def _fitting(tensors: Any, signature: Signature) -> list[Array] | None:
    """The tensors of a request with which all is well: nothing to be filled in, nothing to be refused. Else None."""
    arrays = []
    for name, info in signature.inputs.items():
        if name not in tensors:
            return None
        try:
            array = proto_tensor.decode(tensors[name], name)
        except ServingError:
            return None
        if array.dtype is not info.numpy and array.dtype != info.numpy:
            return None
        arrays.append(array)
    return arrays


def response(spec: tuple[str, int, str], names: Sequence[str], outputs: Sequence[Array], as_content: bool) -> bytes:
    """A serialized PredictResponse of model, version and signature; numbers as `tensor_content` or in the typed fields.

    Numbers are copied as they stand in memory: what comes before them on the wire is the same for all replies of a
    shape, and remembered.
    """
    parts = []
    for name, array in zip(names, outputs, strict=True):
        number, raw = proto_tensor.raw(array, as_content)
        if raw is None:
            message = predict_pb2.PredictResponse()
            proto_tensor.encode(array, message.outputs[name], as_content)
            parts.append(message.SerializeToString())
        else:
            parts.append(_before(name, number, array.shape, len(raw), as_content))
            parts.append(raw)
    parts.append(_model_spec(spec))
    return b"".join(parts)


def responses(
    spec: tuple[str, int, str], names: Sequence[str], outputs: Sequence[Array], counts: Sequence[int], as_content: bool
) -> list[bytes] | None:
    """`response` for many requests at once: `outputs` have the rows of all of them, `counts` says how many each of them
    has. None where that is more than bytes, cut.
    """
    texts: list[list[bytes]] = [[] for _ in counts]
    for name, array in zip(names, outputs, strict=True):
        number, raw = proto_tensor.raw(array, as_content)
        if raw is None or not raw:
            return None
        row = len(raw) // len(array)
        start = 0
        for text, count in zip(texts, counts, strict=True):
            end = start + count * row
            text.append(_before(name, number, (count, *array.shape[1:]), end - start, as_content))
            text.append(raw[start:end])
            start = end
    last = _model_spec(spec)
    return [b"".join(text) + last for text in texts]


@functools.lru_cache(1024)
def _before(name: str, number: int, shape: tuple[int, ...], size: int, as_content: bool) -> bytes:
    """The entry of a tensor in a PredictResponse's map of outputs, up to its last `size` bytes, the numbers."""
    field = proto_tensor.field_before(number, shape, size, as_content)
    key = name.encode()
    entry = b"\x0a" + proto_tensor.varint(len(key)) + key + b"\x12" + proto_tensor.varint(len(field) + size) + field
    return b"\x0a" + proto_tensor.varint(len(entry) + size) + entry


@functools.lru_cache(1024)
def _model_spec(spec: tuple[str, int, str]) -> bytes:
    message = predict_pb2.PredictResponse()
    message.model_spec.name, message.model_spec.version.value, message.model_spec.signature_name = spec
    return bytes(message.SerializeToString())


def reply(payload: bytes) -> Any:
    """What `response` made, as a message again."""
    return predict_pb2.PredictResponse.FromString(payload)

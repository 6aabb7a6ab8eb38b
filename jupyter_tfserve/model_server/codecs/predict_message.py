"""PredictRequest and PredictResponse: what gRPC carries, and REST where a client asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorflow_serving.apis import predict_pb2

from ..core.servable import Array
from ..errors import Code, ServingError
from . import proto_tensor


def parse(payload: bytes, code: Code = Code.INTERNAL) -> Any:
    """A PredictRequest. Raises ServingError with `code` if the bytes are none."""
    try:
        return predict_pb2.PredictRequest.FromString(payload)
    except Exception:  # protobuf's DecodeError, which differs between its implementations
        raise ServingError(code, "The request is no tensorflow.serving.PredictRequest") from None


def inputs(request: Any) -> dict[str, Array]:
    """The tensors of a PredictRequest. Raises ServingError with the name of one that is malformed."""
    return {name: proto_tensor.decode(tensor, name) for name, tensor in request.inputs.items()}


def response(model: str, number: int, signature: str, outputs: Mapping[str, Array], as_content: bool) -> bytes:
    """A serialized PredictResponse; numbers as `tensor_content` or in the typed fields."""
    message = predict_pb2.PredictResponse()
    spec = message.model_spec
    spec.name = model
    spec.version.value = number
    spec.signature_name = signature
    for name, array in outputs.items():
        proto_tensor.encode(array, message.outputs[name], as_content)
    return message.SerializeToString()  # type: ignore[no-any-return]


def reply(payload: bytes) -> Any:
    """What `response` made, as a message again."""
    return predict_pb2.PredictResponse.FromString(payload)

"""What a caller learns who sends a tensor that does not fit: the input, what it takes and what came, on every way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from helpers import PATIENCE, StoreServer
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def row(server: StoreServer, model: str, signature: str, value: Any) -> str:
    body = {"signature_name": signature, "instances": value}
    answer = server.call("POST", f"/v1/models/{model}:predict", body)
    assert answer.status == 400, answer
    return str(answer.json["error"])


def column(server: StoreServer, model: str, signature: str, value: Any) -> str:
    body = {"signature_name": signature, "inputs": value}
    answer = server.call("POST", f"/v1/models/{model}:predict", body)
    assert answer.status == 400, answer
    return str(answer.json["error"])


def over_grpc(server: StoreServer, model: str, signature: str, value: Any) -> str:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    array = np.array(value)
    name = "inputs" if model == "keras_saved" else "x"
    dtype = {"i": tf.int32, "f": tf.float32}.get(array.dtype.kind, tf.string)
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value, dtype))
    return refused(server, request)


def refused(server: StoreServer, request: predict_pb2.PredictRequest) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError) as error:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=PATIENCE)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, error.value
    return str(error.value.details())


WAYS = pytest.mark.parametrize("way", [row, column, over_grpc])
Way = Callable[[StoreServer, str, str, Any], str]


@WAYS
def test_another_dtype(server: StoreServer, way: Way) -> None:
    said = way(server, "affine", "", ["a"])
    assert "Input 'x' takes float[?]." in said
    assert "string is provided" in said if way is over_grpc else 'JSON Value: "a" Type: String' in said


@WAYS
@pytest.mark.parametrize(("model", "name"), [("keras_export", "x"), ("keras_saved", "inputs")])
def test_a_shape_that_the_graph_refuses(server: StoreServer, way: Way, model: str, name: str) -> None:
    said = way(server, model, "", [[1.0, 2.0]])
    assert f"Input {name!r} takes float[?,3]; float[1,2] came." in said


@WAYS
def test_no_bytes(server: StoreServer, way: Way) -> None:
    said = way(server, "several", "text", [1])
    assert "Input 'x' takes string[?]." in said
    if way is not over_grpc:
        assert 'Bytes are written as {"b64": "..."}.' in said


@pytest.mark.parametrize("way", [row, column])
def test_no_base64(server: StoreServer, way: Way) -> None:
    said = way(server, "several", "text", [{"b64": "%%"}])
    assert "Unable to base64 decode: %%" in said
    assert 'Bytes are written as {"b64": "..."}.' in said


def test_a_malformed_tensor(server: StoreServer) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "affine"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones(4, np.float32)))
    request.inputs["x"].tensor_content = b"123"
    said = refused(server, request)
    assert "tensor parsing error: x: tensor_content has 3 bytes, 16 are expected" in said
    assert "Input 'x' takes float[?]." in said

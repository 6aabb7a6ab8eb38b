"""gRPC-Web on the model server's Unix socket: the same calls as on the gRPC port."""

from __future__ import annotations

import base64
import struct

import httpx
import pytest
import tensorflow as tf
from grpc_web import PREDICT, grpc_web
from helpers import PATIENCE, Answer, StoreServer
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from jupyter_tfserve.grants import GRANT_HEADER, Grant


class Socket:
    """POSTs to the Unix socket."""

    def __init__(self, server: StoreServer) -> None:
        self._path = str(server.socket)

    def __call__(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        with httpx.Client(transport=httpx.HTTPTransport(uds=self._path), timeout=PATIENCE) as client:
            reply = client.post("http://tfserve" + path, content=body, headers=headers)
            return Answer(reply.status_code, dict(reply.headers), reply.content)


def request(model: str, **inputs: object) -> bytes:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = model
    for name, value in inputs.items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return bytes(message.SerializeToString())


@pytest.mark.parametrize("text", [False, True])
def test_unary_calls(server: StoreServer, text: bool) -> None:
    post = Socket(server)
    reply, status, message = grpc_web(post, PREDICT, request("affine", x=[1.0, 2.0]), text=text)
    assert (status, message) == (0, "")
    outputs = predict_pb2.PredictResponse.FromString(reply).outputs
    assert tf.make_ndarray(outputs["y"]).tolist() == [2.0, 3.0]

    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = "affine"
    path = "/grpc-web/tensorflow.serving.ModelService/GetModelStatus"
    reply, status, _ = grpc_web(post, path, asked.SerializeToString(), text=text)
    assert status == 0
    assert get_model_status_pb2.GetModelStatusResponse.FromString(reply).model_version_status[0].version == 1

    reply, status, message = grpc_web(post, PREDICT, request("no such", x=[1.0]), text=text)
    assert (reply, status) == (b"", 5)
    assert "Latest(no such)" in message
    _, status, message = grpc_web(post, "/grpc-web/x.Y/Z", b"", text=text)
    assert (status, message) == (12, "There is no method /x.Y/Z")


def test_deadlines_and_malformed_bodies(server: StoreServer) -> None:
    post = Socket(server)
    _, status, _ = grpc_web(post, PREDICT, request("affine", x=[1.0]), {"Grpc-Timeout": "1n"})
    assert status == 4
    _, status, _ = grpc_web(post, PREDICT, request("affine", x=[1.0]), {"Grpc-Timeout": "1M"})
    assert status == 0
    web, text = "application/grpc-web+proto", "application/grpc-web-text"
    for kind, body, phrase in (
        (web, b"", b"no message"),
        (web, struct.pack(">BI", 0, 9) + b"x", b"not one message"),
        (web, struct.pack(">BI", 1, 1) + b"x", b"identity"),
        (text, b"%%%", b"not base64"),
        (web, struct.pack(">BI", 0, 1) + b"\xff", b"no tensorflow.serving.PredictRequest"),
    ):
        answer = post(PREDICT, body, {"Content-Type": kind})
        if kind == text:
            answer = Answer(answer.status, answer.headers, base64.b64decode(answer.body))
        assert answer.status == 200
        assert b"grpc-status:0" not in answer.body
        assert phrase in answer.body, answer
    assert post(PREDICT, b"", {"Content-Type": "application/json"}).status == 415


def test_a_grant_is_held_to_what_the_message_says(server: StoreServer) -> None:
    post = Socket(server)
    grant = {GRANT_HEADER: Grant("x", ("affine",)).to_json()}
    assert grpc_web(post, PREDICT, request("affine", x=[1.0]), grant)[1] == 0
    _, status, message = grpc_web(post, PREDICT, request("echo", x=[1.0]), grant)
    assert (status, message) == (7, "This bearer is not for the model 'echo', but for: affine.")
    reload = "/grpc-web/tensorflow.serving.ModelService/HandleReloadConfigRequest"
    assert grpc_web(post, reload, b"", grant)[1] == 7
    for path, expected in (("/v1/models/affine:predict", 200), ("/v1/models/echo:predict", 403), ("/api/state", 403)):
        assert post(path, b'{"instances": [1.0]}', grant).status == expected

"""TF Serving's REST API, from outside."""

from __future__ import annotations

import gzip
import json

import pytest
import tensorflow as tf
from helpers import Answer, StoreServer
from tensorflow_serving.apis import predict_pb2


def test_row_and_column_format(server: StoreServer) -> None:
    assert server.predict("affine", [1.0, 2]) == [2.0, 3.0]
    answer = server.call("POST", "/v1/models/affine:predict", {"inputs": [1.0, 2.0]})
    assert answer.json == {"outputs": [2.0, 3.0]}
    assert answer.headers["content-type"] == "application/json"
    rows = server.call("POST", "/v1/models/several:predict", {"instances": [{"a": 2, "b": 3}, {"a": 4, "b": 5}]})
    assert rows.json["predictions"] == [
        {"product": 6, "label": "3", "raw_bytes": {"b64": "Mw=="}},
        {"product": 20, "label": "5", "raw_bytes": {"b64": "NQ=="}},
    ]


def test_gzip_and_not_finite_numbers(server: StoreServer) -> None:
    body = gzip.compress(b'{"signature_name": "same", "inputs": [NaN, -Infinity, 1.5]}')
    answer = server.call("POST", "/v1/models/several:predict", body, {"Content-Encoding": "gzip"})
    assert repr(answer.json) == "{'outputs': [nan, -inf, 1.5]}"


@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "phrase"),
    [
        (
            "POST",
            "/v1/models/nosuch:predict",
            '{"instances": [1]}',
            404,
            "Servable not found for request: Latest(nosuch)",
        ),
        ("POST", "/v1/models/affine/versions/9:predict", '{"instances": [1]}', 404, "Specific(affine, 9)"),
        (
            "POST",
            "/v1/models/affine/labels/x:predict",
            '{"instances": [1]}',
            400,
            "Unrecognized servable version label",
        ),
        ("POST", "/v1/models/affine:predict", "", 400, "JSON Parse error: The document is empty"),
        ("POST", "/v1/models/affine:predict", '{"instances": ["x"]}', 400, "is not of expected type: float"),
        (
            "POST",
            "/v1/models/affine:predict",
            '{"instances": [[1, 2], [3]]}',
            400,
            "Expecting tensor size: 2 but got: 1",
        ),
        ("POST", "/v1/models/affine:predict", "{}", 400, "Missing 'inputs' or 'instances' key"),
        ("POST", "/v1/models/several:predict", '{"signature_name": "fail", "inputs": [1]}', 400, "x is too large"),
        ("POST", "/v1/models/affine:explain", "{}", 400, "Malformed request: POST /v1/models/affine:explain"),
        ("PUT", "/v1/models/affine", "", 400, "Malformed request"),
        ("GET", "/v1/models/affine/versions/9", None, 404, "Could not find version 9 of model affine"),
        ("GET", "/v1/models/nosuch", None, 404, "Could not find any versions of model nosuch"),
    ],
)
def test_refusals(server: StoreServer, verb: str, path: str, body: str | None, status: int, phrase: str) -> None:
    answer = server.call(verb, path, None if body is None else body.encode())
    assert answer.status == status, answer
    assert list(answer.json) == ["error"]
    assert phrase in answer.json["error"]


def test_an_error_says_what_the_input_takes(server: StoreServer) -> None:
    answer = server.call("POST", "/v1/models/several:predict", {"signature_name": "text", "instances": [1]})
    assert "Input 'x' takes string[?]" in answer.json["error"]
    assert '{"b64": "..."}' in answer.json["error"]


def test_status_metadata_and_list(server: StoreServer) -> None:
    status = server.call("GET", "/v1/models/affine").json["model_version_status"]
    assert status == [{"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}]
    metadata = server.call("GET", "/v1/models/affine/metadata").json
    assert metadata["model_spec"] == {"name": "affine", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    names = [model["name"] for model in server.call("GET", "/v1/models").json["models"]]
    assert {"affine", "several", "echo"} <= set(names)
    assert names == sorted(names)


def test_metrics_page(server: StoreServer) -> None:
    line = ':tensorflow:serving:request_count{model_name="tf1",status="OK"} '

    def count() -> float:
        page = server.call("GET", "/monitoring/prometheus/metrics").body.decode()
        return next((float(text[len(line) :]) for text in page.splitlines() if text.startswith(line)), 0.0)

    before = count()
    server.predict("tf1", [1.0])
    assert count() == before + 1
    # Whatever is asked for, the page stays text that Prometheus reads.
    assert server.call("GET", "/v1/models/%ff%0a%22").status == 404
    assert (
        'model_name="?\\n\\"",status="NOT_FOUND"' in server.call("GET", "/monitoring/prometheus/metrics").body.decode()
    )


def test_every_dtype_comes_back(server: StoreServer) -> None:
    for dtype, values in (
        ("int64", [-(2**63), 2**63 - 1]),
        ("uint64", [0, 2**64 - 1]),
        ("int8", [-128, 127]),
        ("bool", [True, False]),
        ("string", ["é", ""]),
        ("float64", [0.1, 1e300]),
    ):
        body = json.dumps({"signature_name": dtype, "instances": values}).encode()
        assert server.call("POST", "/v1/models/echo:predict", body).json == {"predictions": values}


def test_tensors_of_many_dimensions(server: StoreServer) -> None:
    """TensorFlow's Python interface corrupts memory past 32 dimensions of strings: those are the most."""
    for rank, status in ((32, 200), (33, 400), (64, 400), (300, 400)):
        for dtype, value in (("string", '"x"'), ("float32", "1.5")):
            nested = "[" * rank + value + "]" * rank
            body = f'{{"signature_name": "{dtype}", "inputs": {nested}}}'.encode()
            answer = server.call("POST", "/v1/models/echo:predict", body)
            assert answer.status == status, answer
            if status == 200:
                assert answer.json == {"outputs": json.loads(nested)}


def test_messages_instead_of_json(server: StoreServer) -> None:
    """A PredictRequest as the body, on the same path: the answer is a PredictResponse, an error is JSON as ever."""

    def ask(message: predict_pb2.PredictRequest | bytes, path: str = "several") -> Answer:
        body = message if isinstance(message, bytes) else message.SerializeToString()
        return server.call(
            "POST", f"/v1/models/{path}:predict", body, {"Content-Type": "application/x-protobuf; charset=x"}
        )

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "the path says which model"
    request.inputs["a"].CopyFrom(tf.make_tensor_proto([2, 4], tf.int64))
    request.inputs["b"].CopyFrom(tf.make_tensor_proto([3, 5], tf.int64))
    answer = ask(request)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-protobuf"), answer
    reply = predict_pb2.PredictResponse.FromString(answer.body)
    assert reply.model_spec.name == "several" and reply.model_spec.version.value == 1
    assert sorted(reply.outputs) == ["label", "product", "raw_bytes"]
    assert tf.make_ndarray(reply.outputs["product"]).tolist() == [6, 20]
    assert tf.make_ndarray(reply.outputs["label"]).tolist() == [b"3", b"5"]
    request.output_filter.append("product")
    assert list(predict_pb2.PredictResponse.FromString(ask(request).body).outputs) == ["product"]
    del request.inputs["b"]
    for wrong, phrase in (
        (ask(request), "Missing but required: {b}"),
        (ask(b"\xff no message"), "no tensorflow.serving.PredictRequest"),
        (ask(request, "nosuch"), "Servable not found for request: Latest(nosuch)"),
    ):
        assert wrong.status == (404 if "nosuch" in phrase else 400), wrong
        assert wrong.headers["content-type"] == "application/json" and phrase in wrong.json["error"]

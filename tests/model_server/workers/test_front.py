"""A front and its workers: what goes over the wire is what one process says; the front itself has no TensorFlow."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import tensorflow as tf
from fronts import Front
from helpers import PATIENCE, StoreServer, publish, wait_for
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)


@pytest.fixture(scope="module")
def both(front: Front, server: StoreServer, models: Path) -> tuple[Front, StoreServer]:
    """A front, and one process, with the same models."""
    server.register(models / "examples" / "1", "examples", 1)
    for one in (front, server):
        with one.client() as client:
            client.set_labels("affine", {"stable": 1})
    return front, server


AFFINE, SEVERAL, EXAMPLES = "/v1/models/affine", "/v1/models/several", "/v1/models/examples"

ROWS = {"instances": [1.0, 2.0]}

REST: dict[str, tuple[str, str, Any, dict[str, str]]] = {
    "rows": ("POST", f"{AFFINE}:predict", ROWS, {}),
    "columns": ("POST", f"{AFFINE}:predict", {"inputs": [1.0, 2.0]}, {}),
    "version": ("POST", f"{AFFINE}/versions/1:predict", ROWS, {}),
    "label": ("POST", f"{AFFINE}/labels/stable:predict", ROWS, {}),
    "gzip": ("POST", f"{AFFINE}:predict", gzip.compress(json.dumps(ROWS).encode()), {"Content-Encoding": "gzip"}),
    "no gzip": ("POST", f"{AFFINE}:predict", b"nonsense", {"Content-Encoding": "gzip"}),
    "large": ("POST", f"{AFFINE}:predict", {"inputs": [float(i) for i in range(100_000)]}, {}),
    "several outputs": ("POST", f"{SEVERAL}:predict", {"instances": [{"a": 2, "b": 3}]}, {}),
    "signature": ("POST", f"{SEVERAL}:predict", {"signature_name": "matrix", "instances": [[1.0, 2.0]]}, {}),
    "classify": ("POST", f"{EXAMPLES}:classify", {"examples": [{"a": 1.0}, {"a": -1.0}]}, {}),
    "regress": ("POST", f"{EXAMPLES}:regress", {"signature_name": "regress", "examples": [{"a": 1.5}]}, {}),
    "no JSON": ("POST", f"{AFFINE}:predict", b'{"instances": [1.0', {}),
    "no JSON for no model": ("POST", "/v1/models/nosuch:predict", b'{"instances": [1.0', {}),
    "no model": ("POST", "/v1/models/nosuch:predict", ROWS, {}),
    "no version": ("POST", f"{AFFINE}/versions/7:predict", ROWS, {}),
    "no label": ("POST", f"{AFFINE}/labels/canary:predict", ROWS, {}),
    "no signature": ("POST", f"{AFFINE}:predict", {"signature_name": "nosuch", **ROWS}, {}),
    "wrong type": ("POST", f"{AFFINE}:predict", {"instances": ["a"]}, {}),
    "wrong shape": ("POST", f"{SEVERAL}:predict", {"signature_name": "matrix", "instances": [[1.0]]}, {}),
    "the graph fails": ("POST", f"{SEVERAL}:predict", {"signature_name": "fail", **ROWS}, {}),
    "no classes": ("POST", f"{AFFINE}:classify", {"examples": [{"a": 1.0}]}, {}),
    "no examples": ("POST", f"{EXAMPLES}:classify", {"examples": []}, {}),
    "empty": ("POST", f"{AFFINE}:predict", b"", {}),
    "metadata": ("GET", f"{SEVERAL}/metadata", None, {}),
    "status": ("GET", f"{AFFINE}/versions/1", None, {}),
    "no verb": ("POST", f"{AFFINE}:explain", ROWS, {}),
}


@pytest.mark.parametrize("name", REST)
def test_rest_is_the_same(both: tuple[Front, StoreServer], name: str) -> None:
    verb, path, body, headers = REST[name]
    front, server = (one.call(verb, path, body, headers) for one in both)
    assert front.status == server.status
    # The order of signatures is protobuf's, which differs from process to process.
    assert front.json == server.json if name == "metadata" else front.body == server.body
    for header in ("content-type", "retry-after", "content-length", "connection"):
        assert front.headers.get(header) == server.headers.get(header)


def test_rest_in_protobuf_is_the_same(both: tuple[Front, StoreServer]) -> None:
    request = predict_pb2.PredictRequest()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0], tf.float32))
    headers = {"Content-Type": "application/x-protobuf"}
    for body in (request.SerializeToString(), b"nonsense"):
        front, server = (one.call("POST", f"{AFFINE}:predict", body, headers) for one in both)
        assert (front.status, front.body) == (server.status, server.body)
    assert front.headers["content-type"] == server.headers["content-type"]


def _example(value: float) -> Any:
    example = tf.train.Example()
    example.features.feature["a"].float_list.value.append(value)
    return example


def _requests() -> Iterator[tuple[str, str, Any]]:
    def predict(model: str, signature: str = "", **spec: Any) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        if "version" in spec:
            request.model_spec.version.value = spec["version"]
        if "label" in spec:
            request.model_spec.version_label = spec["label"]
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0], tf.float32))
        return request

    yield "plain", "Predict", predict("affine")
    yield "version", "Predict", predict("affine", version=1)
    yield "label", "Predict", predict("affine", label="stable")
    yield "no version", "Predict", predict("affine", version=9)
    yield "no label", "Predict", predict("affine", label="canary")
    yield "no model", "Predict", predict("nosuch")
    yield "no name", "Predict", predict("")
    yield "no spec", "Predict", predict_pb2.PredictRequest()
    yield "no signature", "Predict", predict("affine", "nosuch")
    yield "the graph fails", "Predict", predict("several", "fail")
    missing = predict("several")
    yield "inputs missing", "Predict", missing
    for method, kind in (
        ("Classify", classification_pb2.ClassificationRequest),
        ("Regress", regression_pb2.RegressionRequest),
    ):
        request = kind()
        request.model_spec.name = "examples"
        request.model_spec.signature_name = "regress" if method == "Regress" else ""
        request.input.example_list.examples.append(_example(1.5))
        yield method, method, request
        nosuch = kind()
        nosuch.CopyFrom(request)
        nosuch.model_spec.name = "nosuch"
        yield f"{method}, no model", method, nosuch
    multi = inference_pb2.MultiInferenceRequest()
    multi.input.example_list.examples.append(_example(1.5))
    for signature, method in (("", "classify"), ("regress", "regress")):
        task = multi.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "examples", signature
    yield "MultiInference", "MultiInference", multi
    twice = inference_pb2.MultiInferenceRequest()
    twice.CopyFrom(multi)
    twice.tasks[1].CopyFrom(twice.tasks[0])
    yield "MultiInference, twice the same", "MultiInference", twice
    yield "MultiInference, nothing", "MultiInference", inference_pb2.MultiInferenceRequest()
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "several"
    yield "GetModelMetadata", "GetModelMetadata", metadata


RPC = {name: (method, request) for name, method, request in _requests()}


@pytest.mark.parametrize("name", RPC)
def test_grpc_is_the_same(both: tuple[Front, StoreServer], name: str) -> None:
    method, request = RPC[name]
    outcomes = []
    for one in both:
        with grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            try:
                outcomes.append(("OK", getattr(stub, method)(request, timeout=PATIENCE)))
            except grpc.RpcError as error:
                outcomes.append((error.code(), error.details()))
    if method == "GetModelMetadata":  # packed with its signatures in whatever order
        packed = [reply.metadata["signature_def"].value for _, reply in outcomes]
        outcomes = [get_model_metadata_pb2.SignatureDefMap.FromString(content) for content in packed]
    assert outcomes[0] == outcomes[1]


def test_the_front_has_no_tensorflow_and_starts_at_once(front: Front, tmp_path: Path) -> None:
    mapped = Path(f"/proc/{front.process.pid}/maps").read_text()
    assert "pygrpc" in mapped and "tensorflow" not in mapped
    empty = Front(tmp_path / "empty")
    try:
        empty.wait_until_ready()
        process = psutil.Process(empty.process.pid)
        times = process.cpu_times()
        assert process.children() == []
    finally:
        empty.close()
    # Seconds of a core, whatever else the machine does: 0.5 or so; TensorFlow's import alone takes 3.
    assert times.user + times.system < 1.5


def test_the_status_tells_of_devices_and_processes(front: Front) -> None:
    workers = front.wait_workers("cpu")
    assert workers["cpu"]["models"] == ["affine", "examples", "several"]
    assert psutil.Process(workers["cpu"]["pid"]).ppid() == front.process.pid
    status = front.status("several")
    assert [version["devices"] for version in status["versions"]] == [["cpu"]]
    assert status["placement"] == {
        "device": "cpu",
        "replicas": 1,
        "memory_limit": None,
        "moving_to": "",
        "error": "",
    }
    assert status["signatures"]["matrix"]["inputs"] == {"x": {"dtype": "float32", "shape": [-1, 2]}}
    with front.client() as client:
        listed = client.devices()
        log = client.logs(process="cpu")
    assert listed["notice"] == "No NVIDIA driver is installed on this machine."
    assert [(device["id"], device["models"]) for device in listed["devices"]] == [
        ("cpu", ["affine", "examples", "several"]),
        ("cpu:1", []),
        ("cpu:2", []),
    ]
    assert "Loading version 1 of several" in log


def test_batching_is_the_workers(front: Front) -> None:
    with front.client() as client:
        status = client.set_batching("several", {"mode": "auto"})
        assert status["batching"]["mode"] == "auto"
        assert status["batching"]["signatures"]["matrix"] == ""  # the worker's probe has passed
        assert status["batching"]["signatures"]["scalar"] != ""
        status = client.set_batching("several", {"mode": "on", "max_batch_size": 2})
    assert status["batching"]["max_batch_size"] == 2
    body = {"signature_name": "matrix", "instances": [[1.0, 2.0]] * 3}
    assert "larger than maximum input batch size 2" in front.call("POST", f"{SEVERAL}:predict", body).json["error"]
    with front.client() as client:
        client.set_batching("several", {"mode": None, "max_batch_size": None})


def test_metrics_are_those_of_all_processes(front: Front) -> None:
    def value(sample: str) -> float:
        page = front.call("GET", "/monitoring/prometheus/metrics").body.decode()
        match = re.search(rf"^{re.escape(sample)} (\S+)$", page, re.MULTILINE)
        return float(match[1]) if match else 0.0

    counted = {
        ':tensorflow:serving:request_count{model_name="several",status="OK"}': 2,
        ':tensorflow:serving:request_count{model_name="several",status="INVALID_ARGUMENT"}': 1,
        ':tensorflow:serving:request_latency_count{model_name="several",API="predict",entrypoint="REST"}': 2,
        ':tensorflow:serving:runtime_latency_count{model_name="several",API="Predict",runtime="TF1"}': 2,
        'jupyter_tfserve_run_microseconds_count{model_name="several",version="1",signature="matrix"}': 2,
    }
    before = {sample: value(sample) for sample in counted}
    good = {"signature_name": "matrix", "instances": [[1.0, 2.0]]}
    for body in (good, good, {"signature_name": "nosuch", "instances": [1]}):
        front.call("POST", f"{SEVERAL}:predict", body)
    assert {sample: value(sample) - before[sample] for sample in counted} == counted


def test_deadlines_go_on_to_the_worker(front: Front, models: Path, tmp_path: Path) -> None:
    front.register(models / "gated" / "1", "gated", 1, placement={"device": "cpu"})
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "gated"
    request.inputs["gate"].CopyFrom(tf.make_tensor_proto(str(tmp_path / "gate")))
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as late:
        front.stub.Predict(request, timeout=1.0)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 3.0
    wait_for("nothing to be in flight", lambda: front.status("gated")["versions"][0]["in_flight"] == 0)


def test_requests_are_logged(front: Front, models: Path, tmp_path: Path) -> None:
    publish(models / "affine" / "1", front.store / "logged", 1)
    with front.client() as client:
        client.register("logged", {})
        client.model("logged", wait=1, timeout=PATIENCE)
        assert front.predict("logged", [1.0]) == [2.0]
        text = client.config().replace(
            'name: "logged"',
            'name: "logged" logging_config { sampling_config { sampling_rate: 1.0 } '
            f'log_collector_config {{ filename_prefix: "{tmp_path}/log" }} }}',
        )
        client.set_config(text)

    def logged() -> list[Path]:
        front.predict("logged", [1.0])
        return [file for file in tmp_path.glob("log-*") if file.stat().st_size]

    wait_for("a logged request", logged)


def test_the_samples_tell_of_the_runs_in_workers(front: Front) -> None:
    """Requests are counted here, batches and waits where they run."""
    with front.client() as client:
        client.set_batching("affine", {"mode": "on"})
        for _ in range(5):
            client.predict("affine", {"instances": [1.0, 2.0, 3.0]})

        def runs() -> int:
            told = [sample for sample in client.stats()["samples"].get("affine", []) if sample is not None]
            return sum(sample["batch_sizes"].get("4", 0) for sample in told if sample["queue_ms"] is not None)

        wait_for("five runs of up to four rows", lambda: runs() >= 5, 10)

"""Bearers with grants on the model server's own ports: for their models, within their limits, until revoked."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from helpers import PATIENCE, StoreServer, wait_for
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from jupyter_tfserve.grants import Grant
from jupyter_tfserve.model_server.auth import Bearers
from jupyter_tfserve.model_server.errors import Code, ServingError
from jupyter_tfserve.store import write_atomically

BODY = {"instances": [1.0]}


def line(bearer: str, **grant: Any) -> str:
    return json.dumps({"sha256": hashlib.sha256(bearer.encode()).hexdigest(), "id": bearer, **grant})


def headers(bearer: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {bearer}"}


GRANTS = (
    hashlib.sha256(b"owner").hexdigest(),
    line("one", models=["affine"]),
    line("every", models=None),
    line("version", models=["affine"], versions=[1]),
    line("label", models=["affine"], labels=["stable"]),
    line("expired", models=["affine"], expires=time.time() - 1),
    line("slow", models=["affine"], rate=0.001),
    line("narrow", models=["gated"], concurrency=1),
)


@pytest.fixture
def shared(start_store: Callable[..., StoreServer], models: Path, tmp_path: Path) -> StoreServer:
    """A server whose ports ask for a bearer; `tmp_path/bearers` is the file."""
    write_atomically(tmp_path / "bearers", "\n".join(GRANTS))
    one = start_store(f"--bearer_hashes_file={tmp_path / 'bearers'}")
    one.wait_until_ready()
    for name in ("affine", "echo", "gated"):
        one.register(models / name / "1", name, 1)
    one.register(models / "affine" / "2", "affine", 2)
    with one.client() as client:
        client.set_policy("affine", {"all": {}})
        assert client.model("affine", wait=1, timeout=PATIENCE)["versions"][1]["state"] == "AVAILABLE"
        client.set_labels("affine", {"stable": 1})
    return one


def predict(model: str, version: int = 0, label: str = "") -> predict_pb2.PredictRequest:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = model
    if version:
        message.model_spec.version.value = version
    if label:
        message.model_spec.version_label = label
    message.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    return message


def test_grants_hold_on_both_ports(shared: StoreServer, models: Path, tmp_path: Path) -> None:
    def rest(bearer: str, verb: str, path: str) -> int:
        return shared.call(verb, path, BODY if verb == "POST" else None, headers(bearer)).status

    for bearer, verb, path, status in (
        ("one", "POST", "/v1/models/affine:predict", 200),
        ("one", "POST", "/v1/models/aff%69ne/versions/1:predict", 200),
        ("one", "GET", "/v1/models/affine", 200),
        ("one", "GET", "/v1/models/affine/metadata", 200),
        ("one", "GET", "/v1/models/echo", 403),
        ("one", "GET", "/v1/models/echo/metadata", 403),
        ("one", "POST", "/v1/models/echo:predict", 403),
        ("one", "POST", "/v1/models/nothing:predict", 403),
        ("one", "GET", "/v1/models", 403),
        ("one", "GET", "/v1/models/", 403),
        ("one", "GET", "/monitoring/prometheus/metrics", 403),
        ("one", "GET", "/api/state", 403),
        ("one", "GET", "http://x/v1/models", 403),
        ("one", "POST", "/v1/models/affine:predict?x", 403),
        ("one", "POST", "/v1/models/affine%3Apredict/../../echo:predict", 403),
        ("every", "GET", "/v1/models", 200),
        ("every", "GET", "/v1/models/echo", 200),
        ("every", "GET", "/monitoring/prometheus/metrics", 403),
        ("version", "POST", "/v1/models/affine/versions/1:predict", 200),
        ("version", "POST", "/v1/models/affine/versions/01:predict", 200),
        ("version", "POST", "/v1/models/affine/versions/2:predict", 403),
        ("version", "POST", "/v1/models/affine/labels/stable:predict", 403),
        ("version", "POST", "/v1/models/affine:predict", 403),
        ("version", "GET", "/v1/models/affine/versions/1", 200),
        ("version", "GET", "/v1/models/affine", 403),
        ("label", "POST", "/v1/models/affine/labels/stable:predict", 200),
        ("label", "POST", "/v1/models/affine/labels/other:predict", 403),
        ("label", "POST", "/v1/models/affine/versions/1:predict", 403),
        ("label", "GET", "/v1/models/affine/labels/stable/metadata", 200),
        ("label", "GET", "/v1/models/affine/labels/stable", 403),
        ("expired", "POST", "/v1/models/affine:predict", 401),
        ("unknown", "POST", "/v1/models/affine:predict", 401),
        ("owner", "GET", "/monitoring/prometheus/metrics", 200),
    ):
        assert rest(bearer, verb, path) == status, (bearer, verb, path)
    assert shared.call("GET", "/v1/models/affine", headers={"Authorization": "Basic one"}).status == 401

    ok, denied = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
    status = get_model_status_pb2.GetModelStatusRequest()
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    for message in (status, metadata):
        message.model_spec.name = "affine"
    tasks = inference_pb2.MultiInferenceRequest()
    for name in ("affine", "echo"):
        tasks.tasks.add().model_spec.name = name
    # What is merged counts: the name that comes last.
    twice = predict("affine").SerializeToString() + b"\x0a\x06" + predict("echo").model_spec.SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{shared.grpc_port}") as channel:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        model = model_service_pb2_grpc.ModelServiceStub(channel)
        raw = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

        def code(call: Any, request: Any, bearer: str) -> grpc.StatusCode:
            try:
                call(request, timeout=PATIENCE, metadata=(("authorization", f"Bearer {bearer}"),))
            except grpc.RpcError as error:
                return error.code()
            return ok

        for call, request, bearer, expected in (
            (prediction.Predict, predict("affine"), "one", ok),
            (prediction.Predict, predict("echo"), "one", denied),
            (prediction.Predict, predict_pb2.PredictRequest(), "one", denied),
            (raw, twice, "one", denied),
            (raw, b"\x0a", "one", grpc.StatusCode.INVALID_ARGUMENT),
            (raw, b"\x0b\x0c", "one", grpc.StatusCode.INVALID_ARGUMENT),
            (prediction.MultiInference, tasks, "one", denied),
            (prediction.Predict, predict("affine", version=1), "version", ok),
            (prediction.Predict, predict("affine", version=2), "version", denied),
            (prediction.Predict, predict("affine"), "version", denied),
            (prediction.Predict, predict("affine", label="stable"), "label", ok),
            (model.GetModelStatus, status, "one", ok),
            (model.GetModelStatus, status, "label", denied),
            (prediction.GetModelMetadata, metadata, "one", ok),
            (model.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest(), "every", denied),
            (prediction.Predict, predict("affine"), "expired", grpc.StatusCode.UNAUTHENTICATED),
            (prediction.Predict, predict("affine"), "unknown", grpc.StatusCode.UNAUTHENTICATED),
            (prediction.Predict, predict("echo", 7), "owner", grpc.StatusCode.NOT_FOUND),
        ):
            assert code(call, request, bearer) is expected, (request, bearer)
        inside = grpc.intercept_channel(channel, _Shows("every"))
        with pytest.raises(grpc.RpcError) as refused:
            ProtoReflectionDescriptorDatabase(inside).get_services()
        assert refused.value.code() is denied

    # Limits.
    assert rest("slow", "POST", "/v1/models/affine:predict") == 200
    answer = shared.call("POST", "/v1/models/affine:predict", BODY, headers("slow"))
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        gate = tmp_path / "gate"
        waiting = pool.submit(shared.call, "POST", "/v1/models/gated:predict", {"inputs": str(gate)}, headers("narrow"))
        wait_for("the request to run", (tmp_path / "gate.waits").exists)
        assert rest("narrow", "GET", "/v1/models/gated") == 429
        gate.touch()
        assert waiting.result().status == 200
    assert rest("narrow", "GET", "/v1/models/gated") == 200

    # Revoked.
    write_atomically(tmp_path / "bearers", "\n".join(entry for entry in GRANTS if '"one"' not in entry))
    began = time.monotonic()
    wait_for("the bearer to be refused", lambda: rest("one", "GET", "/v1/models/affine") == 401, 10)
    assert time.monotonic() - began < 5  # 0.25 s where nothing else runs
    os.unlink(tmp_path / "bearers")
    wait_for("nobody to be let in", lambda: rest("owner", "GET", "/v1/models/affine") == 401)
    assert "cannot be read" in shared.said() and "Traceback" not in shared.said()


class _Shows(grpc.StreamStreamClientInterceptor):  # type: ignore[misc]
    """Sends a bearer with streams, as reflection is one."""

    def __init__(self, bearer: str) -> None:
        self._metadata = (("authorization", f"Bearer {bearer}"),)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), requests)


def test_rate_is_a_bucket_that_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bearers, grant = Bearers(), Grant("x", None, rate=2.0)

    def admitted() -> bool:
        try:
            bearers.enter(grant)
        except ServingError as error:
            assert error.code is Code.RESOURCE_EXHAUSTED
            return False
        bearers.leave(grant)
        return True

    assert [admitted() for _ in range(3)] == [True, True, False]
    now += 0.5
    assert [admitted() for _ in range(2)] == [True, False]
    now += 100
    assert [admitted() for _ in range(3)] == [True, True, False]


def test_a_grant_survives_its_json() -> None:
    for grant in (
        Grant("a", None),
        Grant("b", ()),
        Grant("c", ("m", "n"), (1, 2), ("l",), 17.5, 0.5, 3),
    ):
        assert Grant.from_json(json.loads(grant.to_json())) == grant
    assert Grant("b", ()).refusal("m", None, "")

"""Bearers with grants on the model server's own ports: for their models, within their limits, until revoked."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
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


@pytest.fixture(params=["auto", "always"], ids=["one process", "front and worker"])
def shared(
    start_store: Callable[..., StoreServer], models: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> StoreServer:
    """A server whose ports ask for a bearer; `tmp_path/bearers` is the file."""
    write_atomically(tmp_path / "bearers", "\n".join(GRANTS))
    one = start_store(f"--bearer_hashes_file={tmp_path / 'bearers'}", f"--workers={request.param}")
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


class Owner(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers whose a bearer is, as the Jupyter Server on a Hub does; notes what it was asked."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Answers)
        self.asked: collections.Counter[str] = collections.Counter()
        self.held = threading.Event()  #: no answers until it is set
        self.held.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Answers(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        owner = self.server
        assert isinstance(owner, Owner)
        bearer = json.loads(self.rfile.readline())["bearer"]
        owner.asked[bearer] += 1
        owner.held.wait(PATIENCE)
        said: dict[str, Any] = {"refused": 401, "message": "The JupyterHub does not know this token, or no longer."}
        if bearer == "colleague":
            said = {"grant": {"id": "hub bob", "models": ["affine"]}}
        elif bearer == "scopeless":
            said = {"refused": 403, "message": "Its token lacks the scope."}
        elif bearer == "hubless":
            said = {"refused": 503, "message": "The JupyterHub does not answer; try again."}
        with contextlib.suppress(OSError):  # who asked has given up
            self.wfile.write(json.dumps(said).encode() + b"\n")


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    with Owner(tmp_path / "callers") as one:
        yield one
        one.held.set()
        one.shutdown()


@pytest.fixture
def asking(start_store: Callable[..., StoreServer], models: Path, tmp_path: Path) -> Callable[..., StoreServer]:
    """Starts a server whose ports ask `owner` about bearers that `tmp_path/bearers` does not have."""

    def begin(*flags: str) -> StoreServer:
        write_atomically(tmp_path / "bearers", "\n".join(GRANTS))
        files = (f"--bearer_hashes_file={tmp_path / 'bearers'}", f"--callers_socket={tmp_path / 'callers'}")
        one = start_store(*files, *flags)
        one.wait_until_ready()
        for name in ("affine", "echo"):
            one.register(models / name / "1", name, 1)
        return one

    return begin


def ask_rest(server: StoreServer, bearer: str, model: str = "affine") -> int:
    return server.call("POST", f"/v1/models/{model}:predict", BODY, headers(bearer)).status


def ask_grpc(channel: grpc.Channel, bearer: str, model: str = "affine") -> grpc.StatusCode:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    try:
        stub.Predict(predict(model), timeout=PATIENCE, metadata=(("authorization", f"Bearer {bearer}"),))
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_strangers_are_asked_about_once(
    asking: Callable[..., StoreServer], owner: Owner, tmp_path: Path, transport: str
) -> None:
    one = asking(f"--grpc_transport={transport}")
    codes = grpc.StatusCode
    with (
        grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        # At once, over both ports: one question.
        owner.held.clear()
        rest = [pool.submit(ask_rest, one, "colleague") for _ in range(4)]
        rpc = [pool.submit(ask_grpc, channel, "colleague") for _ in range(4)]
        wait_for("the question", lambda: owner.asked["colleague"] > 0)
        assert ask_rest(one, "owner") == 200  # nobody else waits
        assert ask_grpc(channel, "one") is codes.OK
        owner.held.set()
        assert [future.result() for future in rest] == [200] * 4
        assert [future.result() for future in rpc] == [codes.OK] * 4
        assert (ask_rest(one, "colleague", "echo"), ask_grpc(channel, "colleague", "echo")) == (
            403,
            codes.PERMISSION_DENIED,
        )
        assert owner.asked["colleague"] == 1

        for bearer, status, code in (
            ("wrong", 401, codes.UNAUTHENTICATED),
            ("scopeless", 403, codes.PERMISSION_DENIED),
        ):
            assert [ask_grpc(channel, bearer), ask_rest(one, bearer), ask_grpc(channel, bearer)] == [code, status, code]
            assert owner.asked[bearer] == 1
        # What nobody could say is asked again; what is no token is not asked about, nor what the file has.
        assert (ask_grpc(channel, "hubless"), ask_rest(one, "hubless")) == (codes.UNAVAILABLE, 503)
        assert ask_rest(one, "no token") == ask_rest(one, "x" * 600) == ask_rest(one, "expired") == 401
        assert dict(owner.asked) == {"colleague": 1, "wrong": 1, "scopeless": 1, "hubless": 2}

        # It is forgotten when what others may do has changed.
        write_atomically(tmp_path / "bearers", "\n".join(GRANTS))

        def asked_again() -> bool:
            assert ask_grpc(channel, "colleague") is codes.OK
            return owner.asked["colleague"] == 2

        wait_for("the bearer to be asked about again", asked_again)
        inside = grpc.intercept_channel(channel, _Shows("another"))
        with pytest.raises(grpc.RpcError) as refused:
            ProtoReflectionDescriptorDatabase(inside).get_services()
        assert refused.value.code() is codes.PERMISSION_DENIED
    assert "colleague" not in one.said() and "wrong" not in one.said()


def test_without_an_answer_strangers_are_not_let_in(asking: Callable[..., StoreServer], owner: Owner) -> None:
    one = asking()
    with grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel:
        owner.held.clear()
        began = time.monotonic()
        answer = one.call("POST", "/v1/models/affine:predict", BODY, headers("colleague"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert ask_grpc(channel, "colleague") is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - began < 15  # twice 2 s where nothing else runs
        owner.held.set()
        assert ask_rest(one, "colleague") == 200
        owner.shutdown()
        owner.server_close()
        assert ask_rest(one, "colleague") == 200  # remembered
        assert (ask_rest(one, "scopeless"), ask_rest(one, "owner")) == (503, 200)
        assert ask_grpc(channel, "scopeless") is grpc.StatusCode.UNAVAILABLE
    assert "Traceback" not in one.said() and "colleague" not in one.said()


def test_a_flood_of_wrong_bearers(asking: Callable[..., StoreServer], owner: Owner) -> None:
    """It costs those who are known nothing, and is told in few events."""
    one = asking()
    flood = 1500
    with Follows(one) as follows, concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert ask_rest(one, "colleague") == 200
        began = time.monotonic()
        answers = collections.Counter(
            pool.map(lambda i: ask_rest(one, f"wrong-{i:04}", f"model-{i % 40}"), range(flood))
        )
        took = time.monotonic() - began
        assert set(answers) <= {401, 503} and answers.total() == flood
        assert ask_rest(one, "colleague") == 200
        # One question more than the first at most: pushed out of memory it would have been, by 1500.
        assert owner.asked["colleague"] <= 1 + took // 25
        assert ask_rest(one, "colleague", "echo") == 403
        wait_for("the last event", lambda: any(event["grant"] == "hub bob" for event in follows.refusals()))
        told = follows.refusals()
        # Of strangers eight a second, and what is left of each status.
        assert len(told) <= 10 * (took + 3) + 1
        assert sum(event["count"] for event in told) == flood + 1
        assert sum(event["count"] for event in told if event["status"] == 403) == 1
        assert [event["model"] for event in told if event["grant"]] == ["echo"]
        assert {event["port"] for event in told} == {"rest"}
        assert "wrong-" not in json.dumps(told) and "instances" not in json.dumps(told)

        with grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel:
            assert ask_grpc(channel, "wrong", "nothing") is grpc.StatusCode.UNAUTHENTICATED
            assert ask_grpc(channel, "expired") is grpc.StatusCode.UNAUTHENTICATED

        def of_grpc() -> set[tuple[int, str, str]]:
            found = [event for event in follows.refusals() if event["port"] == "grpc"]
            return {(event["status"], event["grant"], event["model"]) for event in found}

        wait_for("those of gRPC", lambda: of_grpc() == {(401, "", "nothing"), (401, "expired", "affine")})


class Follows:
    """The event stream of a model server, read in a thread."""

    def __init__(self, server: StoreServer) -> None:
        self._events: list[dict[str, Any]] = []
        transport = httpx.HTTPTransport(uds=str(server.socket))
        self._http = httpx.Client(transport=transport, timeout=PATIENCE, base_url="http://model-server")
        self._connected = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        assert self._connected.wait(PATIENCE)

    def __enter__(self) -> Follows:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def refusals(self) -> list[dict[str, Any]]:
        return [event for event in list(self._events) if event["type"] == "refusal"]

    def _read(self) -> None:
        with contextlib.suppress(httpx.HTTPError, OSError), self._http.stream("GET", "/api/events") as answer:
            for text in answer.iter_lines():
                self._connected.set()
                if text.startswith("data: "):
                    self._events.append(json.loads(text[6:]))


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

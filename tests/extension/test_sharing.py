"""Shares without a Hub: access keys, what they open and what they do not, through Jupyter and on the direct ports."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from grpc_web import PREDICT, grpc_web
from helpers import PATIENCE, Answer, call, wait_for
from jupyter_process import JupyterServer
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tunnelled import Tunnelled
from walk import reached, table

from jupyter_tfserve.api import NewShare
from jupyter_tfserve.client import TFServeError

Start = Callable[..., JupyterServer]

BODY = {"instances": [1.0]}


@pytest.fixture(scope="module")
def shared(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """A Jupyter Server with JupyterLab and all that comes with it; it serves two models."""
    home = tmp_path_factory.mktemp("shared")
    one = JupyterServer(
        home,
        "--ServerApp.allow_unauthenticated_access=False",
        base_url="/user/owner/",
        extensions={"jupyterlab": True, "jupyter_lsp": True, "route_table": True},
        env={"ROUTE_TABLE": str(home / "routes.json"), **with_tests_on_the_path()},
    )
    try:
        one.wait_until_ready()
        one.register(models / "affine" / "1", "affine")
        one.register(models / "echo" / "1", "echo")
        yield one
    finally:
        one.close()


def with_tests_on_the_path() -> dict[str, str]:
    here = Path(__file__).parents[1]
    return {"PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def share(server: JupyterServer, *models: str, **request: Any) -> NewShare:
    with contextlib.closing(server.client()) as client:
        return client.share({"models": list(models), **request})  # type: ignore[typeddict-item]


def unshare(server: JupyterServer, made: NewShare) -> None:
    with contextlib.closing(server.client()) as client:
        client.unshare(made["share"]["id"])


def predict(model: str) -> predict_pb2.PredictRequest:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = model
    message.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    return message


def through(server: JupyterServer, model: str, headers: dict[str, str]) -> int:
    return server.call("POST", f"/tfserve/v1/models/{model}:predict", BODY, headers).status


def direct(server: JupyterServer, model: str, headers: dict[str, str]) -> int:
    info = server.info()
    assert info["rest_port"]
    return call(info["rest_port"], "POST", f"/v1/models/{model}:predict", BODY, headers).status


def web(server: JupyterServer, model: str, headers: dict[str, str], text: bool = False) -> int:
    def post(path: str, body: bytes, more: dict[str, str]) -> Answer:
        return server.call("POST", "/tfserve" + path, body, more)

    reply, status, _ = grpc_web(post, PREDICT, predict(model).SerializeToString(), headers, text)
    if status == 0:
        assert tf.make_ndarray(predict_pb2.PredictResponse.FromString(reply).outputs["y"]).tolist() == [2.0]
    return status


def test_a_key_predicts_with_its_model_everywhere_until_it_is_revoked(shared: JupyterServer) -> None:
    made = share(shared, "affine", note="for Ann")
    key = bearer(made["key"])
    assert made["share"]["kind"] == "key" and made["share"]["last_used"] is None
    assert [through(shared, name, key) for name in ("affine", "echo", "nothing")] == [200, 403, 403]
    wait_for("the direct port to know it", lambda: direct(shared, "affine", key) == 200)
    assert direct(shared, "echo", key) == 403
    for text in (False, True):
        assert [web(shared, name, key, text) for name in ("affine", "echo")] == [0, 7]
    for path, status in (
        ("/v1/models/affine", 200),
        ("/v1/models/affine/metadata", 200),
        ("/v1/models/echo", 403),
        ("/v1/models/echo/metadata", 403),
        ("/v1/models", 403),
        ("/v1/", 403),
        (f"/v1/models/affine?token={made['key']}", 401),
    ):
        assert shared.call("GET", "/tfserve" + path, headers=key).status == status, path
    assert shared.call("GET", f"/tfserve/v1/models/affine?token={made['key']}", headers={}).status == 401

    with contextlib.closing(shared.client()) as client:
        listed = next(one for one in client.shares()["shares"] if one["id"] == made["share"]["id"])
        assert listed["note"] == "for Ann" and listed["last_used"] is not None
        assert made["key"] not in json.dumps(client.shares())
        assert client.shares()["kinds"] == ["key"]
    unshare(shared, made)
    assert through(shared, "affine", key) == 401
    assert shared.call("POST", "/tfserve" + PREDICT, b"", key).status == 401
    wait_for("the direct port to refuse it", lambda: direct(shared, "affine", key) == 401, 5)


def test_versions_labels_limits_and_expiry(shared: JupyterServer) -> None:
    version = bearer(share(shared, "affine", versions=[1])["key"])
    for path, status in (("/versions/1", 200), ("/versions/2", 403), ("", 403), ("/labels/stable", 403)):
        assert through(shared, f"affine{path}", version) == status, path
    slow = share(shared, "affine", rate=0.001)
    assert [through(shared, "affine", bearer(slow["key"])) for _ in range(2)] == [200, 429]
    # The port and Jupyter count together.
    wait_for("the direct port to know it", lambda: direct(shared, "affine", bearer(slow["key"])) != 401)
    assert direct(shared, "affine", bearer(slow["key"])) == 429
    brief = share(shared, "affine", expires_in=1.0)
    wait_for("it to expire", lambda: time.time() > (brief["share"]["expires"] or 0))
    answer = shared.call("POST", "/tfserve/v1/models/affine:predict", BODY, bearer(brief["key"]))
    assert (answer.status, "expired" in answer.json["error"]) == (401, True)


@pytest.mark.parametrize("kind", ["none", "wrong", "expired", "another model's", "right"])
def test_a_walk_of_the_whole_route_table(shared: JupyterServer, kind: str) -> None:
    """Whatever the bearer, predictions apart nothing answers."""
    headers: dict[str, str] = {}
    if kind == "wrong":
        headers = bearer("tfserve_" + "x" * 43)
    elif kind != "none":
        made = share(
            shared, "echo" if kind == "another model's" else "affine", expires_in=1.0 if kind == "expired" else 60
        )
        headers = bearer(made["key"])
        if kind == "expired":
            wait_for("it to expire", lambda: time.time() > (made["share"]["expires"] or 0))
    routes = table(shared.folder / "routes.json")

    def ask(verb: str, path: str, limit: float) -> Answer:
        answer = call(shared.port, verb, path, b"{}" if verb in ("POST", "PUT", "PATCH") else None, headers, limit)
        if answer.status == 302 and "/login" in answer.headers["location"]:
            return Answer(401, answer.headers, answer.body)  # a page for people: sent to the login
        return answer

    found = reached(routes, ask, shared.base_url)
    assert not found, "\n".join(found)
    expected = {"right": 200, "another model's": 403}.get(kind, 401)
    assert through(shared, "affine", headers) == expected
    answer = shared.call("GET", "/tfserve/grpc-tunnel", headers=headers)
    assert answer.status == (400 if kind in ("right", "another model's") else 401)  # 400: no websocket was asked for


@pytest.mark.parametrize(
    ("request_", "phrase"),
    [
        ({}, "'models' is a list"),
        ({"models": []}, "'models' is a list"),
        ({"models": ["../x"]}, "cannot be the name"),
        ({"models": ["m"], "kind": "all"}, "no kind of share"),
        ({"models": ["m"], "expires_in": 0}, "'expires_in' is a number"),
        ({"models": ["m"], "rate": True}, "'rate' is a number"),
        ({"models": ["m"], "concurrency": 1.5}, "'concurrency' is a whole number"),
        ({"models": ["m"], "versions": ["1"]}, "'versions' is a list"),
        ({"models": ["m"], "labels": [""]}, "'labels' is a list"),
        ({"models": ["m"], "kind": "user"}, "names them"),
        ({"models": ["m"], "user": "ann"}, "not started by a JupyterHub"),
        ({"models": ["m"], "admin": True}, "has no 'admin'"),
    ],
)
def test_what_cannot_be_shared(shared: JupyterServer, request_: dict[str, Any], phrase: str) -> None:
    answer = shared.call("POST", "/tfserve/api/shares", request_)
    assert answer.status in (400, 409)
    assert phrase in answer.json["message"], answer
    assert answer.json["remedy"] or "is a" in phrase or "no kind" in phrase or "them" in phrase
    assert shared.call("DELETE", "/tfserve/api/shares/0").status == 404


def test_the_file_of_shares(shared: JupyterServer) -> None:
    made = share(shared, "affine")
    file = shared.store / ".shares.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made["key"] not in file.read_text()
    # Another Jupyter Server of the same user revokes it: its removal from the file is enough.
    kept = [record for record in json.loads(file.read_text()) if record["id"] != made["share"]["id"]]
    file.write_text(json.dumps(kept))
    wait_for("it to be refused", lambda: through(shared, "affine", bearer(made["key"])) == 401, 10)
    wait_for("the port to refuse it", lambda: direct(shared, "affine", bearer(made["key"])) == 401, 10)


def test_keys_can_be_turned_off(start_jupyter: Start, models: Path) -> None:
    one = start_jupyter()
    one.register(models / "affine" / "1", "affine")
    made = share(one, "affine")
    assert through(one, "affine", bearer(made["key"])) == 200
    one.end()
    one = start_jupyter("--TFServe.allow_access_keys=False")
    one.wait_running()
    assert through(one, "affine", bearer(made["key"])) == 401
    assert direct(one, "affine", bearer(made["key"])) == 401
    with pytest.raises(TFServeError) as refused:
        share(one, "affine")
    assert refused.value.status == 403 and "allow_access_keys" in str(refused.value)
    with contextlib.closing(one.client()) as client:
        assert client.shares()["kinds"] == []


def test_stock_grpc_clients_through_the_tunnel(shared: JupyterServer) -> None:
    made = share(shared, "affine")
    url = f"http://127.0.0.1:{shared.port}{shared.base_url}tfserve/v1/models/affine"
    with Tunnelled(url, made["key"]) as tunnel, tunnel.channel() as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        calls = [stub.Predict.future(predict("affine"), timeout=PATIENCE) for _ in range(200)]
        for one in calls:
            assert tf.make_ndarray(one.result().outputs["y"]).tolist() == [2.0]
        large = predict("affine")
        large.inputs["x"].CopyFrom(tf.make_tensor_proto(tf.zeros([5_000_000])))  # 20 MB: past every default limit
        assert len(tf.make_ndarray(stub.Predict(large, timeout=PATIENCE).outputs["y"])) == 5_000_000
        asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        asked.model_spec.name = "affine"
        assert stub.GetModelMetadata(asked, timeout=PATIENCE).model_spec.version.value == 1
        model = model_service_pb2_grpc.ModelServiceStub(channel)
        for attempt, code in (
            (lambda: stub.Predict(predict("echo"), timeout=PATIENCE), grpc.StatusCode.PERMISSION_DENIED),
            (
                lambda: model.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), timeout=PATIENCE),
                grpc.StatusCode.PERMISSION_DENIED,
            ),
            (
                lambda: channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=PATIENCE),
                grpc.StatusCode.UNIMPLEMENTED,
            ),
            (lambda: stub.Predict(predict("affine"), timeout=1e-6), grpc.StatusCode.DEADLINE_EXCEEDED),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                attempt()
            assert refused.value.code() is code
        # Revoked while the tunnel is open.
        unshare(shared, made)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(predict("affine"), timeout=PATIENCE)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert made["key"] not in Path(f"/proc/{tunnel.process.pid}/cmdline").read_text()
    refused_at_once = Tunnelled(url, made["key"])
    assert "refuses the token (401)" in refused_at_once.said
    refused_at_once.__exit__()
    with Tunnelled(url, shared.token) as tunnel, tunnel.channel() as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert stub.Predict(predict("affine"), timeout=PATIENCE).model_spec.version.value == 1

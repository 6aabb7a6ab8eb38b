"""One user of a real Hub shares a model, the other predicts with it, and reaches nothing else."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path
from urllib.parse import quote

import grpc
import psutil
import pytest
import tensorflow as tf
from grpc_web import PREDICT, grpc_web
from helpers import PATIENCE, Answer, wait_for
from hub_process import ADMIN, Browser, JupyterHub, UserServer
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tunnelled import Tunnelled
from walk import reached, table

COLLEAGUE = "bob"

SHARE = "from jupyter_tfserve import connect; made = connect().share({!r}, {}); print(made)"

#: Seconds within which a revoked bearer is refused: what the Hub says of a bearer counts for 30.
REVOKED = 35.0


def shared(owner: UserServer, model: str, how: str = "") -> str:
    """What the owner is shown who shares a model from a kernel."""
    return owner.run(SHARE.format(model, how))


def id_of(said: str) -> str:
    found = re.search(r"%tfserve unshare (\w+)", said)
    assert found, said
    return found[1]


def unshare(owner: UserServer, said: str) -> None:
    owner.run(f"from jupyter_tfserve import connect; connect().unshare({id_of(said)!r})")


def message(model: str) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    return request


def web(owner: UserServer, model: str, token: str, text: bool = False) -> int:
    """The grpc-status of a prediction in gRPC-Web."""

    def post(path: str, body: bytes, headers: dict[str, str]) -> Answer:
        return owner.hub.request("POST", owner.url + "tfserve" + path, body, headers)

    headers = {"Authorization": f"Bearer {token}"}
    return grpc_web(post, PREDICT, message(model).SerializeToString(), headers, text)[1]


def direct(owner: UserServer, model: str, token: str) -> tuple[int, grpc.StatusCode]:
    """What the model server's own ports answer to a prediction."""
    rest, rpc = owner.ports()
    bearer = f"Bearer {token}"
    url = f"http://127.0.0.1:{rest}/v1/models/{model}:predict"
    status = owner.hub.request("POST", url, {"instances": [1.0]}, {"Authorization": bearer}).status
    with grpc.insecure_channel(f"127.0.0.1:{rpc}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            stub.Predict(message(model), timeout=PATIENCE, metadata=(("authorization", bearer),))
        except grpc.RpcError as error:
            return status, error.code()
    return status, grpc.StatusCode.OK


def walk(owner: UserServer, token: str) -> list[str]:
    """What a bearer reaches of the whole route table of the owner's server, through the Hub's proxy."""

    def ask(verb: str, path: str, limit: float) -> Answer:
        body = b"{}" if verb in ("POST", "PUT", "PATCH") else None
        url = owner.hub.url.split("/", 3)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = owner.hub.request(verb, "/".join(url[:3]) + path, body, headers, limit)
        if answer.status == 302 and (
            "/hub/api/oauth2" in answer.headers["location"] or "/login" in answer.headers["location"]
        ):
            return Answer(401, answer.headers, answer.body)  # a page for people: sent to the login
        return answer

    return reached(table(owner.home / "routes.json"), ask, owner.base_url)


def test_shared_by_name(hub: JupyterHub, owner: UserServer) -> None:
    said = shared(owner, "affine", f"with_user={COLLEAGUE!r}, notebook='client.ipynb', note='for Bob'")
    assert f"user {COLLEAGUE}" in said and owner.scope in said and "hub/token" in said
    assert "$TFSERVE_TOKEN" in said and "affine:predict" in said
    assert "affine" in (owner.home / "client.ipynb").read_text()

    # The colleague makes a token with that scope, and no other.
    token = hub.token(COLLEAGUE, owner.scope)
    assert [owner.predict(model, token) for model in ("affine", "echo", "nothing")] == [200, 403, 403]
    assert owner.call("GET", "tfserve/v1/models/affine/metadata", token=token).status == 200
    for path in ("models", "models/echo", "models/echo/metadata"):
        assert owner.call("GET", f"tfserve/v1/{path}", token=token).status == 403
    for text in (False, True):
        assert [web(owner, model, token, text) for model in ("affine", "echo")] == [0, 7]
    with Tunnelled(owner.url, token) as tunnel, tunnel.channel() as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(message("affine"), timeout=PATIENCE)
        assert tf.make_ndarray(response.outputs["y"]).tolist() == [2.0]
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(message("echo"), timeout=PATIENCE)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED

    # So do the model server's own ports; the owner's token of the Hub predicts there, too.
    ok, denied, unknown = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
    assert [direct(owner, model, token) for model in ("affine", "echo")] == [(200, ok), (403, denied)]
    assert direct(owner, "affine", hub.token(owner.user)) == (200, ok)
    scopeless = hub.token(COLLEAGUE, f"read:users:name!user={COLLEAGUE}")
    assert direct(owner, "affine", scopeless) == (403, denied)
    assert direct(owner, "affine", "0123456789abcdef" * 2) == (401, unknown)
    expected = {
        (port, status, who, "affine" if who == "" else "echo")
        for port in ("rest", "grpc")
        for status, who in ((401, ""), (403, ""), (403, f"user {COLLEAGUE}"))
    }

    def told() -> set[tuple[str, int, str, str]]:
        found = [event for event in owner.audited() if event["action"] == "refused" and "port" in event]
        return {(event["port"], event["status"], event["who"], *event["models"]) for event in found}

    wait_for("the refusals to be audited", lambda: told() >= expected)

    found = walk(owner, token)
    assert not found, "\n".join(found)

    # A token in the URL opens nothing.
    assert owner.call("GET", f"tfserve/v1/models/affine?token={token}").status == 401
    assert owner.call("POST", f"tfserve/v1/models/affine:predict?token={token}", {}).status == 401

    listed = owner.run("from jupyter_tfserve import connect; print(connect().shares())")
    assert id_of(said) in listed and "for Bob" in listed and token not in listed
    unshare(owner, said)
    began = time.monotonic()
    wait_for("the bearer to be refused", lambda: owner.predict("affine", token) == 403, REVOKED)
    wait_for("the ports to refuse it", lambda: direct(owner, "affine", token) == (403, denied), REVOKED)
    assert owner.call("POST", "tfserve" + PREDICT, b"", token).status == 403
    assert time.monotonic() - began < REVOKED
    # The Hub knows of no share any more.
    assert hub.api("GET", f"/shares/{quote(owner.user)}/").json["items"] == []


def test_a_revocation_elsewhere_shows_within_35_seconds(hub: JupyterHub, owner: UserServer) -> None:
    """The owner revokes on the Hub's own page, of which our server hears nothing."""
    said = shared(owner, "affine", f"with_user={COLLEAGUE!r}")
    token = hub.token(COLLEAGUE, owner.scope)
    assert owner.predict("affine", token) == 200
    assert direct(owner, "affine", token) == (200, grpc.StatusCode.OK)
    where = f"/shares/{quote(owner.user)}/"
    assert hub.api("PATCH", where, {"user": COLLEAGUE, "scopes": [owner.scope]}).status == 200
    denied = (403, grpc.StatusCode.PERMISSION_DENIED)
    wait_for(
        "the bearer to be refused",
        lambda: owner.predict("affine", token) == 403 and direct(owner, "affine", token) == denied,
        REVOKED,
    )
    unshare(owner, said)


@pytest.mark.parametrize("kind", ["none", "wrong", "expired", "without the scope", "another model's"])
def test_the_same_walk(hub: JupyterHub, owner: UserServer, kind: str) -> None:
    token, said = "", ""
    if kind == "wrong":
        token = "0123456789abcdef" * 2
    elif kind == "without the scope":
        token = hub.token(COLLEAGUE)
    elif kind == "expired":
        made = hub.api("POST", f"/users/{COLLEAGUE}/tokens", {"expires_in": 1})
        token = made.json["token"]
        wait_for("it to expire", lambda: hub.api("GET", "/user", token=token).status == 403)
    elif kind == "another model's":
        said = shared(owner, "echo", f"with_user={COLLEAGUE!r}")
        token = hub.token(COLLEAGUE, owner.scope)
        # echo's signatures are named: it is reached, and refuses the request
        assert owner.predict("echo", token) == 400
    found = walk(owner, token)
    assert not found, "\n".join(found)
    expected = 403 if kind in ("without the scope", "another model's") else 401
    assert owner.predict("affine", token) == expected
    assert owner.call("GET", "tfserve/grpc-tunnel", token=token).status == (400 if said else expected)
    if said:
        assert web(owner, "affine", token) == 7
        unshare(owner, said)


def test_shared_by_link(hub: JupyterHub, owner: UserServer) -> None:
    said = shared(owner, "affine")
    link = re.search(r"1\. open +(\S+)", said)
    assert link, said
    assert "YOUR-JUPYTERHUB" in link[1]
    url = link[1].replace("https://YOUR-JUPYTERHUB", f"http://127.0.0.1:{hub.port}")
    hub.add_user("carol")
    with Browser(hub, "carol") as browser:
        page = browser.accept(url)
    assert page.status_code == 200, page.text
    assert page.url.path.endswith("/hub/token"), page.url
    token = hub.token("carol", owner.scope)
    assert [owner.predict(model, token) for model in ("affine", "echo")] == [200, 403]
    # By name counts more than by link.
    by_name = shared(owner, "echo", "with_user='carol'")
    assert [owner.predict(model, token) for model in ("affine", "echo")] == [403, 400]
    unshare(owner, by_name)
    hub.token("carol")
    unshare(owner, said)
    wait_for("the bearer to be refused", lambda: owner.predict("affine", token) == 403, REVOKED)
    assert hub.api("GET", f"/shares/{quote(owner.user)}/").json["items"] == []
    assert hub.api("GET", f"/share-codes/{quote(owner.user)}/").json["items"] == []


def test_access_keys_are_off_on_a_hub(owner: UserServer) -> None:
    said = owner.run(
        "from jupyter_tfserve import connect\nfrom jupyter_tfserve.client import TFServeError\n"
        "try: connect().share('affine', kind='key')\nexcept TFServeError as error: print(error)"
    )
    assert "TFServe.allow_access_keys" in said and "hub-config" in said
    with contextlib.closing(owner.client()) as client:
        assert client.shares()["kinds"] == ["link", "user"]


def test_predictions_are_activity_and_polling_is_not(hub: JupyterHub, owner: UserServer) -> None:
    mine = hub.token(owner.user)

    def activity() -> str:
        answer = owner.call("GET", "api/status", token=mine)
        assert answer.status == 200, answer
        last: str = answer.json["last_activity"]
        return last

    before = activity()
    for _ in range(5):
        assert owner.call("GET", "tfserve/api/state", token=mine).status == 200
    assert activity() == before
    assert owner.predict("affine", mine) == 200
    assert activity() > before


def test_restarted_by_the_hub_and_a_named_server(hub: JupyterHub, owner: UserServer, models: Path) -> None:
    said = shared(owner, "affine", f"with_user={COLLEAGUE!r}")
    token = hub.token(COLLEAGUE, owner.scope)
    assert owner.predict("affine", token) == 200
    owner.stop()
    assert owner.predict("affine", token) not in (200, 401)
    owner.start()
    wait_for("it to serve what it served", lambda: owner.predict("affine", token) == 200)
    assert owner.predict("echo", token) == 403

    # The scope is for one server: a named one of the same owner, with the same store, refuses it.
    named = UserServer(hub, owner.user, "lab-2").start()
    try:
        wait_for("it to serve what the store holds", lambda: named.predict("affine", hub.token(owner.user)) == 200)
        assert named.predict("affine", token) == 403
        other = named.run(SHARE.format("affine", f"with_user={COLLEAGUE!r}"))
        assert f"{owner.user}/lab-2" in other
        its = hub.token(COLLEAGUE, named.scope)
        assert named.predict("affine", its) == 200
        assert owner.predict("affine", its) == 403
        named.run(f"from jupyter_tfserve import connect; connect().unshare({id_of(other)!r})")
        assert named.predict("affine", its) == 403
    finally:
        named.stop()
    unshare(owner, said)


def test_nothing_leaks(hub: JupyterHub, owner: UserServer) -> None:
    """Of all that ran until here: no secret in a log, a notebook, a command line, or a file that others can read."""
    said = shared(owner, "affine", f"with_user={COLLEAGUE!r}")
    token = hub.token(COLLEAGUE, owner.scope)
    assert owner.predict("affine", token) == 200
    file = owner.endpoint_file()
    assert file is not None
    secrets = [token, json.loads(file.read_text())["token"], owner.process.environ()["JUPYTERHUB_API_TOKEN"]]
    logs = [hub.log, *owner.home.rglob("*.log*"), *owner.home.rglob("*.ipynb")]
    assert len(logs) > 1
    for log in logs:
        text = log.read_text(errors="replace")
        assert [secret for secret in secrets if secret in text] == [], log
    for process in psutil.Process(hub.process.pid).children(recursive=True):
        command = " ".join(process.cmdline())
        assert [secret for secret in [*secrets, ADMIN] if secret in command] == [], command
    for path in owner.home.rglob("*"):
        if path.is_file() and path.stat().st_size < 1 << 20:
            content = path.read_bytes()
            if "tfserve" in str(path.relative_to(owner.home)) and any(s.encode() in content for s in secrets):
                assert path.stat().st_mode & 0o077 == 0, path
    unshare(owner, said)


def test_a_hub_with_internal_tls_and_without_the_scope(tmp_path: Path, models: Path) -> None:
    """The Hub is asked over its own TLS, and where its admin has added nothing, what is missing is said exactly."""
    one = JupyterHub(tmp_path / "hub", snippet="", internal_tls=True)
    try:
        one.wait_until_ready()
        one.add_user(COLLEAGUE)
        owner = UserServer(one, "ann").start()
        owner.serve(models, "affine")
        assert owner.predict("affine", one.token("ann")) == 200
        assert owner.predict("affine", one.token(COLLEAGUE)) == 403
        assert owner.predict("affine", "0" * 31 + "1") == 401
        said = owner.run(
            "from jupyter_tfserve import connect\nfrom jupyter_tfserve.client import TFServeError\n"
            "try: connect().share('affine')\nexcept TFServeError as error: print(error)"
        )
        assert "does not let this server share predictions" in said, said
        assert "`jupyter tfserve hub-config` prints" in said
    finally:
        one.close()

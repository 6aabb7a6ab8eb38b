"""TF Serving's REST API through Jupyter: the same bytes as on the model server's own port, for those who may call."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gzip
import http.client
import json
import socket
from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import PATIENCE, Answer, call, wait_for
from jupyter_process import HEADERS, TOKEN, JupyterServer, open_files

AFFINE = "/v1/models/affine:predict"
BODY = b'{"instances": [1.0, 2.0]}'


def in_chunks(data: bytes) -> Any:
    return iter([data[:5], data[5:9], data[9:]])


@pytest.mark.parametrize(
    ("verb", "path", "body", "headers"),
    [
        ("POST", AFFINE, BODY, {}),
        ("POST", "/v1/models/affine/versions/1:predict", BODY, {}),
        ("POST", "/v1/models/aff%69ne:predict", BODY, {}),
        ("POST", "/v1/models/affine/versions/2:predict", BODY, {}),
        ("POST", "/v1/models/affine/labels/stable:predict", BODY, {}),
        ("POST", "/v1/models/affine/versions/99999999999999999999:predict", BODY, {}),
        ("POST", "/v1/models/no%20such%2Fmodel:predict", BODY, {}),
        ("POST", "/v1/models/affine:predict?x=1", BODY, {}),
        ("POST", "/v1/models/affine:explain", BODY, {}),
        ("POST", "/v1/models//affine:predict", BODY, {}),
        ("POST", AFFINE, b"", {}),
        ("POST", AFFINE, b"not JSON %s %d", {}),
        ("POST", AFFINE, b'{"instances": ["\xff"]}', {}),
        ("POST", AFFINE, gzip.compress(BODY, mtime=0), {"Content-Encoding": "gzip"}),
        ("POST", AFFINE, b"no gzip", {"Content-Encoding": "gzip"}),
        ("POST", AFFINE, in_chunks, {"Transfer-Encoding": "chunked"}),
        ("POST", AFFINE, BODY, {"Content-Type": "application/x-www-form-urlencoded", "Accept-Encoding": "gzip"}),
        ("POST", AFFINE, b"&".join([b"a"] * 5000), {"Content-Type": "application/x-www-form-urlencoded"}),
        ("POST", AFFINE, BODY, {"Content-Type": "multipart/form-data; boundary=x"}),
        ("POST", "/v1/models/several:predict", b'{"instances": [{"a": 3, "b": 4}, {"a": -1, "b": 2}]}', {}),
        ("POST", "/v1/models/several:predict", b'{"signature_name": "fail", "instances": [1]}', {}),
        ("GET", "/v1/models/affine", None, {}),
        ("GET", "/v1/models/affine", None, {"If-None-Match": "*", "Accept-Encoding": "gzip"}),
        ("GET", "/v1/models/affine/versions/1", None, {}),
        ("GET", "/v1/models/several/metadata", None, {"Accept-Encoding": "gzip, deflate"}),
        ("GET", "/v1/models/nothing", None, {}),
        ("GET", "/v1/models", None, {}),
        ("GET", "/v1/", None, {}),
        ("GET", "/v1/models/%zz", None, {}),
        ("HEAD", "/v1/models/affine", None, {}),
        ("PUT", "/v1/models/affine", BODY, {}),
        ("PATCH", "/v1/models/affine", BODY, {}),
        ("DELETE", "/v1/models/affine", None, {}),
        ("OPTIONS", "/v1/models/affine", None, {"Origin": "http://elsewhere"}),
        ("OPTIONS", "/v1/models/affine", None, {}),
    ],
)
def test_through_jupyter_it_is_the_same(
    jupyter: JupyterServer, verb: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    answers = []
    for prefix, port in (("/tfserve", jupyter.port), ("", jupyter.rest_port)):
        base = jupyter.base_url.rstrip("/") if prefix else ""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        data = body(BODY) if callable(body) else body
        chunked = "Transfer-Encoding" in headers
        connection.request(verb, base + prefix + path, data, {**HEADERS, **headers}, encode_chunked=chunked)
        reply = connection.getresponse()
        sent = {k.lower(): v for k, v in reply.getheaders()}
        answers.append((reply.status, reply.reason, sent.get("content-type"), sent.get("content-length"), reply.read()))
        assert "content-encoding" not in sent
        assert "set-cookie" not in sent
        connection.close()
    assert answers[0] == answers[1]


def test_large_bodies_stream_through(jupyter: JupyterServer) -> None:
    """Both ways, without Jupyter growing by their size."""
    values = [float(i) for i in range(1_500_000)]
    body = json.dumps({"inputs": values, "signature_name": "float32"}).encode()
    assert len(body) > 12e6
    process = psutil.Process(jupyter.process.pid)
    jupyter.call("POST", "/tfserve" + AFFINE, BODY)
    before = process.memory_info().rss
    answer = jupyter.call("POST", "/tfserve/v1/models/echo:predict", body)
    assert answer.json["outputs"] == values
    assert process.memory_info().rss - before < 8e6


def test_too_large_a_body_is_refused_before_it_comes(jupyter: JupyterServer) -> None:
    with socket.create_connection(("127.0.0.1", jupyter.port), PATIENCE) as connection:
        head = f"POST {jupyter.base_url}tfserve{AFFINE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: token {TOKEN}\r\n"
        connection.sendall(f"{head}Content-Length: 40000000\r\n\r\n".encode())
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert reply.status == 413
        assert "33554432 are allowed" in json.loads(reply.read())["error"]


def test_keep_alive(jupyter: JupyterServer) -> None:
    """Errors too leave the connection to Jupyter open."""
    connection = http.client.HTTPConnection("127.0.0.1", jupyter.port, timeout=PATIENCE)
    connection.connect()
    first = connection.sock
    for headers, body, status in [
        (HEADERS, BODY, 200),
        ({}, BODY * 1000, 401),
        (HEADERS, b"?", 400),
        (HEADERS, BODY, 200),
    ]:
        connection.request("POST", f"{jupyter.base_url}tfserve{AFFINE}", body, headers)
        reply = connection.getresponse()
        reply.read()
        assert reply.status == status
        assert connection.sock is first
    connection.close()


def test_many_at_once(jupyter: JupyterServer) -> None:
    def one(i: int) -> Any:
        return jupyter.call("POST", "/tfserve" + AFFINE, {"instances": [i]}).json["predictions"]

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert list(pool.map(one, range(300))) == [[i + 1.0] for i in range(300)]


def test_a_client_that_goes_takes_its_request_along(jupyter: JupyterServer, tmp_path: Path) -> None:
    """Its connection to the model server is closed; Jupyter keeps nothing of it."""

    def in_flight() -> float:
        lines = jupyter.call("GET", "/metrics").body.decode().splitlines()
        return float(next(x for x in lines if x.startswith("jupyter_tfserve_requests_in_flight ")).split()[1])

    pid = jupyter.info()["pid"]
    assert pid is not None
    model_server = psutil.Process(pid)
    with contextlib.ExitStack() as stack:
        stack.callback((tmp_path / "gate").touch)
        clients = [http.client.HTTPConnection("127.0.0.1", jupyter.port, timeout=PATIENCE) for _ in range(4)]
        for client in clients:
            stack.callback(client.close)
            body = json.dumps({"inputs": str(tmp_path / "gate")})
            client.request("POST", f"{jupyter.base_url}tfserve/v1/models/gated:predict", body, HEADERS)
        wait_for("all to arrive", lambda: in_flight() == len(clients))
        wait_for("one to run", (tmp_path / "gate.waits").exists)
        before = open_files(model_server)
        for client in clients:
            client.close()
        wait_for("Jupyter to forget them", lambda: in_flight() == 0)
        (tmp_path / "gate").touch()  # what TensorFlow has begun it finishes
        wait_for("their connections to end", lambda: open_files(model_server) <= before - len(clients))
    assert "Traceback" not in jupyter.said()


# Who may call.


def anonymous(jupyter: JupyterServer) -> dict[str, str]:
    return {}


def wrong(jupyter: JupyterServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}x"}


def basic(jupyter: JupyterServer) -> dict[str, str]:
    return {"Authorization": f"Basic {TOKEN}"}


def token(jupyter: JupyterServer) -> dict[str, str]:
    return {"Authorization": f"token {TOKEN}"}


def bearer(jupyter: JupyterServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"}


def owner(jupyter: JupyterServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {jupyter.owner_key}"}


def owner_elsewhere(jupyter: JupyterServer) -> dict[str, str]:
    """No web page knows the key, so the Host need not be checked."""
    return {"Authorization": f"token {jupyter.owner_key}", "Host": "tfserve"}


def token_elsewhere(jupyter: JupyterServer) -> dict[str, str]:
    return {"Authorization": f"token {TOKEN}", "Host": "evil.example"}


def cookie_and_xsrf(jupyter: JupyterServer) -> dict[str, str]:
    """What a browser sends that has logged in, from a page of the server's own."""
    jar: SimpleCookie = SimpleCookie()
    connection = http.client.HTTPConnection("127.0.0.1", jupyter.port, timeout=PATIENCE)
    for path, headers in (("login", {}), ("api/status", {"Authorization": f"token {TOKEN}"})):
        connection.request("GET", jupyter.base_url + path, headers=headers)
        reply = connection.getresponse()
        reply.read()
        for cookie in reply.headers.get_all("Set-Cookie") or ():
            jar.load(cookie)
    connection.close()
    found = {name: morsel.coded_value for name, morsel in jar.items()}
    assert len(found) == 2, found
    return {"Cookie": "; ".join(f"{k}={v}" for k, v in found.items()), "X-XSRFToken": found["_xsrf"]}


def cookie(jupyter: JupyterServer) -> dict[str, str]:
    return {"Cookie": cookie_and_xsrf(jupyter)["Cookie"]}


def cookie_from_elsewhere(jupyter: JupyterServer) -> dict[str, str]:
    return {**cookie_and_xsrf(jupyter), "Origin": "http://evil.example"}


@pytest.mark.parametrize(
    ("who", "get", "post"),
    [
        (anonymous, 401, 401),
        (wrong, 401, 401),
        (basic, 401, 401),
        (token, 200, 200),
        (bearer, 200, 200),
        (owner, 200, 200),
        (owner_elsewhere, 200, 200),
        (token_elsewhere, 403, 403),
        (cookie, 200, 403),
        (cookie_and_xsrf, 200, 200),
        (cookie_from_elsewhere, 200, 403),
    ],
)
def test_who_may_call(
    jupyter: JupyterServer, who: Callable[[JupyterServer], dict[str, str]], get: int, post: int
) -> None:
    headers = who(jupyter)
    for verb, path, body, status in (("GET", "/v1/models/affine", None, get), ("POST", AFFINE, BODY, post)):
        answer = jupyter.call(verb, "/tfserve" + path, body, headers)
        assert answer.status == status, (verb, answer)
        assert answer.headers["content-type"] == "application/json"
        if status >= 400:
            assert list(answer.json) == ["error"]
            assert "location" not in answer.headers
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("who", ["owner_key", "token"])
def test_no_token_in_the_url(jupyter: JupyterServer, who: str) -> None:
    secret = jupyter.owner_key if who == "owner_key" else TOKEN
    for headers in ({}, HEADERS):
        answer = jupyter.call("GET", f"/tfserve/v1/models/affine?token={secret}", headers=headers)
        assert answer.status == 401
        assert "not into the URL" in answer.json["error"]
    assert secret not in jupyter.said()


def test_nothing_of_the_callers_credentials_reaches_the_model_server(jupyter: JupyterServer) -> None:
    """Its log neither holds the token nor the owner key; nor does Jupyter's."""
    jupyter.call("POST", "/tfserve/v1/models/none:predict", BODY, owner(jupyter))
    jupyter.call("POST", "/tfserve/v1/models/none:predict", BODY)
    log = (jupyter.own_runtime / "model_server.log").read_text()
    for secret in (TOKEN, jupyter.owner_key):
        assert secret not in log
        assert secret not in jupyter.said()


def test_browsers_may_ask_first(jupyter: JupyterServer) -> None:
    """A preflight carries no credentials; without allow_origin no page elsewhere is let in by it."""
    asks = {"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"}
    answer = jupyter.call("OPTIONS", "/tfserve" + AFFINE, headers=asks)
    assert (answer.status, answer.body) == (200, b"")
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in answer.headers
    answer = jupyter.call("OPTIONS", "/tfserve" + AFFINE, headers={"Origin": "http://elsewhere"})
    assert answer.status == 401


def test_metrics(jupyter: JupyterServer) -> None:
    def count(status: str) -> float:
        text = jupyter.call("GET", "/metrics").body.decode()
        line = next(
            (x for x in text.splitlines() if x.startswith(f'jupyter_tfserve_requests_total{{status="{status}"')), ""
        )
        return float(line.split()[-1]) if line else 0.0

    before = count("2xx"), count("4xx")
    jupyter.call("POST", "/tfserve" + AFFINE, BODY)
    jupyter.call("POST", "/tfserve" + AFFINE, b"?")
    assert (count("2xx"), count("4xx")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("who", [anonymous, owner, token])
def test_the_direct_port_knows_the_same_bearers(
    jupyter: JupyterServer, who: Callable[[JupyterServer], dict[str, str]]
) -> None:
    answer: Answer = call(jupyter.rest_port, "POST", AFFINE, BODY, who(jupyter))
    assert answer.status == (401 if who is anonymous else 200)

"""The client against a server that says whatever a proxy, TensorFlow Serving or a broken line may say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from jupyter_tfserve.client import Client, TFServeError


class Scripted(ThreadingHTTPServer):
    """Answers each request with `answer` and remembers what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: tuple[int, str, bytes] = (200, "application/json", b"{}")
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/user/me/tfserve"


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, body, headers))
        status, kind, content = self.server.answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _any

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def client(server: Scripted) -> Iterator[Client]:
    client = Client(server.url + "/", token="secret")
    yield client
    client.close()


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (lambda c: c.state(), ("GET", "/api/state", None)),
        (lambda c: c.model("a"), ("GET", "/api/models/a", None)),
        (lambda c: c.model("a", wait=3, timeout=2.5), ("GET", "/api/models/a?wait=3&timeout=2.5", None)),
        (lambda c: c.register("a", {"labels": {"x": 1}}), ("PUT", "/api/models/a", {"labels": {"x": 1}})),
        (lambda c: c.unregister("a"), ("DELETE", "/api/models/a", None)),
        (lambda c: c.unregister("a", files=True), ("DELETE", "/api/models/a?files=true", None)),
        (lambda c: c.set_policy("a", {"all": {}}), ("PUT", "/api/models/a/policy", {"all": {}})),
        (lambda c: c.set_batching("a", {"mode": None}), ("PUT", "/api/models/a/batching", {"mode": None})),
        (lambda c: c.set_labels("a", {"x": None}), ("PATCH", "/api/models/a/labels", {"x": None})),
        (lambda c: c.devices(), ("GET", "/api/devices", None)),
        (
            lambda c: c.set_device("a", {"device": "gpu:1"}, timeout=2.5),
            ("PUT", "/api/models/a/device?timeout=2.5", {"device": "gpu:1"}),
        ),
        (lambda c: c.server({"action": "stop"}), ("POST", "/api/server", {"action": "stop"})),
        (lambda c: c.abort_upload("id"), ("DELETE", "/api/uploads/id", None)),
        (
            lambda c: c.serve_saved_model({"path": "a/b", "name": "m"}),
            ("POST", "/api/saved_models", {"path": "a/b", "name": "m"}),
        ),
        (lambda c: c.finish_upload("id"), ("POST", "/api/uploads/id", None)),
        (lambda c: c.predict("a", {"instances": [1]}), ("POST", "/v1/models/a:predict", {"instances": [1]})),
        (lambda c: c.predict("a", b"[]", version=3), ("POST", "/v1/models/a/versions/3:predict", [])),
        (lambda c: c.predict("a", "[]", label="x y"), ("POST", "/v1/models/a/labels/x%20y:predict", [])),
    ],
)
def test_what_is_asked(server: Scripted, client: Client, call: Any, asked: tuple[str, str, Any]) -> None:
    call(client)
    ((verb, path, body, headers),) = server.asked
    assert (verb, path) == (asked[0], "/user/me/tfserve" + asked[1])
    assert (json.loads(body) if body else None) == asked[2]
    assert headers["authorization"] == "token secret"
    assert headers.get("content-type") == ("application/json" if body else None)


def test_upload_parts_are_sent_as_they_are(server: Scripted, client: Client) -> None:
    client.upload_part("id", "variables/variables.data-00000-of-00001", 4096, b"\x00\xff")
    ((verb, path, body, headers),) = server.asked
    assert (verb, body, headers["content-type"]) == ("PUT", b"\x00\xff", "application/octet-stream")
    assert path.endswith("/api/uploads/id?path=variables%2Fvariables.data-00000-of-00001&offset=4096")


def test_a_name_cannot_leave_its_place_in_the_url(server: Scripted, client: Client) -> None:
    client.model("../state?x")
    assert server.asked[0][1] == "/user/me/tfserve/api/models/..%2Fstate%3Fx"


def test_config_is_text(server: Scripted, client: Client) -> None:
    server.answer = (200, "text/plain", b"model_config_list {}")
    assert client.config() == "model_config_list {}"
    server.answer = (200, "application/json", b"{}")
    client.set_config("model_config_list {}")
    assert server.asked[-1][2] == b"model_config_list {}"


def test_events_are_read_until_the_end(server: Scripted, client: Client) -> None:
    server.answer = (
        200,
        "text/event-stream",
        b': hello\n\ndata: {"type": "model"}\n\nid: 2\ndata: {"type": "server"}\n\n',
    )
    assert [event["type"] for event in client.events()] == ["model", "server"]


@pytest.mark.parametrize(
    ("status", "body", "message", "remedy"),
    [
        (409, b'{"message": "No.", "remedy": "Do this."}', "No.", "Do this."),
        (400, b'{"message": "No.", "reason": null}', "No.", ""),  # Jupyter's own
        (404, b'{"error": "Servable not found"}', "Servable not found", ""),  # TensorFlow Serving's
        (502, b"<html>Bad Gateway</html>", "/user/me/tfserve/api/state answered 502 Bad Gateway.", ""),
        (500, b"", "/user/me/tfserve/api/state answered 500 Internal Server Error.", ""),
        (400, b"[]", "/user/me/tfserve/api/state answered 400 Bad Request.", ""),
    ],
)
def test_refusals(server: Scripted, client: Client, status: int, body: bytes, message: str, remedy: str) -> None:
    server.answer = (status, "application/json", body)
    with pytest.raises(TFServeError) as refused:
        client.state()
    assert (refused.value.status, refused.value.message, refused.value.remedy) == (status, message, remedy)
    with pytest.raises(TFServeError):
        list(client.events())


def test_nobody_there() -> None:
    client = Client("http://127.0.0.1:9/tfserve")
    with pytest.raises(TFServeError, match=r"No answer from http://127\.0\.0\.1:9/tfserve: .+\.\n.*start") as refused:
        client.state()
    assert refused.value.status == 0
    client.close()


def test_a_proxy_from_the_environment_is_not_used(
    server: Scripted, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    other = Client(server.url, token="secret")
    other.state()
    other.close()
    assert len(server.asked) == 1

"""The HTTP/1.1 server, by raw sockets against a real model server."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from helpers import PATIENCE, StoreServer, converse, read_all, replies, wait_for

from jupyter_tfserve.model_server.frontends import http_server

BODY = b'{"instances": [1.0]}'
POST = b"POST /v1/models/affine:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(BODY)
CLOSE = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_pipelined_requests_are_answered_in_order(server: StoreServer) -> None:
    slow_then_quick = POST + b"\r\n" + BODY + b"GET /v1/models/affine HTTP/1.1\r\nHost: x\r\n\r\n" + CLOSE
    first, second, third = replies(converse(server.rest_port, slow_then_quick), ["POST", "GET", "GET"])
    assert first.json == {"predictions": [2.0]}
    assert second.json["model_version_status"][0]["version"] == "1"
    assert third.body == b"ok\n"
    assert third.headers["connection"] == "close"


def test_chunked_body(server: StoreServer) -> None:
    head = b"POST /v1/models/affine:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:])) + b"0\r\n\r\n"
    answer, _ = replies(converse(server.rest_port, head + chunks + CLOSE), ["POST", "GET"])
    assert answer.json == {"predictions": [2.0]}


def test_expect_continue(server: StoreServer) -> None:
    with socket.create_connection(("127.0.0.1", server.rest_port), PATIENCE) as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_pipelined_body_is_asked_for_when_its_turn_comes(server: StoreServer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = b'{"inputs": "%b"}' % str(gate).encode()
    head = b"POST /v1/models/gated:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(first)
    with socket.create_connection(("127.0.0.1", server.rest_port), PATIENCE) as connection:
        connection.sendall(head + first + POST + b"Expect: 100-continue\r\n\r\n")
        wait_for("the first request to run", Path(f"{gate}.waits").exists)
        gate.touch()
        said = b""
        while b" 100 Continue\r\n\r\n" not in said:
            said += connection.recv(1000)
        assert said.startswith(b"HTTP/1.1 200 OK\r\n")
        connection.sendall(BODY)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_head_has_no_body(server: StoreServer) -> None:
    [answer] = replies(
        converse(server.rest_port, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), ["HEAD"]
    )
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "3", b"")


def test_what_is_no_http_is_refused_and_closed(server: StoreServer) -> None:
    for data, status in (
        (b"\x16\x03\x01 hello\r\n\r\n", 501),
        (b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBig: " + b"x" * 70000 + b"\r\n\r\n", 431),
    ):
        assert converse(server.rest_port, data).startswith(b"HTTP/1.1 %d " % status), data[:20]
    assert server.predict("affine", [1.0]) == [2.0]


def test_a_client_that_closed_its_side_is_answered(server: StoreServer) -> None:
    with socket.create_connection(("127.0.0.1", server.rest_port), PATIENCE) as connection:
        connection.sendall(POST + b"\r\n" + BODY)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_head_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that come one by one keep a connection alive, but not for ever."""
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 10.0)

    async def run() -> None:
        server = http_server.HttpServer(lambda request: None)
        listening = await asyncio.get_running_loop().create_server(server.protocol, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        try:
            writer.write(b"GET / HTTP/1.1\r\nX-")
            while not any(connection._in_headers for connection in server.connections):
                await asyncio.sleep(0.001)
            (connection,) = server.connections
            began = connection._head_since
            connection._last = began + 10.5  # a byte has just come
            connection.close_if_idle(began + 9.0)
            assert not reader.at_eof()
            connection.close_if_idle(began + 11.0)
            assert await reader.read() == b""
        finally:
            writer.close()
            listening.close()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_an_offer_to_upgrade_is_ignored(server: StoreServer) -> None:
    """curl --http2 and Java's HttpClient make it with each request: the body behind it is that request's."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    chunked = POST.replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")
    data = POST + offer + b"\r\n" + BODY + chunked + offer + b"\r\n14\r\n" + BODY + b"\r\n0\r\n\r\n" + CLOSE
    for parts in ([data], [data[n : n + 1] for n in range(len(data))]):
        with socket.create_connection(("127.0.0.1", server.rest_port), PATIENCE) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                connection.sendall(part)
            first, second, third = replies(read_all(connection), ["POST", "POST", "GET"])
        assert first.json == second.json == {"predictions": [2.0]}
        assert third.body == b"ok\n"
    assert converse(server.rest_port, b"CONNECT x:1 HTTP/1.1\r\n\r\n" + CLOSE).startswith(b"HTTP/1.1 501 ")


def test_a_large_body_does_not_count_as_a_header(server: StoreServer) -> None:
    """However it is cut: a request whose head arrives together with the end of a large body is not too long."""
    body = BODY + b" " * 300_000
    post = b"POST /v1/models/affine:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with socket.create_connection(("127.0.0.1", server.rest_port), PATIENCE) as connection:
        connection.sendall(post + CLOSE[:-20])
        first = connection.recv(15)
        connection.sendall(CLOSE[-20:])
        answer, ok = replies(first + read_all(connection), ["POST", "GET"])
    assert answer.json == {"predictions": [2.0]}
    assert ok.body == b"ok\n"


def test_trailers_are_no_headers(server: StoreServer) -> None:
    """A Content-Encoding that comes after the body it would be about changes nothing; trailers have the same limits."""
    head = b"POST /v1/models/affine:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n" + BODY + b"\r\n0\r\n"
    data = head + b"Content-Encoding: gzip\r\n\r\n" + CLOSE
    answer, _ = replies(converse(server.rest_port, data), ["POST", "GET"])
    assert answer.json == {"predictions": [2.0]}
    for endless in (b"X: " + b"x" * 2_000_000, b"X: y\r\n" * 40_000):
        assert converse(server.rest_port, head + endless).startswith(b"HTTP/1.1 431 ")

"""The HTTP/1.1 server, by raw sockets against a real model server."""

from __future__ import annotations

import asyncio
import socket

import pytest
from helpers import PATIENCE, StoreServer, converse, replies

from jupyter_tfserve.model_server.frontends import http

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
    monkeypatch.setattr(http, "HEAD_SECONDS", 10.0)

    async def run() -> None:
        server = http.HttpServer(lambda request: None)
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

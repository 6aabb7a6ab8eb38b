"""Bytes that are nearly HTTP, cut at random: answered or refused the same however they are cut, and never at the cost
of others.
"""

from __future__ import annotations

import contextlib
import re
import socket

import hypothesis.strategies as st
from fuzz.served import Served
from helpers import PATIENCE

BODY = b'{"instances": [1.0]}'
PREDICT = b"POST /v1/models/affine:predict HTTP/1.1\r\nHost: x\r\n"

REQUESTS = [
    b"GET /v1/models/affine HTTP/1.1\r\nHost: x\r\n\r\n",
    PREDICT + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,
    PREDICT
    + b"Transfer-Encoding: chunked\r\n\r\n8;a=b\r\n"
    + BODY[:8]
    + b"\r\nc\r\n"
    + BODY[8:]
    + b"\r\n0\r\nX: y\r\n\r\n",
    PREDICT + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    PREDICT + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    b"HEAD /v1/models/affine/metadata HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nOrigin: http://x\r\n\r\n",
    b"GET http://x/v1/models HTTP/1.1\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
PIECES = [
    *(b"\r\n", b"\n", b"\r", b" ", b":", b"\t", b"\x00", b"\xff", b"%zz", b"?a=b", b"A" * 300, b"0\r\n\r\n"),
    *(b"HTTP/1.0", b"HTTP/9.9", b"ffffffffffffffffff\r\n", b"X: " + b"x" * 70000 + b"\r\n", b"Upgrade: x\r\n"),
    *(b"Content-Length: 0\r\n", b"Content-Length: -1\r\n", b"Content-Length: 9999999999999999999999\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Content-Encoding: gzip\r\n"),
    *(b"Connection: close\r\n", b"Expect: 100-continue\r\n"),
]
EDITS = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 6), st.sampled_from(PIECES) | st.binary(max_size=3)), max_size=3
)
#: What depends on the time: a body that has come already need not be asked for.
VARIES = re.compile(rb"Date: [^\r]*|HTTP/1.1 100 Continue\r\n\r\n")

CUTS = st.lists(st.integers(0, 400), max_size=6)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    data = b"".join(draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4)))
    for at, length, piece in draw(EDITS):
        data = data[:at] + piece + data[at + length :]
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    return data, sorted(draw(CUTS))


def converse(served: Served, parts: list[bytes], bystander: bool) -> tuple[bytes, bool]:
    """What comes until the server closes, and whether it did so with bytes of ours unread, which may lose some answers.
    With `bystander`, another connection is answered while this one is unfinished.
    """
    said = b""
    with socket.create_connection(("127.0.0.1", served.process.rest_port), PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for part in parts:
                connection.sendall(part)
            if bystander:
                status, _ = served.rest("GET", "/v1/models/affine", None)
                assert status == 200
            with contextlib.suppress(OSError):  # it may have closed already
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                said += part
        except (ConnectionResetError, BrokenPipeError):
            return said, True
    return said, False


def test_raw_http(served: Served) -> None:
    statuses: dict[bytes, int] = {}

    def check(value: tuple[bytes, list[int]]) -> None:
        data, cuts = value
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        whole, lost = converse(served, [data], True)
        parts, lost_parts = converse(served, [piece for piece in pieces if piece], False)
        for status in re.findall(rb"^HTTP/1.1 (\d+) ", whole, re.MULTILINE):
            statuses[status] = statuses.get(status, 0) + 1
            assert status < b"500" or status in (b"501", b"503", b"504"), (status, data)
        one, other = (VARIES.sub(b"", said) for said in (whole, parts))
        if lost or lost_parts:
            shorter = min(len(one), len(other))
            one, other = one[:shorter], other[:shorter]
        assert one == other, value

    served.drive(conversations(), check, 150)
    print(statuses)
    assert statuses[b"200"] > 0 and statuses[b"400"] > 0

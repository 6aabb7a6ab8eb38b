"""A gRPC-Web client of a few lines, written from the protocol: for the tests of several wings."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from helpers import Answer

PREDICT = "/grpc-web/tensorflow.serving.PredictionService/Predict"


def grpc_web(
    post: Callable[[str, bytes, dict[str, str]], Answer],
    path: str,
    message: bytes,
    headers: dict[str, str] | None = None,
    text: bool = False,
) -> tuple[bytes, int, str]:
    """Make a unary call with `post(path, body, headers)` -> the reply's bytes, grpc-status, grpc-message."""
    body = struct.pack(">BI", 0, len(message)) + message
    kind = "application/grpc-web-text+proto" if text else "application/grpc-web+proto"
    if text:  # in two parts, each padded for itself, as browsers send streams
        body = base64.b64encode(body[:5]) + base64.b64encode(body[5:])
    answer = post(path, body, {"Content-Type": kind, "X-Grpc-Web": "1", **(headers or {})})
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == kind, answer
    return parse(base64.b64decode(answer.body) if text else answer.body)


def parse(body: bytes) -> tuple[bytes, int, str]:
    """The reply, grpc-status and grpc-message of a body; the trailers must be last."""
    reply, at, trailers = b"", 0, None
    while at < len(body):
        assert trailers is None
        flags, size = struct.unpack_from(">BI", body, at)
        data = body[at + 5 : at + 5 + size]
        assert len(data) == size
        at += 5 + size
        if flags & 0x80:
            lines: Any = (line.split(":", 1) for line in data.decode("ascii").split("\r\n") if line)
            trailers = {name: value.strip() for name, value in lines}
        else:
            assert flags == 0
            reply += data
    assert trailers is not None
    return reply, int(trailers["grpc-status"]), unquote(trailers.get("grpc-message", ""))

"""gRPC-Web, binary and text (`PROTOCOL-WEB.md` of gRPC): unary calls of `services.py` in plain HTTP/1.1, the trailers
at the end of the body. Answers on the Unix socket: the Jupyter Server forwards what comes to its own ``/grpc-web``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import re
import struct
import time
from collections.abc import Mapping
from urllib.parse import quote

from ...grants import REFUSED_HEADER, Grant
from ..core.pools import ModelPools
from ..errors import Code, ServingError, pushback, truncated
from .admission import Admission, model_of
from .http import Exchange, Response
from .services import Method

log = logging.getLogger(__name__)

PREFIX = "/grpc-web"

_TYPE = re.compile(r"application/grpc-web(-text)?(\+proto)?(?:\s*;.*)?", re.IGNORECASE)
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")

_DATA, _COMPRESSED, _TRAILERS = 0x00, 0x01, 0x80


class GrpcWeb:
    """The calls; each runs in a thread of its model."""

    def __init__(self, services: Mapping[str, Mapping[str, Method]], admission: Admission, pools: ModelPools) -> None:
        self._methods = {
            f"/{service}/{name}": m for service, methods in services.items() for name, m in methods.items()
        }
        self._admission = admission
        self._pools = pools

    def __call__(self, request: Exchange, grant: Grant | None = None) -> None:
        """Reply with status 200, however the call ended: that stands in its trailers. `grant`: None for the owner."""
        kind = _TYPE.fullmatch(request.headers.get("content-type", ""))
        if request.method != "POST" or kind is None:
            request.respond(
                Response(415, b'{"error": "gRPC-Web is POST with Content-Type: application/grpc-web+proto."}')
            )
            return
        began = time.monotonic()
        is_text = kind[1] is not None
        # A text's model is not known before it is decoded.
        model = "" if is_text else model_of(request.target.removeprefix(PREFIX), request.body[5:])
        try:
            answer = self._pools.of(model).submit(self._answer, request, grant, is_text, began)
        except ServingError as error:
            request.respond(self._reply(b"", error, grant, is_text))
        else:
            request.respond_with(asyncio.wrap_future(answer))

    def _answer(self, request: Exchange, grant: Grant | None, is_text: bool, began: float) -> Response:
        """In a thread of the pool."""
        try:
            return self._reply(self._call(request, grant, is_text, began), None, grant, is_text)
        except ServingError as error:
            return self._reply(b"", error, grant, is_text)
        except Exception:
            log.exception("A gRPC-Web request failed")
            return self._reply(b"", ServingError(Code.INTERNAL, "Internal error"), grant, is_text)

    @staticmethod
    def _reply(reply: bytes, error: ServingError | None, grant: Grant | None, is_text: bool) -> Response:
        code = error.code if error is not None else Code.OK
        trailers = f"grpc-status:{int(code)}\r\n"
        if error is not None:
            trailers += f"grpc-message:{quote(truncated(error.text), safe=' !#$&()*+,/:;<=>?@[]^_`{|}~')}\r\n"
            trailers += "".join(f"{key}:{value}\r\n" for key, value in pushback(error))
        body = (_frame(_DATA, reply) if code is Code.OK else b"") + _frame(_TRAILERS, trailers.encode())
        refused = code in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED)
        headers = ((REFUSED_HEADER, str(code.http)),) if grant is not None and refused else ()
        if is_text:
            return Response(200, base64.b64encode(body), "application/grpc-web-text+proto", headers)
        return Response(200, body, "application/grpc-web+proto", headers)

    def _call(self, request: Exchange, grant: Grant | None, is_text: bool, began: float) -> bytes:
        name = request.target.partition("?")[0].removeprefix(PREFIX)
        method = self._methods.get(name)
        if method is None:
            raise ServingError(Code.UNIMPLEMENTED, f"There is no method {name}")
        payload = _message(_decoded(request.body) if is_text else request.body)
        timeout = _TIMEOUT.fullmatch(request.headers.get("grpc-timeout", ""))
        deadline = began + int(timeout[1]) * _SECONDS[timeout[2]] if timeout else None
        if deadline is not None and time.monotonic() >= deadline:  # it waited for a thread too long
            raise ServingError(Code.DEADLINE_EXCEEDED, "The deadline has passed")
        with self._admission.rpc(grant, name, payload) if grant else contextlib.nullcontext():
            return method(payload, deadline)


def _frame(flags: int, data: bytes) -> bytes:
    return struct.pack(">BI", flags, len(data)) + data


def _message(body: bytes) -> bytes:
    """The one message of a unary call."""
    if len(body) < 5:
        raise ServingError(Code.INVALID_ARGUMENT, "The body holds no message.")
    flags, size = struct.unpack_from(">BI", body)
    if flags & _COMPRESSED:
        raise ServingError(Code.UNIMPLEMENTED, "Compressed messages are not accepted: send grpc-encoding: identity.")
    if flags or size != len(body) - 5:
        raise ServingError(Code.INVALID_ARGUMENT, "The body is not one message of the length that it announces.")
    return body[5:]


def _decoded(text: bytes) -> bytes:
    """Base64 of one or several parts, each padded for itself."""
    try:
        if _BASE64.sub(b"", text).strip():
            raise binascii.Error
        return b"".join(base64.b64decode(part, validate=True) for part in _BASE64.findall(text))
    except binascii.Error:
        raise ServingError(Code.INVALID_ARGUMENT, "The body is not base64.") from None

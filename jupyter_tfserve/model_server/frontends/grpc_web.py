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
import threading
import time
from collections.abc import Mapping
from urllib.parse import quote

from ...grants import REFUSED_HEADER, Grant
from ..core.pools import ModelPools
from ..errors import Code, ServingError, pushback, truncated
from .admission import Admission, model_of
from .grpc_burst import starter
from .grpc_predict import Call
from .http import Exchange, Response
from .services import PREDICTION_SERVICE, Method, Services

log = logging.getLogger(__name__)

PREFIX = "/grpc-web"

_TYPE = re.compile(r"application/grpc-web(-text)?(\+proto)?(?:\s*;.*)?", re.IGNORECASE)
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")

_PREDICT = f"{PREFIX}/{PREDICTION_SERVICE}/Predict"

#: Bytes of a request from which on it is decoded in a thread, so that small ones need not wait for it.
_LARGE_BODY = 128 * 1024

_DATA, _COMPRESSED, _TRAILERS = 0x00, 0x01, 0x80


class GrpcWeb:
    """The calls; each runs in a thread of its model, predictions at the end of the burst that they come in."""

    def __init__(self, services: Services, admission: Admission, pools: ModelPools) -> None:
        """To be made in the event loop's thread."""
        self._methods: Mapping[str, Method] = {
            f"/{service}/{name}": m for service, methods in services.methods().items() for name, m in methods.items()
        }
        self._admission = admission
        self._pools = pools
        self._loop = asyncio.get_running_loop()
        self._start_call = starter(services, self._loop.call_soon)
        self._thread = threading.get_ident()

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
        if request.target == _PREDICT and grant is None and not is_text and len(request.body) < _LARGE_BODY:
            self._start_predict(request, began)
            return
        # A text's model is not known before it is decoded.
        model = "" if is_text else model_of(request.target.removeprefix(PREFIX), request.body[5:])
        try:
            answer = self._pools.of(model).submit(self._answer, request, grant, is_text, began)
        except ServingError as error:
            request.respond(_response(b"", error, grant, is_text))
        else:
            request.respond_with(asyncio.wrap_future(answer))

    def _start_predict(self, request: Exchange, began: float) -> None:
        """What a front sends most."""
        try:
            call = _WebCall(_message(request.body), _deadline(request, began), self, request)
        except ServingError as error:
            request.respond(_response(b"", error))
            return
        self._start_call(call)

    def send(self, request: Exchange, response: Response) -> None:
        """Answer a request, from any thread."""
        if threading.get_ident() == self._thread:
            request.respond(response)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the connection
                self._loop.call_soon_threadsafe(request.respond, response)

    def _answer(self, request: Exchange, grant: Grant | None, is_text: bool, began: float) -> Response:
        """In a thread of the pool."""
        try:
            return _response(self._call(request, grant, is_text, began), None, grant, is_text)
        except ServingError as error:
            return _response(b"", error, grant, is_text)
        except Exception:
            log.exception("A gRPC-Web request failed")
            return _response(b"", ServingError(Code.INTERNAL, "Internal error"), grant, is_text)

    def _call(self, request: Exchange, grant: Grant | None, is_text: bool, began: float) -> bytes:
        name = request.target.partition("?")[0].removeprefix(PREFIX)
        method = self._methods.get(name)
        if method is None:
            raise ServingError(Code.UNIMPLEMENTED, f"There is no method {name}")
        payload = _message(_decoded(request.body) if is_text else request.body)
        deadline = _deadline(request, began)
        with self._admission.rpc(grant, name, payload) if grant else contextlib.nullcontext():
            return method(payload, deadline)


class _WebCall(Call):
    """A Predict whose reply is told, not waited for."""

    __slots__ = ("_request", "_web")

    def __init__(self, payload: bytes, deadline: float | None, web: GrpcWeb, request: Exchange) -> None:
        super().__init__(payload, deadline)
        self._web = web
        self._request = request

    def reply(self, payload: bytes) -> None:
        self._web.send(self._request, _response(payload))

    def fail(self, error: ServingError) -> None:
        self._web.send(self._request, _response(b"", error))

    def is_cancelled(self) -> bool:
        return self._request.connection.is_abandoned


def _response(
    reply: bytes, error: ServingError | None = None, grant: Grant | None = None, is_text: bool = False
) -> Response:
    """A call's outcome: the reply, and how it ended in the trailers."""
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


def _deadline(request: Exchange, began: float) -> float | None:
    """As a `time.monotonic()`, None for none. Raises ServingError if it has passed: it waited for a thread too long."""
    timeout = _TIMEOUT.fullmatch(request.headers.get("grpc-timeout", ""))
    deadline = began + int(timeout[1]) * _SECONDS[timeout[2]] if timeout else None
    if deadline is not None and time.monotonic() >= deadline:
        raise ServingError(Code.DEADLINE_EXCEEDED, "The deadline has passed")
    return deadline


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

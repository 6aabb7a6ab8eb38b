"""``<base_url>/tfserve/grpc-tunnel``: unary gRPC calls over one websocket, for `jupyter tfserve tunnel` on the caller's
machine (`jupyter_tfserve/tunnel.py` has the messages). Each call goes to the model server as gRPC-Web, and each is
asked anew whether its caller still may.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.extension.handler import ExtensionHandlerMixin
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ..grants import GRANT_HEADER
from ..tunnel import PERMISSION_DENIED, UNAUTHENTICATED, UNAVAILABLE, Call, Reply
from . import access, metrics
from .forward import Unreachable

if TYPE_CHECKING:
    from .app import TFServe

#: Calls of one tunnel at once; more wait in the websocket.
_MOST_CALLS = 64


#: The HTTP status of the codes that mean a refusal, for the audit events.
_REFUSED = {PERMISSION_DENIED: 403, 8: 429, UNAUTHENTICATED: 401}


class TunnelHandler(WebSocketMixin, ExtensionHandlerMixin, WebSocketHandler, JupyterHandler):
    """One tunnel. Browsers cannot open one: it wants a bearer in the header."""

    @property
    def tfserve(self) -> TFServe:
        """The extension."""
        return cast("TFServe", self.extensionapp)

    @property
    def max_message_size(self) -> int:
        """Bytes of one message."""
        return self.tfserve.max_body_size

    async def prepare(self) -> None:  # type: ignore[override]
        """Ask who calls."""
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_MOST_CALLS)
        try:
            if "Authorization" not in self.request.headers:
                raise access.Refused(401, "Send the header  Authorization: Bearer <token>.")
            self._caller = await access.may_infer(self, self.tfserve)
        except access.Refused as refused:
            self.set_status(refused.status)
            self.tfserve.audit_refusal(self.request, refused.status, "")
            self.finish({"error": refused.message})

    @allow_unauthenticated  # `prepare` has asked who calls
    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Become a websocket."""
        await WebSocketHandler.get(self, *args, **kwargs)

    def check_origin(self, origin: str | None = None) -> bool:
        """Asked only where there is an Origin: then it is a browser, which cannot send the header."""
        return False

    async def on_message(self, message: str | bytes) -> None:
        """A call, or the word that one is given up."""
        try:
            call = Call.parse(message if isinstance(message, bytes) else b"")
        except ValueError:
            self.close(1002, "no message of a tunnel")
            return
        if not call.path:
            task = self._calls.pop(call.number, None)
            if task is not None:
                task.cancel()
            return
        await self._slots.acquire()
        task = asyncio.create_task(self._answer(call))
        self._calls[call.number] = task
        task.add_done_callback(lambda _: self._end(call.number))

    def _end(self, number: int) -> None:
        self._calls.pop(number, None)
        self._slots.release()

    async def _answer(self, call: Call) -> None:
        metrics.IN_FLIGHT.inc()
        try:
            code, body = await self._forward(call)
        finally:
            metrics.IN_FLIGHT.dec()
        metrics.REQUESTS.labels("2xx" if code == 0 else "4xx" if code not in (2, 13, 14) else "5xx").inc()
        if code in _REFUSED:
            self.tfserve.audit_refusal(self.request, _REFUSED[code], self._caller.name)
        try:
            await self.write_message(Reply(call.number, code, body).pack(), binary=True)
        except WebSocketClosedError:
            pass

    async def _forward(self, call: Call) -> tuple[int, bytes]:
        """grpc-status, and the reply or the message."""
        try:  # what was shared may be revoked since the tunnel was opened
            caller = await access.bearer_of(self.request.headers["Authorization"], self.tfserve)
        except access.Refused as refused:
            return (UNAUTHENTICATED if refused.status == 401 else PERMISSION_DENIED), refused.message.encode()
        grant = caller.grant if caller is not None else None
        if grant is None and self._caller.grant is not None:
            return UNAUTHENTICATED, b"This bearer is not known, or no longer."
        self.tfserve.note_activity()
        headers = [("Content-Type", "application/grpc-web+proto")]
        if call.timeout_ms:
            headers.append(("Grpc-Timeout", f"{min(call.timeout_ms, 99_999_999)}m"))
        if grant is not None:
            headers.append((GRANT_HEADER, grant.to_json()))
        body = struct.pack(">BI", 0, len(call.payload)) + call.payload
        try:
            if not self.tfserve.supervisor.running:
                raise Unreachable("not running")
            exchange = await self.tfserve.forwarder.begin("POST", f"/grpc-web{call.path}", headers, len(body))
            try:
                await exchange.write(body)
                await exchange.head()
                parts = []
                while part := await exchange.read():
                    parts.append(part)
            finally:
                exchange.abort()
        except Unreachable:
            return UNAVAILABLE, b"The model server does not run at the moment; try again."
        return _parse(b"".join(parts))

    def on_close(self) -> None:
        """The other end is gone: so are its calls."""
        for task in list(self._calls.values()):
            task.cancel()

    def get_compression_options(self) -> None:
        """None: tensors hardly shrink, and it takes time."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """As the REST API tells errors."""
        self.finish({"error": self._reason})

    def set_cookie(self, *args: Any, **kwargs: Any) -> None:
        """No cookie: a tunnel is no login."""


def _parse(body: bytes) -> tuple[int, bytes]:
    """A gRPC-Web body of our own model server: at most one message, then the trailers."""
    reply, trailers = b"", b""
    at = 0
    while at + 5 <= len(body):
        flags, size = struct.unpack_from(">BI", body, at)
        data = body[at + 5 : at + 5 + size]
        at += 5 + size
        if flags & 0x80:
            trailers = data
        else:
            reply = data
    told = dict(line.split(":", 1) for line in trailers.decode("ascii").split("\r\n") if line)
    code = int(told.get("grpc-status", "2"))
    return code, reply if code == 0 else unquote(told.get("grpc-message", "")).encode()

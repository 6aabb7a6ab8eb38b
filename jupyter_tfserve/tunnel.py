"""`jupyter tfserve tunnel URL`: a local gRPC port whose calls go through a Jupyter Server, or a JupyterHub's proxy,
which speak HTTP/1.1 only. For stock gRPC clients on the caller's machine; `extension/tunnel.py` is the other end.

The messages on the websocket, all binary, numbers in network order::

    a call      number u32, time limit in ms u32 (0: none), length of the path u16, path, the request
    given up    a call without a path
    a reply     number u32, grpc-status u16, the response, or the message of a status that is not 0
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import struct
import sys
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

PERMISSION_DENIED = 7
UNAVAILABLE = 14
UNAUTHENTICATED = 16

_CALL = struct.Struct(">IIH")
_REPLY = struct.Struct(">IH")

#: Seconds between two signs of life: proxies cut a line that is silent for longer.
_PING = 20.0


class TunnelError(Exception):
    """There is no tunnel; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True)
class Call:
    """A unary call on its way in."""

    number: int
    path: str  #: "/package.Service/Method"; "": the call of this number is given up
    payload: bytes = b""
    timeout_ms: int = 0

    def pack(self) -> bytes:
        """As a message."""
        path = self.path.encode("ascii")
        return _CALL.pack(self.number, self.timeout_ms, len(path)) + path + self.payload

    @classmethod
    def parse(cls, message: bytes) -> Call:
        """From a message. Raises ValueError."""
        if len(message) < _CALL.size:
            raise ValueError("too short")
        number, timeout_ms, length = _CALL.unpack_from(message)
        path = message[_CALL.size : _CALL.size + length].decode("ascii")
        if len(path) < length or (path and not (path.startswith("/") and path.isprintable() and " " not in path)):
            raise ValueError("no path of a method")
        return cls(number, path, message[_CALL.size + length :], timeout_ms)


@dataclass(frozen=True)
class Reply:
    """How a call ended."""

    number: int
    code: int  #: grpc-status
    body: bytes  #: the response, or the message in UTF-8

    def pack(self) -> bytes:
        """As a message."""
        return _REPLY.pack(self.number, self.code) + self.body

    @classmethod
    def parse(cls, message: bytes) -> Reply:
        """From a message. Raises ValueError."""
        if len(message) < _REPLY.size:
            raise ValueError("too short")
        number, code = _REPLY.unpack_from(message)
        return cls(number, code, message[_REPLY.size :])


def websocket_url(url: str) -> str:
    """The tunnel's address from what a user has: a Jupyter Server's URL, or that of one of its models."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise TunnelError(f"{url!r} is no address of a Jupyter Server.", "It begins with http:// or https://.")
    head, found, _ = parts.path.partition("/tfserve")
    return f"{scheme}://{parts.netloc}{head if found else parts.path.rstrip('/')}/tfserve/grpc-tunnel"


class Tunnel:
    """The websocket; opened again with the next call when it broke. All methods belong to one event loop."""

    def __init__(self, url: str, token: str) -> None:
        self._url = websocket_url(url)
        self._token = token
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._opening = asyncio.Lock()
        self._line: WebSocketClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect unless it is. Raises TunnelError."""
        async with self._opening:
            if self._line is not None:
                return
            try:
                request = HTTPRequest(
                    self._url,
                    headers={"Authorization": f"Bearer {self._token}"},
                    ssl_options=ssl.create_default_context() if self._url.startswith("wss:") else None,
                    follow_redirects=False,
                )
                self._line = await websocket_connect(request, ping_interval=_PING, max_message_size=2**31 - 1)
            except HTTPClientError as error:
                raise _refused(error) from error
            except (OSError, ssl.SSLError) as error:
                raise TunnelError(f"{self._url} cannot be reached: {error}.", "Check the address.") from error
            self._reading = asyncio.create_task(self._read(self._line))

    async def call(self, path: str, payload: bytes, timeout_ms: int = 0) -> Reply:
        """Make a call; a broken line is a reply of UNAVAILABLE."""
        number = next(self._numbers) & 0xFFFFFFFF
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        try:
            await self.open()
            assert self._line is not None
            self._waiting[number] = waiting
            await self._line.write_message(Call(number, path, payload, timeout_ms).pack(), binary=True)
            return await waiting
        except TunnelError as error:
            return Reply(number, UNAVAILABLE, error.message.encode())
        except WebSocketClosedError:
            return Reply(number, UNAVAILABLE, b"The tunnel broke; try again.")
        except asyncio.CancelledError:
            with contextlib.suppress(WebSocketClosedError):
                if self._line is not None:
                    self._line.write_message(Call(number, "").pack(), binary=True)
            raise
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=5)

    async def _read(self, line: WebSocketClientConnection) -> None:
        while (message := await line.read_message()) is not None:
            with contextlib.suppress(ValueError):
                reply = Reply.parse(message if isinstance(message, bytes) else b"")
                waiting = self._waiting.get(reply.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
        self._line = None
        for number, waiting in self._waiting.items():
            if not waiting.done():
                waiting.set_result(Reply(number, UNAVAILABLE, b"The tunnel broke; try again."))


def _refused(error: HTTPClientError) -> TunnelError:
    if error.code in (401, 403):
        return TunnelError(
            f"The server refuses the token ({error.code}).",
            "Is it a token for predictions on this server, and not expired or revoked?",
        )
    return TunnelError(
        f"The server answers {error.code}, and opens no tunnel.", "Is the address right, and jupyter_tfserve there?"
    )


async def serve(url: str, token: str, address: str) -> None:
    """Carry the calls that come to a local gRPC address, ``host:port`` or ``unix:path``; runs until cancelled. Raises
    TunnelError.
    """
    try:
        import grpc
    except ImportError:
        raise TunnelError("The tunnel needs the package grpcio.", f"{sys.executable} -m pip install grpcio") from None
    tunnel = Tunnel(url, token)
    await tunnel.open()
    codes = {code.value[0]: code for code in grpc.StatusCode}

    class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
        """Every method of every service, as bytes."""

        def service(self, details: Any) -> Any:
            async def call(payload: bytes, context: Any) -> bytes:
                left = context.time_remaining()
                timeout = 0 if left is None else min(max(1, int(left * 1000)), 2**32 - 1)
                reply = await tunnel.call(details.method, payload, timeout)
                if reply.code:
                    await context.abort(codes.get(reply.code, grpc.StatusCode.UNKNOWN), reply.body.decode())
                return reply.body

            return grpc.unary_unary_rpc_method_handler(call)

    server = grpc.aio.server(
        options=[
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
    )
    server.add_generic_rpc_handlers((Everything(),))
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError:
        bound = 0
    if not bound:
        raise TunnelError(f"{address} is taken.", "Choose another with --port.")
    await server.start()
    where = address if address.startswith("unix:") else f"127.0.0.1:{bound}"
    sys.stdout.write(f"gRPC on {where} is carried to {urlsplit(url).netloc}. Ctrl-C ends it.\n")
    sys.stdout.flush()
    try:
        await server.wait_for_termination()
    finally:
        await server.stop(1.0)
        await tunnel.close()

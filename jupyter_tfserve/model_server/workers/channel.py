"""Requests to one worker and its answers, over its Unix socket: keep-alive connections, each with one request at a
time, so that a slow one holds up no other. All of it runs in the event loop's thread.

What the worker answers is read without a parser: it is this package's own `frontends/http.py`, which always says how
long a body is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

#: Connections to one worker; more requests wait for one.
_MAX_CONNECTIONS = 256

#: Requests that may wait for a connection; what comes on top is refused.
_MAX_WAITING = 10_000


class ChannelFull(Exception):
    """Too many requests wait for a connection."""


class Forwarded:
    """A request on its way; told once what became of it."""

    __slots__ = ("body", "connection", "head")

    head: bytes  #: request line and headers, with the empty line
    body: tuple[bytes, ...]
    connection: _Connection | None  #: while it waits for the answer

    def answered(self, head: bytes, body: bytes) -> None:
        """The worker's answer; `head` is its status line and headers."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection ended before the answer had come: the worker is gone, or had closed an idle connection."""
        raise NotImplementedError


class Channel:
    """The connections to one worker."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[Forwarded] = deque()
        self._closed = False

    def send(self, request: Forwarded) -> None:
        """Send a request, or let it wait for a connection. Raises ChannelFull."""
        request.connection = None
        if self._closed:
            self._loop.call_soon(request.lost)
        elif self._idle:
            self._idle.pop().send(request)
        else:
            if len(self._waiting) >= _MAX_WAITING:
                raise ChannelFull
            self._waiting.append(request)
            self._open()

    def drop(self, request: Forwarded) -> None:
        """Nobody wants the answer any more: the worker, if it has the request, sees its client go."""
        if request.connection is not None:
            request.connection.drop()
        elif request in self._waiting:
            self._waiting.remove(request)

    async def close(self) -> None:
        """Close all connections; what waits is lost, and knows it when this returns."""
        self._closed = True
        for connection in list(self._all):
            connection.close()
        while self._all or self._opening:
            await asyncio.sleep(0.001)
        self._lose_waiting()

    def _open(self) -> None:
        """One more connection where there are not enough for what waits."""
        if len(self._all) + len(self._opening) < _MAX_CONNECTIONS and len(self._opening) < len(self._waiting):
            task = self._loop.create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        try:
            await self._loop.create_unix_connection(lambda: _Connection(self), self._path)
        except OSError:  # gone, or going
            if not self._all:
                self._lose_waiting()

    def _lose_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            request.lost()

    # A connection calls these.

    def opened(self, connection: _Connection) -> None:
        """It can be used."""
        self._all.add(connection)
        if self._closed:
            connection.close()
        else:
            self.free(connection)

    def free(self, connection: _Connection) -> None:
        """Its answer has come: it takes the next request."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def gone(self, connection: _Connection) -> None:
        """It has ended."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting and not self._closed:
            self._open()


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._transport: asyncio.Transport | None = None
        self._request: Forwarded | None = None
        self._parts: list[bytes] = []
        self._head = b""
        self._missing = 0  # bytes of the body that have not come yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        self._channel.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._channel.gone(self)
        request, self._request = self._request, None
        if request is not None:
            request.connection = None
            request.lost()

    def send(self, request: Forwarded) -> None:
        """Send a request; there is none under way."""
        self._request = request
        request.connection = self
        transport = self._transport
        if transport is None or transport.is_closing():
            return  # `connection_lost` comes
        if sum(map(len, request.body)) < 65536:
            transport.write(request.head + b"".join(request.body))
        else:
            transport.writelines([request.head, *request.body])

    def data_received(self, data: bytes) -> None:
        if not self._head:
            if self._parts:
                self._parts.append(data)
                data = b"".join(self._parts)
                self._parts.clear()
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._parts.append(data)
                return
            self._head = data[:end]
            start = self._head.find(b"\r\nContent-Length: ") + 18
            self._missing = int(self._head[start:].split(b"\r\n", 1)[0])
            data = data[end + 4 :]
        self._missing -= len(data)
        if self._missing > 0:
            self._parts.append(data)
            return
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts.clear()
        head, self._head = self._head, b""
        request, self._request = self._request, None
        if self._transport is not None and not self._transport.is_closing():
            if head.endswith(b"\r\nConnection: close"):  # it is draining
                self._transport.close()
            else:
                self._channel.free(self)
        if request is not None:
            request.connection = None
            request.answered(head, data)

    def drop(self) -> None:
        """Forget the request and the connection with it."""
        if self._request is not None:
            self._request.connection = None
            self._request = None
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close now; a request under way is lost."""
        if self._transport is not None:
            self._transport.abort()

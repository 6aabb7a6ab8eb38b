"""Raw bytes to the model server over its Unix socket, and back: a small pooled HTTP/1.1 client on asyncio streams.

It knows no paths and looks into no body. `inference.py` streams through it, `management.py` and `broadcast.py` use it
for the management API. The peer is ours: it answers with a Content-Length, in chunks, or until it closes.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: Bytes handed on at a time.
CHUNK = 64 * 1024

#: Requests at the model server at once; more wait here, with their bodies unread.
MAX_EXCHANGES = 256

#: Idle connections kept, and for how many seconds: far fewer than the peer's own limit (300), so that it is never the
#: peer who closes one that we are about to use.
MAX_IDLE = 32
IDLE_SECONDS = 60.0

#: Seconds that a full queue of new connections at the model server gets to become shorter.
_CONNECT_SECONDS = 5.0

#: RFC 9110, 7.6.1: these are between two neighbours, never handed on.
HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    "upgrade".split()
)


class Unreachable(Exception):
    """The model server does not run, or ended before its answer was complete."""


@dataclass(frozen=True)
class Head:
    """Status line and headers of an answer; hop-by-hop headers are taken out."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    reason: str
    content_type: str
    body: bytes


class Forwarder:
    """The connections to one model server. All methods belong to one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._slots = asyncio.Semaphore(MAX_EXCHANGES)
        self.in_flight = 0  #: requests that have begun and whose answer is not complete
        self._idle: list[_Connection] = []  # the one used last is at the end, and is used next

    async def begin(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), length: int | None = 0
    ) -> Exchange:
        """Send the head of a request; `length` is its body's, None for one that comes in chunks.

        `target` goes out as it is. Raises Unreachable.
        """
        await self._slots.acquire()
        try:
            connection = self._take_idle() or await self._connect()
            lines = [f"{method} {target} HTTP/1.1", "Host: tfserve", *(f"{name}: {value}" for name, value in headers)]
            if length is None:
                lines.append("Transfer-Encoding: chunked")
            elif length or method not in ("GET", "HEAD", "OPTIONS"):
                lines.append(f"Content-Length: {length}")
            connection.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        except BaseException:
            self._slots.release()
            raise
        self.in_flight += 1
        return Exchange(self, connection, method, chunked=length is None)

    async def fetch(self, method: str, target: str, body: bytes = b"", content_type: str = "") -> Answer:
        """Ask and read the whole answer. Raises Unreachable."""
        headers = [("Content-Type", content_type)] if content_type else []
        exchange = await self.begin(method, target, headers, len(body))
        try:
            if body:
                await exchange.write(body)
            head = await exchange.head()
            parts = []
            while part := await exchange.read():
                parts.append(part)
        finally:
            exchange.abort()
        types = [value for name, value in head.headers if name.lower() == "content-type"]
        return Answer(head.status, head.reason, types[0] if types else "", b"".join(parts))

    def close(self) -> None:
        """Let go of the idle connections."""
        for connection in self._idle:
            connection.writer.transport.abort()
        self._idle.clear()

    def _take_idle(self) -> _Connection | None:
        """An idle connection that still stands; those that do not are let go of."""
        fresh = [connection for connection in self._idle if connection.is_fresh()]
        for connection in self._idle:
            if connection not in fresh:
                connection.writer.transport.abort()
        self._idle = fresh
        return fresh.pop() if fresh else None

    async def _connect(self) -> _Connection:
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.setblocking(False)
        end = time.monotonic() + _CONNECT_SECONDS
        try:
            while True:
                try:
                    # asyncio would take EAGAIN for "under way", which it never is on a Unix socket
                    unix.connect(self._path)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise
                    await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_unix_connection(sock=unix, limit=CHUNK)
        except OSError as error:
            unix.close()
            raise Unreachable(f"no connection: {error.strerror or error}") from error
        except BaseException:
            unix.close()
            raise
        return _Connection(reader, writer)

    def _done(self, connection: _Connection, reusable: bool) -> None:
        self._slots.release()
        self.in_flight -= 1
        if reusable and len(self._idle) < MAX_IDLE:
            connection.since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.writer.transport.abort()


class _Connection:
    """One connection; `since` is when it became idle."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.since = 0.0

    def is_fresh(self) -> bool:
        """Whether it may carry a request. The socket itself is asked: the event loop may not have seen its end yet."""
        if self.reader.at_eof() or self.writer.is_closing() or time.monotonic() - self.since > IDLE_SECONDS:
            return False
        poll = select.poll()
        poll.register(self.writer.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)


class Exchange:
    """One request and its answer: `write` its body, then `head`, then `read` until b""."""

    def __init__(self, forwarder: Forwarder, connection: _Connection, method: str, chunked: bool) -> None:
        self._forwarder = forwarder
        self._connection: _Connection | None = connection
        self._reader = connection.reader
        self._method = method
        self._chunked = chunked
        self._broken = False
        self._keep_alive = True
        self._left: int | None = 0  # bytes of the body (of the chunk, in chunks) still to come; None: until the end
        self._in_chunks = False

    async def write(self, part: bytes) -> None:
        """Send a part of the body; waits while the model server does not take it."""
        if self._connection is None or self._broken:
            return
        if self._chunked:
            part = b"%x\r\n%b\r\n" % (len(part), part)
        try:
            self._connection.writer.write(part)
            await self._connection.writer.drain()
        except OSError:
            self._broken = True  # `head` says so, or reads what was answered before the peer hung up

    async def head(self) -> Head:
        """End the body and wait for the answer's head. Raises Unreachable."""
        if self._chunked and self._connection is not None and not self._broken:
            self._connection.writer.write(b"0\r\n\r\n")
        try:
            while True:
                lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
                protocol, status, reason = (lines[0] + "  ").split(" ", 2)
                if not status.startswith("1"):
                    break  # 1xx is not the answer yet
            headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
            self._expect_body(int(status), {name.lower(): value.lower() for name, value in headers}, protocol)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self.abort()
            raise Unreachable(f"no answer: {error}") from error
        if self._left == 0 and not self._in_chunks:
            self._finish()
        return Head(int(status), reason.strip(), tuple(pair for pair in headers if pair[0].lower() not in HOP_BY_HOP))

    def _expect_body(self, status: int, headers: dict[str, str], protocol: str) -> None:
        self._keep_alive = protocol == "HTTP/1.1" and headers.get("connection") != "close"
        if self._method == "HEAD" or status in (204, 304):
            return
        if headers.get("transfer-encoding") == "chunked":
            self._in_chunks = True
        elif "content-length" in headers:
            self._left = int(headers["content-length"])
        else:
            self._left, self._keep_alive = None, False

    async def read(self) -> bytes:
        """The next part of the answer's body, b"" at its end. Raises Unreachable if it breaks off."""
        try:
            if self._in_chunks and self._left == 0:
                await self._next_chunk()
            if self._left == 0:
                return b""
            part = await self._reader.read(CHUNK if self._left is None else min(CHUNK, self._left))
            if self._left is not None:
                if not part:
                    raise EOFError("the answer broke off")
                self._left -= len(part)
                if self._in_chunks and self._left == 0:
                    await self._reader.readexactly(2)
        except (OSError, EOFError, ValueError) as error:
            self.abort()
            raise Unreachable(f"the answer broke off: {error}") from error
        if not part or (self._left == 0 and not self._in_chunks):
            self._finish()
        return part

    async def _next_chunk(self) -> None:
        self._left = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if self._left == 0:
            while await self._reader.readuntil(b"\r\n") != b"\r\n":
                pass  # trailers
            self._in_chunks = False
            self._finish()

    def _finish(self) -> None:
        """The answer is complete."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._forwarder._done(connection, self._keep_alive and not self._broken)

    def abort(self) -> None:
        """Give up: the model server sees its connection end. Nothing happens where the answer was complete."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._forwarder._done(connection, reusable=False)

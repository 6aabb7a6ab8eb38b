"""Raw bytes to the model server over its Unix socket, and back: a small pooled HTTP/1.1 client.

It knows no paths and looks into no body. `inference.py` streams through it, `management.py` and `broadcast.py` use it
for the management API. The peer is ours: it answers with a Content-Length, in chunks, or until it closes.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .connection import Connection

#: Bytes that the head of an answer may have, or a line between its chunks.
MAX_HEAD = 64 * 1024

#: Heads up to this long are parsed once: those of predictions differ by little more than their length.
_REMEMBERED = 512

#: Bytes of a body that may go through one exchange before the event loop has its turn: below a millisecond's work, so
#: that a large body never holds up the kernels of the Jupyter Server.
TURN = 512 * 1024

#: A part of a body up to this long goes out together with the head.
_SMALL = 64 * 1024

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
        self._idle: list[Connection] = []  # the one used last is at the end, and is used next

    async def begin(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), length: int | None = 0
    ) -> Exchange:
        """Begin a request: its head goes out with the first part of its body.

        `length` is the body's, None for one that comes in chunks. `target` goes out as it is. Raises Unreachable.
        """
        await self._slots.acquire()
        try:
            connection = self._take_idle() or await self._connect()
            lines = [f"{method} {target} HTTP/1.1", "Host: tfserve", *(f"{name}: {value}" for name, value in headers)]
            if length is None:
                lines.append("Transfer-Encoding: chunked")
            elif length or method not in ("GET", "HEAD", "OPTIONS"):
                lines.append(f"Content-Length: {length}")
            head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        except BaseException:
            self._slots.release()
            raise
        self.in_flight += 1
        return Exchange(self, connection, method, head, chunked=length is None)

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
            connection.abort()
        self._idle.clear()

    def _take_idle(self) -> Connection | None:
        """The idle connection used last that still stands; those met that do not are let go of, and so is the one that
        has been idle longest if that is too long.
        """
        if self._idle and time.monotonic() - self._idle[0].since > IDLE_SECONDS:
            self._idle.pop(0).abort()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh(IDLE_SECONDS):
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
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
            return await Connection.connect(unix)
        except OSError as error:
            unix.close()
            raise Unreachable(f"no connection: {error.strerror or error}") from error
        except BaseException:
            unix.close()
            raise

    def _done(self, connection: Connection, reusable: bool) -> None:
        self._slots.release()
        self.in_flight -= 1
        if reusable and len(self._idle) < MAX_IDLE:
            connection.since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.abort()


class Exchange:
    """One request and its answer: `write` its body, then `head`, then `read` until b""."""

    def __init__(self, forwarder: Forwarder, connection: Connection, method: str, head: bytes, chunked: bool) -> None:
        self._forwarder = forwarder
        self._connection: Connection | None = connection
        self._bytes = connection
        self._method = method
        self._unsent = head
        self._chunked = chunked
        self._broken = False
        self._keep_alive = True
        self._left: int | None = 0  # bytes of the body (of the chunk, in chunks) still to come; None: until the end
        self._in_chunks = False
        self._passed = 0  # bytes of bodies since the event loop had its turn

    @property
    def complete(self) -> bool:
        """Whether all of the answer was read."""
        return self._connection is None

    async def write(self, part: bytes) -> None:
        """Send a part of the body; waits while the model server does not take it."""
        if self._connection is None or self._broken:
            return
        self._passed += len(part)
        if self._chunked:
            part = b"%x\r\n%b\r\n" % (len(part), part)
        if self._unsent and len(part) <= _SMALL:
            part, self._unsent = self._unsent + part, b""
        try:
            self._send_head()
            self._connection.write(part)
            await self._connection.drain()
        except OSError:
            self._broken = True  # `head` says so, or reads what was answered before the peer hung up
        if self._passed > TURN:
            await self._give_way()

    async def _give_way(self) -> None:
        """Where both neighbours are fast nothing ever waits, and nobody else would have a turn."""
        self._passed = 0
        await asyncio.sleep(0)

    def _send_head(self) -> None:
        if self._unsent and self._connection is not None:
            head, self._unsent = self._unsent, b""
            self._connection.write(head)

    async def head(self) -> Head:
        """End the body and wait for the answer's head. Raises Unreachable."""
        self._send_head()
        if self._chunked and self._connection is not None and not self._broken:
            self._connection.write(b"0\r\n\r\n")
        try:
            while True:
                head = await self._bytes.read_until(b"\r\n\r\n", MAX_HEAD)
                parsed = _parse_again(head) if len(head) <= _REMEMBERED else _parse(head)
                if parsed.head.status >= 200:
                    break  # 1xx is not the answer yet
        except (OSError, EOFError, ValueError) as error:
            self.abort()
            raise Unreachable(f"no answer: {error}") from error
        self._keep_alive = parsed.keep_alive
        if self._method != "HEAD" and parsed.head.status not in (204, 304):
            self._in_chunks, self._left = parsed.in_chunks, parsed.length
            self._keep_alive = self._keep_alive and parsed.length is not None
        if self._left == 0 and not self._in_chunks:
            self._finish()
        return parsed.head

    async def read(self) -> bytes:
        """The next part of the answer's body, b"" at its end. Raises Unreachable if it breaks off."""
        if self._passed > TURN:
            await self._give_way()
        try:
            if self._in_chunks and self._left == 0:
                await self._next_chunk()
            if self._left == 0:
                return b""
            part = await self._bytes.read(self._left)
            if self._left is not None:
                if not part:
                    raise EOFError("the answer broke off")
                self._left -= len(part)
                if self._in_chunks and self._left == 0 and await self._bytes.read_until(b"\r\n", 2) != b"\r\n":
                    raise ValueError("a chunk is longer than it says")
        except (OSError, EOFError, ValueError) as error:
            self.abort()
            raise Unreachable(f"the answer broke off: {error}") from error
        self._passed += len(part)
        if not part or (self._left == 0 and not self._in_chunks):
            self._finish()
        return part

    async def _next_chunk(self) -> None:
        self._left = int((await self._bytes.read_until(b"\r\n", MAX_HEAD)).split(b";")[0], 16)
        if self._left == 0:
            while await self._bytes.read_until(b"\r\n", MAX_HEAD) != b"\r\n":
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


@dataclass(frozen=True)
class _Parsed:
    """A head, and how the body after it is framed: `length` None is until the connection ends."""

    head: Head
    keep_alive: bool
    in_chunks: bool
    length: int | None


def _parse(head: bytes) -> _Parsed:
    """Raises ValueError."""
    lines = head.decode("latin-1").split("\r\n")[:-2]
    protocol, status, reason = (lines[0] + "  ").split(" ", 2)
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
    said = {name.lower(): value.lower() for name, value in headers}
    in_chunks = said.get("transfer-encoding") == "chunked"
    length = 0 if in_chunks else int(said["content-length"]) if "content-length" in said else None
    handed_on = tuple(pair for pair in headers if pair[0].lower() not in HOP_BY_HOP)
    return _Parsed(
        Head(int(status), reason.strip(), handed_on),
        protocol == "HTTP/1.1" and said.get("connection") != "close",
        in_chunks,
        length,
    )


_parse_again = functools.lru_cache(1024)(_parse)

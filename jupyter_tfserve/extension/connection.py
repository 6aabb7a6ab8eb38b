"""One connection to the model server: bytes as they come, with back-pressure both ways. `forward.py` speaks HTTP on it.

Less than asyncio's streams do, for half the cost: a reply that came whole is handed on without being copied or waited
for.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections import deque
from typing import cast

#: Bytes read ahead: where nobody takes them, the peer waits.
_AHEAD = 256 * 1024


class Connection(asyncio.Protocol):
    """Made by `connect`; `since` is when it became idle (time.monotonic)."""

    def __init__(self) -> None:
        self.since = 0.0
        self._loop = asyncio.get_running_loop()
        self._parts: deque[bytes] = deque()
        self._at = 0  # of the first part, how much was taken
        self._size = 0  # bytes not taken yet
        self._ended = False
        self._error: Exception | None = None
        self._reading = True
        self._to_read: asyncio.Future[None] | None = None
        self._to_write: asyncio.Future[None] | None = None
        self._full = False

    @classmethod
    async def connect(cls, connected: socket.socket) -> Connection:
        """Take over a connected socket. Raises OSError."""
        _, connection = await asyncio.get_running_loop().create_unix_connection(cls, sock=connected)
        return connection

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > _AHEAD and self._reading:
            self._reading = False
            self._transport.pause_reading()
        _wake(self._to_read)

    def connection_lost(self, error: Exception | None) -> None:
        """The peer has closed, or we have."""
        self._ended = True
        self._error = error
        _wake(self._to_read)
        _wake(self._to_write)

    def pause_writing(self) -> None:
        """The peer takes no more for now."""
        self._full = True

    def resume_writing(self) -> None:
        """It does again."""
        self._full = False
        _wake(self._to_write)

    # The owner calls these, one task at a time for each direction.

    def is_fresh(self, idle_seconds: float) -> bool:
        """Whether it may carry a request. The socket itself is asked: the event loop may not have seen its end yet."""
        if self._ended or self._size or time.monotonic() - self.since > idle_seconds:
            return False
        return not self._transport.is_closing() and not self._poll.poll(0)

    def write(self, data: bytes) -> None:
        """Send; see `drain`."""
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait while the peer takes no more. Raises OSError when the connection is gone."""
        if self._full and not self._ended:
            self._to_write = self._loop.create_future()
            try:
                await self._to_write
            finally:
                self._to_write = None
        if self._ended:
            raise self._error if isinstance(self._error, OSError) else ConnectionResetError("the connection has ended")

    async def read(self, limit: int | None) -> bytes:
        """What is there, at most `limit` bytes; waits for some. b"" at the end. Raises OSError."""
        if not self._size and not await self._more():
            return b""
        part = self._parts[0]
        if self._at or (limit is not None and limit < len(part)):
            end = len(part) if limit is None else min(len(part), self._at + limit)
            part = part[self._at : end]
        return self._taken(part)

    async def read_until(self, separator: bytes, limit: int) -> bytes:
        """Up to and with `separator`. Raises EOFError, OSError, and ValueError if more than `limit` bytes have none."""
        while True:
            if self._size:
                if len(self._parts) > 1 and self._parts[0].find(separator, self._at) < 0:
                    self._join()
                end = self._parts[0].find(separator, self._at)
                if end >= 0:
                    return self._taken(self._parts[0][self._at : end + len(separator)])
                if self._size > limit:
                    raise ValueError("a head or a line is too long")
            if not await self._more():
                raise EOFError("the answer broke off")

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _taken(self, part: bytes) -> bytes:
        self._at += len(part)
        self._size -= len(part)
        if self._at == len(self._parts[0]):
            self._parts.popleft()
            self._at = 0
        if not self._reading and self._size <= _AHEAD // 2 and not self._ended:
            self._reading = True
            self._transport.resume_reading()
        return part

    def _join(self) -> None:
        whole = b"".join([self._parts.popleft()[self._at :], *self._parts])
        self._parts.clear()
        self._parts.append(whole)
        self._at = 0

    async def _more(self) -> bool:
        """Wait for bytes; False if there will be none."""
        if self._ended:
            if self._error is not None:
                raise self._error
            return False
        before = self._size
        self._to_read = self._loop.create_future()
        try:
            await self._to_read
        finally:
            self._to_read = None
        if self._size == before and self._error is not None:
            raise self._error
        return self._size > before


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)

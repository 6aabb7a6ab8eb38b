"""The model server's log to whoever follows it at ``/tfserve/api/logs?follow=true``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from ..log_tail import LOOK, LogTail


class LogFollower:
    """One stream."""

    def __init__(self, followers: set[LogFollower], path: Path, lines: int) -> None:
        self._followers = followers
        self._path = path
        self._lines = lines
        self._end = asyncio.Event()
        followers.add(self)

    def close(self) -> None:
        """End the stream."""
        self._followers.discard(self)
        self._end.set()

    async def parts(self) -> AsyncIterator[bytes]:
        """The last lines, then what is written. The disk is read in a thread."""
        tail = await asyncio.to_thread(LogTail, self._path, self._lines)
        try:
            while not self._end.is_set():
                part = await asyncio.to_thread(tail.read)
                if part:
                    yield part
                else:
                    try:
                        await asyncio.wait_for(self._end.wait(), LOOK)
                    except asyncio.TimeoutError:
                        continue
        finally:
            tail.close()
            self._followers.discard(self)


class LogFollowers:
    """All streams. Belongs to one event loop."""

    def __init__(self) -> None:
        self._followers: set[LogFollower] = set()

    def follow(self, path: Path, lines: int) -> LogFollower:
        """A stream that begins with the last `lines`."""
        return LogFollower(self._followers, path, lines)

    def close(self) -> None:
        """End all streams."""
        for follower in list(self._followers):
            follower.close()

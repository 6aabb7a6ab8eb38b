"""Changes to whoever listens at ``/tfserve/api/events``: the model server's own events and what its supervisor sees."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import cast

from ..api import Event
from .forward import Forwarder, Unreachable

#: Seconds between two signs of life on a stream that has nothing to say: proxies cut what is silent for longer.
HEARTBEAT = 15.0

#: Events that a listener may lag behind; then it is cut off, and reads the state afresh when it comes back.
_MAX_LAG = 1000


class Listener:
    """One stream of events."""

    def __init__(self, broadcast: Broadcast, stats: bool) -> None:
        self._broadcast = broadcast
        self.stats = stats  #: whether it wants the events of type "stats"
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def put(self, event: Event) -> None:
        """Hand over an event; never waits."""
        if event["type"] == "stats" and not self.stats:
            return
        if self._queue.qsize() < _MAX_LAG:
            self._queue.put_nowait(event)
        else:
            self.close()

    def close(self) -> None:
        """End the stream, after what is waiting in it."""
        self._broadcast.leave(self)
        self._queue.put_nowait(None)

    async def parts(self) -> AsyncIterator[bytes]:
        """Events as server-sent events; comments in between show that the line is alive."""
        yield b": connected\n\n"
        while True:
            try:
                event = await asyncio.wait_for(self._queue.get(), HEARTBEAT)
            except asyncio.TimeoutError:
                yield b": alive\n\n"
                continue
            if event is None:
                return
            yield b"data: " + json.dumps(event).encode() + b"\n\n"


class Broadcast:
    """Tells every listener every event. Belongs to one event loop. `on_stats(wanted)` is told when the first listener
    comes who wants the events of type "stats", and when the last one is gone.
    """

    def __init__(self, on_stats: Callable[[bool], None] = lambda wanted: None) -> None:
        self._listeners: set[Listener] = set()
        self._on_stats = on_stats

    def listen(self, stats: bool = False) -> Listener:
        """A stream of what happens from now on."""
        listener = Listener(self, stats)
        if stats and not self._wants_stats():
            self._on_stats(True)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """It is told nothing more."""
        if listener in self._listeners:
            self._listeners.discard(listener)
            if listener.stats and not self._wants_stats():
                self._on_stats(False)

    def _wants_stats(self) -> bool:
        return any(listener.stats for listener in self._listeners)

    def publish(self, event: Event) -> None:
        """Hand an event to the listeners; never waits."""
        for listener in list(self._listeners):
            listener.put(event)

    def close(self) -> None:
        """End all streams."""
        for listener in list(self._listeners):
            listener.close()


class Follower:
    """Listens to the model server while it runs, and tells `on_event` what it says; with `stats` nothing but the
    events of that type.
    """

    def __init__(self, forwarder: Forwarder, on_event: Callable[[Event], None], stats: bool = False) -> None:
        self._forwarder = forwarder
        self._on_event = on_event
        self._stats = stats
        self._running = asyncio.Event()
        self._listening = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = asyncio.create_task(self._follow(), name="tfserve-events")

    def cancel(self) -> None:
        """End, soon."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def stop(self) -> None:
        """End."""
        task = self._task
        self.cancel()
        if task is not None:
            await asyncio.wait([task])

    def set_running(self, running: bool) -> None:
        """Whether there is a model server to listen to."""
        if running:
            self._running.set()
        else:
            self._running.clear()

    async def listening(self) -> None:
        """Wait until nothing that happens from now on is missed; not for ever: it may have ended meanwhile."""
        try:
            await asyncio.wait_for(self._listening.wait(), 2.0)
        except asyncio.TimeoutError:
            pass

    async def _follow(self) -> None:
        while True:
            await self._running.wait()
            try:
                await self._read_stream()
            except Unreachable:
                pass  # the supervisor knows why, and says when there is a new one
            finally:
                self._listening.clear()
            await asyncio.sleep(0.1)

    async def _read_stream(self) -> None:
        exchange = await self._forwarder.begin("GET", "/api/events?stats=true" if self._stats else "/api/events")
        try:
            head = await exchange.head()
            text = b""
            while head.status == 200 and (part := await exchange.read()):
                self._listening.set()
                *lines, text = (text + part).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: "):
                        event = cast(Event, json.loads(line[6:]))
                        if not self._stats or event["type"] == "stats":
                            self._on_event(event)
        finally:
            exchange.abort()

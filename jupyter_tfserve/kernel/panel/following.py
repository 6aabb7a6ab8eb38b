"""Follows what is served, in two threads: one reads the stream of events, the other fetches what has changed and tells
the panel. Where there is no stream it asks again every few seconds. Both end with `close`.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from ...api import Event, ModelStatus, Sample, State, Stats
from ...client import EventStream, TFServeError
from ..base import Endpoint
from ..errors import plain_errors

#: Seconds during which changes are gathered into one update.
_GATHER = 0.03

#: Changed models that are fetched one by one; of more the whole state is.
_FEW = 3

#: Seconds before the stream is tried again: at first, and at most.
_AGAIN = (0.5, 3.0)


class Listener(Protocol):
    """Whom it tells, from its own thread."""

    def on_state(self, state: State) -> None:
        """Everything may have changed."""

    def on_model(self, name: str, status: ModelStatus | None) -> None:
        """One model has; None: it is not served any more."""

    def on_history(self, stats: Stats) -> None:
        """The last seconds."""

    def on_samples(self, samples: Mapping[str, Sample]) -> None:
        """One second has passed."""

    def on_event(self, event: Event) -> None:
        """Something else happened."""

    def on_lost(self, error: TFServeError) -> None:
        """Nobody answers; it goes on asking."""


class Following:
    """From `start` to `close`. `endpoint` is asked again for each stream: a Jupyter Server may have been replaced."""

    def __init__(self, endpoint: Callable[[], Endpoint], listener: Listener) -> None:
        self._endpoint = endpoint
        self._listener = listener
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._stream: EventStream | None = None
        self._reader = threading.Thread(target=self._read, name="tfserve-panel-events", daemon=True)
        self._teller = threading.Thread(target=self._tell, name="tfserve-panel", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._reader.start()
        self._teller.start()

    @property
    def alive(self) -> bool:
        """Whether a thread of it runs."""
        return self._reader.is_alive() or self._teller.is_alive()

    def refresh(self) -> None:
        """Fetch all, soon."""
        self._queue.put(_EVERYTHING)

    def close(self) -> None:
        """End both threads, soon; does not wait."""
        self._ended.set()
        self._queue.put(None)
        if self._stream is not None:
            self._stream.close()

    # The reader's thread.

    def _read(self) -> None:
        wait = _AGAIN[0]
        while not self._ended.is_set():
            self._queue.put(_EVERYTHING)
            with (
                contextlib.suppress(TFServeError),
                plain_errors(),
                self._endpoint().listen(stats=True) as self._stream,
            ):
                self._queue.put(_EVERYTHING)  # what changed before the stream began
                for event in self._stream:
                    wait = _AGAIN[0]
                    self._queue.put(event)
                    if self._ended.is_set():
                        return
            self._stream = None
            self._ended.wait(wait)
            wait = min(2 * wait, _AGAIN[1])

    # The teller's thread.

    def _tell(self) -> None:
        while (first := self._queue.get()) is not None:
            events = [first]
            time.sleep(_GATHER)
            with contextlib.suppress(queue.Empty):
                while True:
                    event = self._queue.get_nowait()
                    if event is None:
                        return
                    events.append(event)
            if self._ended.is_set():
                return
            try:
                with plain_errors():
                    self._fetch(events)
            except TFServeError as error:
                self._listener.on_lost(error)

    def _fetch(self, events: list[Event]) -> None:
        listener, endpoint = self._listener, self._endpoint()
        names = {event["model"] for event in events if event["type"] in ("version", "model", "move")}
        everything = len(names) > _FEW or any(event["type"] == "server" for event in events)
        if everything:
            state = endpoint.state()
            listener.on_state(state)
            if any(event is _EVERYTHING for event in events) and _runs(state):
                listener.on_history(endpoint.client.stats())
        else:
            for name in sorted(names):
                try:
                    listener.on_model(name, endpoint.client.model(name))
                except TFServeError as error:
                    if error.status != 404:
                        raise
                    listener.on_model(name, None)
        for event in events:
            if event["type"] == "stats":
                listener.on_samples(event["samples"])
            elif event is not _EVERYTHING:
                listener.on_event(event)


#: Not from a server: all is to be fetched.
_EVERYTHING = Event(type="server", time=0.0)


def _runs(state: State) -> bool:
    server = state["server"]
    return server is None or server["state"] == "running"

"""Versions that nobody asks leave memory and come back with the next request (`--unload_idle_seconds`). They stay
AVAILABLE meanwhile: what they can be asked is known, and who asks is answered, only later.

`local.py` puts what it loads into an `OnDemand`, where the flag says so; without it nothing here is on a request's
path.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from weakref import WeakSet

from .servable import Array, Servable, Signature

log = logging.getLogger(__name__)

#: Part of the idle time after which is looked again, and the limits of that in seconds.
_LOOK = 0.25
_LOOK_LIMITS = (0.1, 10.0)


class OnDemand:
    """A servable that can leave memory between two runs, and is loaded again by the next one."""

    def __init__(self, name: str, servable: Servable, load: Callable[[], Servable]) -> None:
        """`name` is for the log. `load` gives the same servable again; it may wait, and raises ServingError."""
        self.name = name
        self.signatures = servable.signatures
        self.signature_def_map = servable.signature_def_map
        self.last_used = time.monotonic()
        self.on_change: Callable[[], None] = lambda: None  #: it has left memory, or come back
        self._load = load
        self._servable: Servable | None = servable
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # who comes while it loads waits for that
        self._users = 0

    @property
    def is_loaded(self) -> bool:
        """Whether it is in memory."""
        return self._servable is not None

    def run(
        self, signature: Signature, inputs: Sequence[Array], outputs: tuple[str, ...], timeout_ms: int = 0
    ) -> list[Array]:
        """As of the servable, which is loaded first where it is not in memory. Raises what loading it raises."""
        servable = self._enter()
        try:
            return servable.run(signature, inputs, outputs, timeout_ms)
        finally:
            self._leave()

    def is_quick(self, signature: Signature) -> bool:
        """As of the servable; no while it would have to be loaded."""
        servable = self._servable
        return servable is not None and servable.is_quick(signature)

    def effect(self, signature: Signature) -> str:
        """As of the servable, for the probe."""
        servable = self._enter()
        try:
            return servable.effect(signature) if hasattr(servable, "effect") else "what cannot be looked at"
        finally:
            self._leave()

    def unload(self, unused_since: float) -> bool:
        """Leave memory, unless there is a run or was one after `unused_since`, a `time.monotonic()`; whether it has."""
        with self._lock:
            servable = self._servable
            if servable is None or self._users or self.last_used > unused_since:
                return False
            self._servable = None
        servable.close()
        log.info("%s is idle and has left memory until it is asked again", self.name)
        self.on_change()
        return True

    def close(self) -> None:
        """As of the servable."""
        with self._lock:
            servable, self._servable = self._servable, None
        if servable is not None:
            servable.close()

    def _enter(self) -> Servable:
        with self._lock:
            self._users += 1
            servable = self._servable
        if servable is not None:
            return servable
        try:
            with self._loading:
                servable = self._servable
                if servable is None:
                    servable = self._load()
                    log.info("%s is asked again, and in memory again", self.name)
                    with self._lock:
                        self._servable = servable
                    self.on_change()
            return servable
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            self.last_used = time.monotonic()


class IdleUnloading:
    """Lets go of those that nobody has asked for `seconds`, and of the one that was asked the longest ago where a load
    needs its room. All methods may be called from any thread.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: WeakSet[OnDemand] = WeakSet()  # those that are not closed
        self._lock = threading.Lock()
        self._end = threading.Event()
        threading.Thread(target=self._look, name="idle", daemon=True).start()

    def add(self, servable: OnDemand) -> None:
        """From now on it may be unloaded."""
        with self._lock:
            self._known.add(servable)

    def make_room(self, is_enough: Callable[[], bool]) -> None:
        """Unload those that run nothing, the one that was used the longest ago first, until it is enough."""
        for servable in self._by_use():
            if is_enough():
                return
            servable.unload(time.monotonic())

    def close(self) -> None:
        """End."""
        self._end.set()

    def _look(self) -> None:
        least, most = _LOOK_LIMITS
        while not self._end.wait(min(most, max(least, _LOOK * self._seconds))):
            for servable in self._by_use():
                servable.unload(time.monotonic() - self._seconds)

    def _by_use(self) -> list[OnDemand]:
        with self._lock:
            return sorted((one for one in self._known if one.is_loaded), key=lambda one: one.last_used)

"""Who takes workers down: told from who only happened to be there, and for how long each waits to be loaded again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from .fleet import Key

#: Seconds before a version that was under suspicion is loaded again: after the first crash, the second ...; after the
#: last one it is given up.
BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0)

#: Crashes in a row from which on a version that is under suspicion has a process to itself.
_ALONE = 2

#: Seconds after which a version that has answered all the time begins a new count.
_STABLE_SECONDS = 60.0


@dataclass
class _Count:
    crashes: int = 0
    how: str = ""  #: the last one
    log_tail: str = ""
    since: float = field(default_factory=time.monotonic)  #: of the last load


class Crashes:
    """All versions' crashes. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._counts: dict[Key, _Count] = {}
        self._lock = threading.Lock()

    def loaded(self, key: Key) -> None:
        """A version answers, from now on."""
        with self._lock:
            if key in self._counts:
                self._counts[key].since = time.monotonic()

    def crashed(self, held: Iterable[Key], suspects: Iterable[Key], how: str, log_tail: str) -> None:
        """A worker with these versions has ended, and some of them may be why. Where none is, all of them are."""
        held, suspects = list(held), list(suspects)
        with self._lock:
            for key in suspects or held:
                count = self._counts.setdefault(key, _Count())
                if time.monotonic() - count.since > _STABLE_SECONDS:
                    count.crashes = 0
                count.crashes += 1
                count.how, count.log_tail = how, log_tail
                count.since = time.monotonic()

    def is_alone(self, key: Key) -> bool:
        """Whether it is not to share a process any more."""
        with self._lock:
            return key in self._counts and self._counts[key].crashes >= _ALONE

    def count(self, key: Key) -> int:
        """Crashes in a row under suspicion."""
        with self._lock:
            return self._counts[key].crashes if key in self._counts else 0

    def last(self, key: Key) -> tuple[str, str]:
        """How the last one ended, and the end of its log."""
        with self._lock:
            return self._counts[key].how, self._counts[key].log_tail

    def wait(self, key: Key) -> float | None:
        """Seconds before it is loaded again, None: never."""
        crashes = self.count(key)
        if not crashes:
            return 0.0
        return BACKOFF[crashes - 1] if crashes <= len(BACKOFF) else None

    def forget(self, key: Key) -> None:
        """It is given up, or not wanted any more: a load that is asked for begins anew."""
        with self._lock:
            self._counts.pop(key, None)

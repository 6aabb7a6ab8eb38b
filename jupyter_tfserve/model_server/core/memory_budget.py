"""The memory budget: a load that cannot fit is refused before the system kills the process for it. `app.py` asks before
each load.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...cgroup import memory_limit, memory_used, resident
from ..errors import Code, ServingError

#: Bytes in memory for a byte of the graph's file: the message, the graph, the session's; and up to so many bytes more
#: of Python's objects for its nodes (a large file is large by its constants).
_GRAPH_FACTOR = 3
_GRAPH_OBJECTS = 50 * 2**20

#: Of a loaded version, beside what its files say: session, executors, threads.
_BASE = 4 * 2**20

#: Bytes below which a measurement is lost in what else the process does.
_MEASURABLE = 16 * 2**20

#: How far a measurement may lead away from what the files say, either way.
_TRUSTED = 8.0

#: Part of the memory that is left alone where the budget is the machine's or the container's: requests need some.
_RESERVE = 0.05


@dataclass(frozen=True)
class Loaded:
    """A version in memory."""

    model: str
    number: int
    size: int  #: bytes


class Reservation:
    """Room for a version that is being loaded."""

    def __init__(self, model: str, number: int, size: int) -> None:
        self.model = model
        self.number = number
        self.size = size  #: bytes: estimated, and measured once it is loaded
        self.is_alone = True  #: no other load was under way, so that the process's growth is its own


class MemoryBudget:
    """What may be loaded. All methods may be called from any thread."""

    def __init__(self, megabytes: int, loaded: Callable[[], Sequence[Loaded]]) -> None:
        """`megabytes` for all versions together; 0: what the control group, or else the machine, has left; below 0: no
        limit. `loaded` lists what is in memory.
        """
        self._limit = megabytes * 2**20
        self._loaded = loaded
        self._lock = threading.Lock()
        self._pending: set[Reservation] = set()
        #: ``make_room(is_enough)``: unload what nobody needs now until it is enough; not always there is any.
        self.make_room: Callable[[Callable[[], bool]], None] = lambda is_enough: None
        self._corrections: dict[str, float] = {}  # by model: what a load took, to what its files said

    @contextlib.contextmanager
    def reserve(self, model: str, number: int, path: Path, here: bool = True) -> Iterator[Reservation]:
        """Around a load; `here`: into this process, whose growth measures it. Raises RESOURCE_EXHAUSTED, naming what
        could be unloaded, if it would not fit.
        """
        files = estimate(path)
        reservation = Reservation(model, number, int(files * self._corrections.get(model, 1.0)))
        with self._lock:
            if self._limit >= 0:
                self._check(reservation)
            for other in self._pending:
                other.is_alone = reservation.is_alone = False
            self._pending.add(reservation)
        before = resident()
        try:
            yield reservation
        except BaseException:
            with self._lock:
                self._pending.discard(reservation)
            raise
        grown = resident() - before
        with self._lock:
            self._pending.discard(reservation)
            if here and reservation.is_alone and max(grown, files) >= _MEASURABLE and grown > 0:
                self._corrections[model] = min(_TRUSTED, max(1 / _TRUSTED, grown / files))
                reservation.size = int(files * self._corrections[model])

    def _check(self, wanted: Reservation) -> None:
        """With the lock held."""
        self.make_room(lambda: wanted.size <= self._left())
        left = self._left()
        if wanted.size <= left:
            return
        limit, of_what = (
            (self._limit, "--memory_budget_mb") if self._limit else (memory_limit(), "this machine or container")
        )
        others = sorted((one for one in self._loaded() if one.size), key=lambda one: -one.size)[:5]
        unload = ", ".join(f"{one.model} version {one.number} ({_text(one.size)})" for one in others)
        raise ServingError(
            Code.RESOURCE_EXHAUSTED,
            f"Version {wanted.number} of {wanted.model} needs about {_text(wanted.size)} of memory, and "
            f"{_text(max(left, 0))} of the {_text(limit)} of {of_what} are left. "
            + (f"Unload one of: {unload}; or raise" if unload else "Raise")
            + " --memory_budget_mb (-1: no limit).",
        )

    def _left(self) -> int:
        """Bytes, with the lock held."""
        pending = sum(one.size for one in self._pending)
        if self._limit:
            return self._limit - sum(one.size for one in self._loaded()) - pending
        return int(memory_limit() * (1 - _RESERVE)) - memory_used() - pending


def estimate(path: Path) -> int:
    """Bytes that a version will have in memory, from its files: the variables as they are, the graph several times."""
    size = _BASE
    for file in path.rglob("*"):
        with contextlib.suppress(OSError):  # it may be on its way out
            if file.is_file():
                found = file.stat().st_size
                size += found
                if file.name.startswith("saved_model.pb"):
                    size += (_GRAPH_FACTOR - 1) * found + min(_GRAPH_OBJECTS, 7 * found)
    return size


def _text(size: int) -> str:
    """As people read it: "1.5 GiB"."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1024:.0f} KiB"

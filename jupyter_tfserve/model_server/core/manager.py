"""The manager: loads what is aspired to, unloads what is not, and hands out servables so that none goes away under a
request.

A version goes START -> LOADING -> AVAILABLE -> UNLOADING -> END, as in TF Serving; one that fails to load goes to END
with its error. A new version loads beside the old one, which is unloaded once the new one answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ...api import VersionState
from ..errors import Code, ServingError
from .batching import Batcher
from .policy import may_unload

log = logging.getLogger(__name__)

#: Ended versions that are remembered for each model, for the status.
_REMEMBERED = 200

#: A version whose files changed this many seconds before its load failed is probably still being copied.
_SETTLED_SECONDS = 1.0

Loader = Callable[[str, int, Path], Batcher]


@dataclass(eq=False)
class Version:
    """One version folder's life in this process."""

    model: str
    number: int
    path: Path
    state: VersionState = "START"
    error: ServingError | None = None
    servable: Batcher | None = None
    in_flight: int = 0
    is_aspired: bool = True
    tries: int = 0
    since: float = field(default_factory=time.time)
    load_seconds: float | None = None
    was_lost: bool = False  #: its process has ended, and it is being loaded again
    is_loading: bool = False  #: a thread is at it

    @property
    def loaded(self) -> Batcher:
        """What runs the requests of a version that is in use."""
        assert self.servable is not None
        return self.servable


@dataclass(eq=False)
class _Model:
    """All lives of a model's versions, oldest first, and the routes to those that answer."""

    versions: list[Version] = field(default_factory=list)
    available: dict[int, Version] = field(default_factory=dict)
    default: Version | None = None
    labels: dict[str, int] = field(default_factory=dict)  #: in force
    waiting_labels: dict[str, int] = field(default_factory=dict)  #: for versions that are not loaded yet

    def route(self) -> None:
        self.available = {v.number: v for v in self.versions if v.state == "AVAILABLE"}
        self.default = self.available[max(self.available)] if self.available else None
        for label, number in list(self.waiting_labels.items()):
            if number in self.available:
                self.labels[label] = self.waiting_labels.pop(label)


@dataclass(frozen=True)
class RetryPolicy:
    """How often a load is tried again (`max_num_load_retries`, `load_retry_interval_micros`)."""

    count: int = 5
    seconds: float = 60.0


class Manager:
    """All methods may be called from any thread. `on_change(version)` is called with the lock held: it must not
    wait.
    """

    def __init__(
        self,
        load: Loader,
        on_change: Callable[[Version], None] = lambda version: None,
        retry: RetryPolicy | None = None,
        load_threads: int = 1,
        unload_threads: int = 1,
        load_timeout: float = 0.0,
    ) -> None:
        """`load_timeout` seconds are what a load may take, 0 for no limit."""
        self._load = load
        self._on_change = on_change
        self._retry = retry or RetryPolicy()
        self._models: dict[str, _Model] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._load_threads = load_threads
        self._load_timeout = load_timeout
        self._load_pool = ThreadPoolExecutor(load_threads, "load")
        self._unload_pool = ThreadPoolExecutor(unload_threads, "unload")
        self._timers: set[threading.Timer] = set()
        self._closed = False
        self._interrupted = False

    # Requests.

    def acquire(self, name: str, number: int | None = None, label: str = "") -> Version:
        """The version that answers; it stays loaded until `release`. Raises ServingError with TF Serving's texts."""
        with self._lock:
            model = self._models.get(name)
            if label:
                number = self._number(model, label)
            if model is not None:
                version = model.default if number is None else model.available.get(number)
                if version is not None:
                    version.in_flight += 1
                    return version
                if any(v.was_lost and v.state == "LOADING" and number in (None, v.number) for v in model.versions):
                    raise ServingError(
                        Code.UNAVAILABLE,
                        f"Model {name} is loaded again: the process that ran it has ended.",
                        "Try again in a moment.",
                    )
        asked = f"Latest({name})" if number is None else f"Specific({name}, {number})"
        raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {asked}")

    def hold(self, version: Version) -> None:
        """One more request for a version that somebody has acquired, and not yet released."""
        with self._lock:
            version.in_flight += 1

    def release(self, version: Version, count: int = 1) -> None:
        """The request is done; or so many, which were acquired one by one."""
        with self._lock:
            version.in_flight -= count
            if not version.in_flight and version.state == "UNLOADING":
                self._unload_pool.submit(self._unload, version)

    @contextmanager
    def use(self, name: str, number: int | None = None, label: str = "") -> Iterator[Version]:
        """`acquire` and `release` around a block."""
        version = self.acquire(name, number, label)
        try:
            yield version
        finally:
            self.release(version)

    @staticmethod
    def _number(model: _Model | None, label: str) -> int:
        number = None
        if model is not None:
            number = model.labels.get(label, model.waiting_labels.get(label))
        if number is None:
            raise ServingError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        return number

    # What is aspired to.

    def set_aspired(self, name: str, versions: Mapping[int, Path]) -> None:
        """These versions of a model should be available, and no others."""
        with self._changed:
            if self._closed:
                return
            model = self._models.setdefault(name, _Model())
            for version in model.versions:
                was, version.is_aspired = version.is_aspired, versions.get(version.number) == version.path
                if not was and version.is_aspired and version.state in ("UNLOADING", "END"):
                    version.is_aspired = False  # it is on its way out: a new life begins
            known = {version.number for version in model.versions if version.is_aspired}
            for number, path in versions.items():
                if number not in known:
                    version = Version(name, number, path)
                    model.versions.append(version)
                    self._on_change(version)
            self._reconcile(model)

    def retry(self, name: str) -> None:
        """Versions that ended because they could not be loaded begin anew with the next `set_aspired`."""
        with self._changed:
            model = self._models.get(name)
            for version in model.versions if model else ():
                if version.state == "END" and version.error is not None:
                    version.is_aspired = False

    def lost(self, name: str, number: int, servable: Batcher) -> None:
        """The process has ended that ran a loaded version: it is loaded again."""
        with self._changed:
            model = self._models[name]
            for version in model.versions:
                if version.number == number and version.servable is servable and version.state == "AVAILABLE":
                    version.was_lost = True
                    self._set(model, version, "LOADING")
                    if not self._closed:
                        self._load_pool.submit(self._try_load, model, version)
                    self._reconcile(model)

    def set_labels(self, name: str, labels: Mapping[str, int]) -> None:
        """These labels, and no others; one whose version is not available keeps its old version until it is."""
        with self._changed:
            model = self._models.setdefault(name, _Model())
            model.waiting_labels = {label: number for label, number in labels.items() if number not in model.available}
            model.labels = {
                label: (number if number in model.available else model.labels[label])
                for label, number in labels.items()
                if number in model.available or label in model.labels
            }
            self._changed.notify_all()

    def forget_labels(self, name: str) -> None:
        """The model is no longer served: its labels go with it."""
        self.set_labels(name, {})

    # What there is.

    def labels(self, name: str) -> dict[str, int]:
        """The labels, those that wait for their version included."""
        with self._changed:
            model = self._models.get(name)
            return {**model.waiting_labels, **model.labels} if model else {}

    def in_force(self, name: str) -> dict[str, int]:
        """The labels that answer now."""
        with self._changed:
            model = self._models.get(name)
            return dict(model.labels) if model else {}

    def versions(self, name: str) -> list[Version]:
        """The life that counts of each version, highest first: the one that answers, else the latest."""
        with self._changed:
            return self._lives(name)

    def available(self, name: str) -> dict[int, Version]:
        """The versions that answer."""
        with self._changed:
            model = self._models.get(name)
            return dict(model.available) if model else {}

    def names(self) -> list[str]:
        """Models with a version, ended ones included."""
        with self._changed:
            return sorted(name for name, model in self._models.items() if model.versions)

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `done()`, which is asked after each change and must not call back; False when time is over, or
        when `interrupt` ended the wait.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._interrupted or done(), timeout)
            return done()

    def interrupt(self) -> None:
        """The server is about to end: nobody is to wait for a load any more."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def life(self, name: str, number: int) -> Version | None:
        """One version's life that counts. For `wait`: the lock is held."""
        return next((version for version in self._lives(name) if version.number == number), None)

    def settled(self, name: str) -> bool:
        """Whether a version answers or each one has failed at least once. For `wait`: the lock is held."""
        versions = self._lives(name)
        return any(v.state == "AVAILABLE" for v in versions) or all(v.state == "END" or v.error for v in versions)

    def failures(self, name: str) -> dict[int, ServingError]:
        """Versions that are aspired to and did not load."""
        return {v.number: v.error for v in self.versions(name) if v.is_aspired and v.error}

    def close(self, timeout: float) -> None:
        """Unload everything; requests in flight get `timeout` seconds."""
        with self._changed:
            self._closed = True
            for timer in self._timers:
                timer.cancel()
            for model in self._models.values():
                for version in model.versions:
                    version.is_aspired = False
                self._reconcile(model)
            self._changed.wait_for(
                lambda: not any(v.state == "UNLOADING" for m in self._models.values() for v in m.versions), timeout
            )
        self._load_pool.shutdown(wait=False, cancel_futures=True)
        self._unload_pool.shutdown(wait=False, cancel_futures=True)

    # The state machine; the lock is held unless said otherwise.

    def _lives(self, name: str) -> list[Version]:
        model = self._models.get(name)
        lives: dict[int, Version] = {}
        for version in model.versions if model else ():
            before = lives.get(version.number)
            if before is None or before.state != "AVAILABLE" or version.state == "AVAILABLE":
                lives[version.number] = version
        return [lives[number] for number in sorted(lives, reverse=True)]

    def _reconcile(self, model: _Model) -> None:
        """Start what should start, and end what may end."""
        aspired = [version for version in model.versions if version.is_aspired]
        for version in aspired:
            if version.state == "START":
                self._set(model, version, "LOADING")
                self._load_pool.submit(self._try_load, model, version)
        free = may_unload([v.number for v in aspired], [v.number for v in aspired if v.state == "AVAILABLE"])
        for version in model.versions:
            if version.is_aspired:
                continue
            if version.state == "START" or (
                version.state == "LOADING" and version.error
            ):  # not begun, or between two tries
                self._set(model, version, "END")
            elif version.state == "AVAILABLE" and free:
                self._set(model, version, "UNLOADING")
                if not version.in_flight:
                    self._unload_pool.submit(self._unload, version)
        ended = [version for version in model.versions if version.state == "END" and not version.is_aspired]
        for version in ended[:-_REMEMBERED]:
            model.versions.remove(version)
        self._changed.notify_all()

    def _set(self, model: _Model, version: Version, state: VersionState) -> None:
        version.state = state
        version.since = time.time()
        model.route()
        self._on_change(version)

    def _try_load(self, model: _Model, version: Version) -> None:
        """In a loading thread, without the lock."""
        with self._changed:
            if version.is_loading or version.state != "LOADING":  # another pool has taken it: see `_took_too_long`
                return
            if not version.is_aspired:
                self._set(model, version, "END")
                self._reconcile(model)
                return
            version.is_loading = True
        began = time.monotonic()
        timer = threading.Timer(self._load_timeout, self._took_too_long, (model, version))
        timer.daemon = True
        if self._load_timeout:
            timer.start()
        error: ServingError | None = None
        servable: Batcher | None = None
        log.info("Loading version %s of %s from %s", version.number, version.model, version.path)
        try:
            servable = self._load(version.model, version.number, version.path)
        except ServingError as refused:
            error = refused
        except Exception as failed:  # a platform's bug must not leave a version in LOADING for ever
            log.exception("Version %s of %s failed to load", version.number, version.model)
            error = ServingError(Code.INTERNAL, f"{type(failed).__name__}: {failed}")
        half_written = servable is None and _changed_lately(version.path)
        timer.cancel()
        with self._changed:
            version.is_loading = False
            is_late = version.state != "LOADING"
            if is_late:
                log.warning("Version %s of %s has loaded too late: dropped", version.number, version.model)
            elif servable is not None:
                version.servable, version.error, version.was_lost = servable, None, False
                version.load_seconds = time.monotonic() - began
                log.info(
                    "Version %s of %s is available after %.2f s", version.number, version.model, version.load_seconds
                )
                self._set(model, version, "AVAILABLE")
            else:
                version.error = error
                self._failed(model, version, half_written)
            self._reconcile(model)
        if is_late and servable is not None:
            servable.close()

    def _took_too_long(self, model: _Model, version: Version) -> None:
        """In a timer's thread, without the lock. The load cannot be stopped: its thread is left to it, and the loads
        that wait get other ones.
        """
        with self._changed:
            if version.state != "LOADING" or not version.is_loading or self._closed:
                return
            version.error = ServingError(
                Code.DEADLINE_EXCEEDED,
                f"The version did not load within {self._load_timeout:g} s: its disk is slow or hangs, or what it runs "
                "at its start does not end. --load_timeout_seconds says how long it may take.",
            )
            log.error("Version %s of %s cannot be loaded: %s", version.number, version.model, version.error)
            self._set(model, version, "END")
            left, self._load_pool = self._load_pool, ThreadPoolExecutor(self._load_threads, "load")
            left.shutdown(wait=False)
            for other in self._models.values():
                for waiting in other.versions:
                    if waiting.state == "LOADING" and not waiting.is_loading and not waiting.error:
                        self._load_pool.submit(self._try_load, other, waiting)
            self._reconcile(model)

    def _failed(self, model: _Model, version: Version, half_written: bool) -> None:
        """Try again later if there is a chance, else end."""
        if half_written:
            wait = _SETTLED_SECONDS / 2
        else:
            version.tries += 1
            wait = self._retry.seconds if version.tries <= self._retry.count else -1.0
        if wait >= 0 and version.is_aspired and not self._closed:
            log.warning("Loading %s/%s failed, again in %g s: %s", version.model, version.number, wait, version.error)
            timer = threading.Timer(wait, lambda: self._again(timer, model, version))
            timer.daemon = True
            self._timers.add(timer)
            timer.start()
            return
        log.error("Version %s of %s cannot be loaded: %s", version.number, version.model, version.error)
        self._set(model, version, "END")

    def _again(self, timer: threading.Timer, model: _Model, version: Version) -> None:
        """In a timer's thread, without the lock."""
        with self._changed:
            self._timers.discard(timer)
            if version.state == "LOADING" and not self._closed:
                self._load_pool.submit(self._try_load, model, version)

    def _unload(self, version: Version) -> None:
        """In an unloading thread, without the lock; nobody uses the version any more."""
        servable, version.servable = version.servable, None
        if servable is not None:
            try:
                servable.close()
            except Exception:  # the version is gone either way
                log.exception("Version %s of %s did not close well", version.number, version.model)
        del servable
        with self._changed:
            log.info("Version %s of %s is unloaded", version.number, version.model)
            self._set(self._models[version.model], version, "END")
            self._changed.notify_all()


def _changed_lately(folder: Path) -> bool:
    """Whether a file in a version folder changed within the last seconds: it is probably still being written."""
    try:
        # The folder itself does not count: its own times change when it is renamed into place, whole.
        newest = max((path.stat().st_ctime for path in folder.rglob("*")), default=0.0)
    except OSError:
        return False
    # A clock that was set back makes files of the future, which are no newer than others.
    return abs(time.time() - newest) < _SETTLED_SECONDS

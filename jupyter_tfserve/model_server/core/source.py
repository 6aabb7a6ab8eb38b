"""Watches base paths and says which versions are aspired to. It knows nothing of loading (TF Serving's
FileSystemStoragePathSource)."""

from __future__ import annotations

import logging
import os.path
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from watchfiles import Change, watch

from ...store import versions_in
from .policy import ModelConfig, Specific, aspired

log = logging.getLogger(__name__)

#: Milliseconds after a change during which more changes are gathered into one look.
_DEBOUNCE = 50


class FileSystemSource:
    """Calls `on_aspired(name, versions)` at each look at a model's base path.

    Looks happen when `set_models` or `look` ask for them, every `poll_seconds` (0: never on its own; and then nothing
    is watched either), and at once when the operating system tells of a change in the folder.
    """

    def __init__(
        self,
        on_aspired: Callable[[str, Mapping[int, Path]], None],
        poll_seconds: float,
        keep_labelled: bool = False,
        on_found: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`on_found(name)` is called when a look found other versions on disk than the one before it."""
        self._on_aspired = on_aspired
        self._on_found = on_found
        self._found: dict[str, tuple[int, ...]] = {}
        self._poll_seconds = poll_seconds
        self._keep_labelled = keep_labelled
        self._models: dict[str, ModelConfig] = {}
        self._errors: dict[str, str] = {}
        self._empty: set[str] = set()  # models without a version at the last look
        self._lock = threading.RLock()  # one look at a time: two must not overtake each other
        self._stop = threading.Event()
        self._rewatch = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to poll and to watch."""
        if self._poll_seconds > 0:
            for target in (self._poll, self._watch):
                thread = threading.Thread(target=target, name=f"source{target.__name__}", daemon=True)
                thread.start()
                self._threads.append(thread)

    def stop(self) -> None:
        """End polling and watching; waits for both."""
        self._stop.set()
        self._rewatch.set()
        for thread in self._threads:
            thread.join()

    def set_models(self, models: Mapping[str, ModelConfig]) -> dict[str, str]:
        """Replace what is watched and look at once; returns the error of each model that has no version to serve."""
        with self._lock:
            gone = self._models.keys() - models.keys()
            moved = {m.base_path for m in self._models.values()} != {m.base_path for m in models.values()}
            self._models = dict(models)
            for name in gone:
                self._errors.pop(name, None)
                self._empty.discard(name)
                self._found.pop(name, None)
                self._on_aspired(name, {})
            errors = {name: error for name in models if (error := self.look(name))}
        if moved:
            self._rewatch.set()
        return errors

    def look(self, name: str) -> str:
        """Look at one model's base path now; returns why it has nothing to serve, "" if it has."""
        with self._lock:
            config = self._models.get(name)
            if config is None:
                return ""
            error = self._look(name, config)
            if error and error != self._errors.get(name):
                log.warning("%s", error)
            self._errors[name] = error
            return error

    def error(self, name: str) -> str:
        """What the last look at a model's base path found wrong, "" for nothing."""
        return self._errors.get(name, "")

    def found(self, name: str) -> tuple[int, ...]:
        """The versions that the last look at a model's base path found, highest first, to be served or not."""
        return self._found.get(name, ())

    def _look(self, name: str, config: ModelConfig) -> str:
        if not os.path.isdir(config.base_path):  # Path.is_dir raises where the path is too long or may not be read
            # TF Serving stops polling every model here. A folder that is missing for a moment (a remount) must not
            # unload what serves: this model keeps what it has, and no other one notices.
            return f"Could not find base path {config.base_path} for servable {name}"
        found = versions_in(config.base_path)
        numbers = tuple(sorted(found, reverse=True))
        before, self._found[name] = self._found.get(name), numbers
        if before is not None and before != numbers:
            self._on_found(name)
        # A policy that names its versions means them, and no others.
        keep = self._keep_labelled and not isinstance(config.policy, Specific)
        labelled: Collection[int] = set(config.labels.values()) if keep else ()
        chosen = aspired(found, config.policy, labelled)
        was_empty = name in self._empty
        (self._empty.discard if chosen else self._empty.add)(name)
        if chosen or was_empty or not self._poll_seconds:
            # That nothing is left counts at the second look: the folder itself may be about to go, and unloads nothing.
            self._on_aspired(name, chosen)
        if chosen:
            return ""
        return f"No versions of servable {name} found under base path {config.base_path}"

    def _look_at_all(self) -> None:
        for name in list(self._models):
            self.look(name)

    def _poll(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self._look_at_all()

    def _watch(self) -> None:
        """Look at once where a folder changes. Polling finds what this misses (network file systems)."""
        while not self._stop.is_set():
            self._rewatch.clear()
            with self._lock:
                by_path: dict[str, list[str]] = {}
                for name, config in self._models.items():
                    if os.path.isdir(config.base_path):
                        by_path.setdefault(str(config.base_path.resolve()), []).append(name)
            if not by_path:
                self._rewatch.wait()
                continue
            try:
                for changes in watch(
                    *by_path,
                    recursive=False,
                    debounce=_DEBOUNCE,
                    step=10,
                    rust_timeout=1000,
                    yield_on_timeout=False,
                    stop_event=self._rewatch,
                    watch_filter=lambda change, path: change is not Change.modified,
                    raise_interrupt=False,
                ):
                    for parent in {str(Path(path).parent) for _, path in changes} & by_path.keys():
                        for name in by_path[parent]:
                            self.look(name)
            except (OSError, FileNotFoundError):  # no inotify instances left, or a folder went away: polling goes on
                self._rewatch.wait(self._poll_seconds)

"""The server core: a configuration in, servables out. It ties the source to the manager (TF Serving's ServerCore)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import Code, ServingError, invalid
from .manager import Loader, Manager, RetryPolicy, Version
from .policy import LoggingConfig, ModelConfig
from .source import FileSystemSource


@dataclass(frozen=True)
class CoreOptions:
    """What the flags of the same names say."""

    file_system_poll_wait_seconds: float = 1.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    load_timeout_seconds: float = 0.0  #: 0: no limit
    num_load_threads: int = 1
    num_unload_threads: int = 1
    allow_version_labels_for_unavailable_models: bool = False
    keep_labelled: bool = False  #: labelled versions stay loaded, unless the policy names versions itself


class ServerCore:
    """What is served now. `reload` changes it; requests go to `manager`."""

    def __init__(
        self,
        load: Loader,
        options: CoreOptions | None = None,
        on_change: Callable[[Version], None] = lambda version: None,
        on_model: Callable[[str, str], None] = lambda name, change: None,
    ) -> None:
        self.options = options or CoreOptions()
        self._on_model = on_model
        self.manager = Manager(
            load,
            on_change,
            self.options.retry,
            self.options.num_load_threads,
            self.options.num_unload_threads,
            self.options.load_timeout_seconds,
        )
        self._source = FileSystemSource(
            self.manager.set_aspired,
            self.options.file_system_poll_wait_seconds,
            self.options.keep_labelled,
            lambda name: on_model(name, "changed"),
        )
        self._models: dict[str, ModelConfig] = {}
        self.logged: set[str] = set()  #: models whose requests are logged
        self._first: set[str] = set()  # models of the start that have not had a version yet
        self._reloading = threading.Lock()

    @property
    def models(self) -> Mapping[str, ModelConfig]:
        """The configuration in force, by name."""
        return self._models

    def logging(self, name: str) -> LoggingConfig | None:
        """How requests of a model are logged, None if they are not."""
        config = self._models.get(name)
        return config.logging if config else None

    def acquire(self, name: str, number: int | None = None, label: str = "") -> Version:
        """The version that answers; it stays loaded until `manager.release`. Raises ServingError: NOT_FOUND with TF
        Serving's texts.

        While the models of the start are loading it is UNAVAILABLE instead: a caller who waits a moment is served.
        """
        try:
            return self.manager.acquire(name, number, label)
        except ServingError:
            if name in self._first and not self.manager.wait(lambda: self.manager.settled(name), 0):
                raise ServingError(Code.UNAVAILABLE, f"Model {name} is still loading.") from None
            self._first.discard(name)
            raise

    @contextmanager
    def use(self, name: str, number: int | None = None, label: str = "") -> Iterator[Version]:
        """`acquire`, and the release after the block."""
        version = self.acquire(name, number, label)
        try:
            yield version
        finally:
            self.manager.release(version)

    def error(self, name: str) -> str:
        """Why a configured model has no version to serve, "" if it has."""
        return "" if self.manager.available(name) else self._source.error(name)

    def on_disk(self, name: str) -> tuple[int, ...]:
        """The versions in a model's base path, highest first, to be served or not."""
        return self._source.found(name)

    def start(self) -> None:
        """Begin to watch the base paths."""
        self._source.start()

    def check(self, configs: Iterable[ModelConfig], labels_wait: bool = False) -> dict[str, ModelConfig]:
        """The configurations by name; raises ServingError if they are not to be served, as TF Serving does.

        `labels_wait`: a label may name a version that is not loaded yet, and stays where it is until then.
        """
        models: dict[str, ModelConfig] = {}
        for config in configs:
            if not config.name:
                raise invalid("Illegal to list a model without a name in the model config list.")
            if config.name in models:
                raise invalid(f"Illegal to list model {config.name} multiple times in config list")
            if not config.base_path.is_absolute():
                raise invalid(
                    f"Expected model {config.name} to have an absolute path or URI; got base_path()={config.base_path}"
                )
            if config.platform != "tensorflow":
                before = self._models.get(config.name)
                if before is not None and before.platform != config.platform:
                    raise invalid(f"Illegal to change a model's platform: {config.name}")
                raise invalid(
                    f"Unknown platform {config.platform!r} of model {config.name}: 'tensorflow' is served here."
                )
            if not labels_wait:
                self._check_labels(config)
            models[config.name] = config
        return models

    def _check_labels(self, config: ModelConfig) -> None:
        in_force = self.manager.in_force(config.name)
        known = self.manager.labels(config.name)
        available = self.manager.available(config.name)
        for label, number in config.labels.items():
            if number in available or known.get(label) == number:
                continue
            if label in in_force or not self.options.allow_version_labels_for_unavailable_models:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label {label} to version {number} of model {config.name}, "
                    "which is not currently available for inference",
                    "Load the version first, then move the label.",
                )

    def reload(
        self, configs: Iterable[ModelConfig], labels_wait: bool = False, starting: bool = False
    ) -> dict[str, str]:
        """Serve exactly these models; does not wait for loads. Returns an error for each that has nothing to load.

        Raises ServingError, and changes nothing, if the configuration is refused.
        """
        with self._reloading:
            models = self.check(configs, labels_wait or starting)
            before, self._models = self._models, models
            self.logged.intersection_update(models)
            self.logged.update(name for name, config in models.items() if config.logging)
            self.logged.difference_update(name for name, config in models.items() if not config.logging)
            for name in before.keys() - models.keys():
                self.manager.forget_labels(name)
            if starting:
                self._first = set(models)
            for name, config in models.items():
                self.manager.set_labels(name, config.labels)
            errors = self._source.set_models(models)
            for name in sorted(before.keys() | models.keys()):
                if before.get(name) != models.get(name):
                    self._on_model(name, "removed" if name not in models else "changed" if name in before else "served")
            return errors

    def assign(self, name: str, config: ModelConfig | None, versions: Mapping[int, Path]) -> None:
        """Serve just these versions of a model, wherever they are; None: it is not served any more. For a worker, which
        is told what to load and looks at no folder by itself.
        """
        with self._reloading:
            self._models = {key: value for key, value in self._models.items() if key != name}
            self.logged.discard(name)
            if config is not None:
                self._models[name] = config
                if config.logging:
                    self.logged.add(name)
            self.manager.set_aspired(name, versions)

    def look(self, name: str) -> str:
        """Look for new versions of a model now; returns why there is none to serve, "" if there is one."""
        return self._source.look(name)

    def wait(self, names: Iterable[str], timeout: float | None = None) -> dict[str, str]:
        """Wait until each model has a version that answers, or has none that could; returns the failures' texts."""
        failures = {name: error for name in names if (error := self.error(name))}
        waited = [name for name in names if name not in failures]
        settled = self.manager.wait(lambda: all(map(self.manager.settled, waited)), timeout)
        for name in waited:
            if not self.manager.available(name):
                if not settled:
                    failures[name] = "it is still loading"
                failed = self.manager.failures(name)
                if failed:
                    failures[name] = "; ".join(f"version {number}: {error.message}" for number, error in failed.items())
        return failures

    def close(self, timeout: float) -> None:
        """Stop watching, unload everything; requests in flight get `timeout` seconds."""
        self._source.stop()
        self.manager.close(timeout)

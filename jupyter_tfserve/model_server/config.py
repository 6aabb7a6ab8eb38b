"""ModelServerConfig: text proto to what the core understands, and the changes that the management API makes to it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from .. import api
from ..store import Store, StoreError, check_name, versions_in, write_atomically
from .core.batching import BatchingParameters
from .core.policy import All, Latest, LoggingConfig, ModelConfig, Specific, VersionPolicy
from .core.server_core import ServerCore
from .errors import Code, ServingError, invalid
from .flags import cpus

Config: TypeAlias = ModelServerConfig

log = logging.getLogger(__name__)

#: `model_type` is what came before `model_platform`; 1 is TENSORFLOW.
_PLATFORM_OF_TYPE = {1: "tensorflow"}


def parse(text: str) -> Config:
    """Parse a text proto. Raises ServingError with TF Serving's words and where it went wrong."""
    try:
        return text_format.Parse(text, Config())
    except text_format.ParseError as error:
        raise invalid(f"Error parsing text-format tensorflow.serving.ModelServerConfig: {error}") from None
    except RecursionError:
        raise invalid("Error parsing text-format tensorflow.serving.ModelServerConfig: nested too deeply") from None


def read(path: Path) -> Config:
    """Parse a file; raises ServingError."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ServingError(Code.NOT_FOUND, f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise invalid(f"{path} is no text: {error}") from None


def to_models(config: Config) -> list[ModelConfig]:
    """What the core is to serve. Raises ServingError if the config is of a kind that cannot be served."""
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid("custom_model_config is not supported: use model_config_list.")
    return [_to_model(model) for model in config.model_config_list.config]


def _to_model(model: model_server_config_pb2.ModelConfig) -> ModelConfig:
    if model.model_type and model.model_platform:
        raise invalid(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
        )
    platform = model.model_platform or _PLATFORM_OF_TYPE.get(model.model_type, "")
    if not platform:
        raise invalid(
            f"Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform "
            f'of model {model.name}: write model_platform: "tensorflow".'
        )
    return ModelConfig(
        model.name, Path(model.base_path), platform, _to_policy(model), dict(model.version_labels), _to_logging(model)
    )


def _to_logging(model: model_server_config_pb2.ModelConfig) -> LoggingConfig | None:
    if not model.HasField("logging_config"):
        return None
    prefix = model.logging_config.log_collector_config.filename_prefix
    rate = model.logging_config.sampling_config.sampling_rate
    if not os.path.isabs(prefix):
        raise invalid(
            f"The logging_config of model {model.name} needs an absolute filename_prefix; got {prefix!r}.",
            'Write log_collector_config { filename_prefix: "/path/to/log" }.',
        )
    if not 0 <= rate <= 1:
        raise invalid(f"The sampling_rate of model {model.name} must be between 0 and 1; got {rate}.")
    return LoggingConfig(prefix, rate)


def _to_policy(model: model_server_config_pb2.ModelConfig) -> VersionPolicy:
    policy = model.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return All()
    if choice == "specific":
        return Specific(frozenset(policy.specific.versions))
    return Latest(max(1, policy.latest.num_versions) if choice == "latest" else 1)


def batching_parameters(message: Any) -> BatchingParameters:
    """A BatchingParameters message as what batching goes by; fields that are not set have TF Serving's defaults.

    Raises ServingError if they contradict each other.
    """
    given: dict[str, Any] = {
        name: getattr(message, name).value
        for name in (
            "max_batch_size",
            "batch_timeout_micros",
            "max_enqueued_batches",
            "num_batch_threads",
            "enable_large_batch_splitting",
            "max_execution_batch_size",
        )
        if message.HasField(name)
    }
    given.setdefault("num_batch_threads", cpus())
    return BatchingParameters(
        **given,
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
    )


def policy_message(policy: VersionPolicy) -> api.Policy:
    """A policy as the management API says it."""
    if isinstance(policy, All):
        return {"all": {}}
    if isinstance(policy, Specific):
        return {"specific": {"versions": sorted(policy.versions)}}
    return {"latest": {"num_versions": policy.count}}


class ConfigStore:
    """The configuration in force and its changes: each is checked, written to the store's models.config, then served.

    Without a store the changes live as long as the process. Many processes may change one store: each change is made to
    what the file says at that moment, under the store's lock, so that none is lost.
    """

    def __init__(self, core: ServerCore, store: Store | None) -> None:
        self._core = core
        self._store = store
        self._memory = Config()  # what is in force
        self._changing = threading.Lock()

    def load(self) -> dict[str, str]:
        """Serve what the store says, at the start; returns the errors by model."""
        if self._store is None:
            return {}
        config = self._read()
        models = to_models(config)
        errors = self._core.reload(models, starting=True)
        self._memory = config
        for model in models:
            self.prune(model.name)
        return errors

    def follow(self) -> None:
        """The file has changed, by whomever: serve what it says now. One that is refused, or gone, changes nothing."""
        assert self._store is not None
        try:
            # The lock: what is read here must not be served after something newer that was read elsewhere.
            with self._store.locked():
                config = self._read()
                self._core.reload(to_models(config), labels_wait=True)
                self._memory = config
        except (ServingError, StoreError, OSError) as error:
            log.error("models.config is refused, what was served goes on: %s", error)

    def set_memory(self, config: Config) -> None:
        """What is served without a store."""
        self._memory = config

    def text(self) -> str:
        """The configuration as text proto."""
        return text_format.MessageToString(self._read())

    def register(self, name: str, request: api.ModelRequest) -> None:
        """Serve a model, as it was served before if that was stopped, or change it; versions that could not be loaded
        are tried again.
        """

        def change(config: Config) -> None:
            model = next((m for m in config.model_config_list.config if m.name == name), None)
            if model is None:
                _check_name(name)
                model = config.model_config_list.config.add(name=name, model_platform="tensorflow")
                if "base_path" not in request:
                    model.base_path = str(self._base_path(name))
                    self._bring_back(model)
            if "base_path" in request:
                model.base_path = request["base_path"]
            if "platform" in request:
                model.model_platform = request["platform"]
            if "policy" in request:
                _set_policy(model, request["policy"])
            _set_labels(model, request.get("labels", {}))

        keep: Any = request.get("keep_versions")
        if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 0):
            raise invalid(f"keep_versions is a number of versions, 0 for all, not {keep!r}.")
        self._core.manager.retry(name)
        self._change(change)
        self._core.look(name)
        if self._store is not None:
            self._store.set_stopped(name, "")
            if keep is not None:
                self._store.set_keep_versions(name, keep)
                self.prune(name)

    def unregister(self, name: str, files: bool) -> None:
        """Stop serving a model; with `files`, delete the store's copy. Else the store remembers how it was served."""

        def change(config: Config) -> None:
            models = config.model_config_list.config
            keep = [m for m in models if m.name != name]
            if len(keep) == len(models) and not (files and self._store is not None and name in self._store.names()):
                raise _unknown(name)
            if self._store is not None and not files:
                stopped = Config()
                stopped.model_config_list.config.extend(m for m in models if m.name == name)
                self._store.set_stopped(name, text_format.MessageToString(stopped))
            del models[:]
            models.extend(keep)

        self._change(change)
        if files and self._store is not None:
            self._store.remove(name)

    def set_policy(self, name: str, policy: api.Policy) -> None:
        """Say which versions are served."""
        self._change(lambda config: _set_policy(_find(config, name), policy))

    def set_labels(self, name: str, labels: dict[str, int | None]) -> None:
        """Move labels, to versions that are loaded; None takes one away."""
        available = self._core.manager.available(name)

        def change(config: Config) -> None:
            model = _find(config, name)
            for label, number in labels.items():
                if number is not None and number not in available:
                    loaded = ", ".join(map(str, available)) or "none"
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Label {label!r} cannot move to version {number} of {name!r}: that version is not loaded.",
                        f"Loaded: {loaded}. `%tfserve versions {name} --only ...` loads others.",
                    )
            _set_labels(model, labels)

        self._change(change)

    def replace(self, text: str) -> None:
        """Serve what a whole ModelServerConfig says."""
        config = parse(text)
        self._change(lambda current: current.CopyFrom(config))

    def apply(self, config: Config) -> None:
        """The same as HandleReloadConfigRequest and the polled file ask for it: with TF Serving's rules for labels."""
        self._change(lambda current: current.CopyFrom(config), labels_wait=False)

    def prune(self, name: str) -> None:
        """Delete the version folders that are past what the store is to keep: never one that is loaded, labelled or
        wanted.
        """
        if self._store is None:
            return
        keep = self._store.keep_versions(name)
        config = self._core.models.get(name)
        if keep <= 0 or config is None or config.base_path != self._store.root / name:
            return
        found = versions_in(config.base_path)
        busy = {v.number for v in self._core.manager.versions(name) if v.is_aspired or v.state != "END"}
        for number in sorted(found)[:-keep]:
            if number not in busy and number not in config.labels.values():
                self._store.remove_version(found[number])

    def _change(self, change: Callable[[Config], None], labels_wait: bool = True) -> None:
        if self._store is None:
            with self._changing:
                config = self._read()
                change(config)
                self._core.reload(to_models(config), labels_wait)
                self._memory = config
            return
        with self._store.locked():
            config = self._read()
            change(config)
            models = self._core.check(to_models(config), labels_wait)
            try:
                write_atomically(self._store.config, text_format.MessageToString(config))
            except OSError as error:
                raise ServingError(
                    Code.RESOURCE_EXHAUSTED,
                    f"{self._store.config} cannot be written: {os.strerror(error.errno or 0)}. Nothing was changed.",
                    "Free some space, then try again.",
                ) from None
            self._core.reload(models.values(), labels_wait=True)
            self._memory = config

    def _read(self) -> Config:
        """What the file says; where there is none (any more: who deletes it by accident must not end what serves), what
        is in force.
        """
        if self._store is not None and self._store.config.exists():
            return read(self._store.config)
        config = Config()
        config.CopyFrom(self._memory)
        return config

    def _bring_back(self, model: model_server_config_pb2.ModelConfig) -> None:
        """What the store remembers of how a model was served, as far as its versions are still there."""
        assert self._store is not None
        try:
            [before] = parse(self._store.stopped(model.name)).model_config_list.config
        except (ServingError, ValueError):
            return
        if (before.name, before.base_path) != (model.name, model.base_path):
            return
        model.CopyFrom(before)
        present = versions_in(Path(model.base_path))
        policy = model.model_version_policy
        if policy.WhichOneof("policy_choice") == "specific":
            kept = [number for number in policy.specific.versions if number in present]
            if kept:
                policy.specific.versions[:] = kept
            else:
                model.ClearField("model_version_policy")
        for label, number in list(model.version_labels.items()):
            if number not in present:
                del model.version_labels[label]

    def _base_path(self, name: str) -> Path:
        if self._store is None:
            raise invalid("base_path is needed: this model server has no store.")
        return self._store.model(name)


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except StoreError as error:
        raise invalid(error.message, error.remedy) from None


def _find(config: Config, name: str) -> model_server_config_pb2.ModelConfig:
    for model in config.model_config_list.config:
        if model.name == name:
            return model
    raise _unknown(name)


def _unknown(name: str) -> ServingError:
    return ServingError(Code.NOT_FOUND, f"There is no model {name!r}.", "`%tfserve` lists those that are served.")


# What came over the wire is not yet what its annotation says: these two check it.


def _set_policy(model: model_server_config_pb2.ModelConfig, policy: Any) -> None:
    if not isinstance(policy, dict) or len(policy) != 1:
        raise invalid("A policy has exactly one of the keys latest, all, specific.")
    target = model.model_version_policy
    try:
        if "latest" in policy:
            target.latest.num_versions = policy["latest"]["num_versions"]
        elif "specific" in policy:
            versions = policy["specific"]["versions"]
            if not versions:
                raise invalid(
                    "A specific policy names at least one version.", "`%tfserve unload NAME` unloads all of them."
                )
            del target.specific.versions[:]
            target.specific.versions.extend(versions)
        elif "all" in policy:
            target.all.SetInParent()
        else:
            raise invalid("A policy has exactly one of the keys latest, all, specific.")
    except (KeyError, TypeError, ValueError) as error:
        raise invalid(f"Not a policy: {policy}: {error}") from None


def _set_labels(model: model_server_config_pb2.ModelConfig, labels: Any) -> None:
    if not isinstance(labels, dict):
        raise invalid(f"labels is an object of versions by label, not {labels!r}.")
    for label, number in labels.items():
        if isinstance(number, bool) or not isinstance(number, int | None):
            raise invalid(f"Label {label!r} needs a version's number, or null, not {number!r}.")
        if not label or "/" in label or ":" in label:
            raise invalid(f"{label!r} cannot be a label: it becomes part of a URL.", "Leave out '/' and ':'.")
        if number is None:
            model.version_labels.pop(label, None)
        else:
            model.version_labels[label] = number

"""How each model's requests are run: as the flags and a version's own file say, or as was asked for at run time.
`app.py` has it make the batchers, and the management API has it change them, without a reload.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast, get_args
from weakref import WeakKeyDictionary

from .. import api
from ..store import Store
from . import config_protos
from .config import batching_parameters
from .core.batching import Batcher, Batching, BatchingParameters, Mode
from .core.servable import Servable
from .errors import Code, ServingError, invalid
from .flags import Flags

log = logging.getLogger(__name__)

#: In a version's folder, with --enable_per_model_batching_parameters.
BATCHING_FILE = "batching_params.pbtxt"

#: The parameters by name, and the type that each has.
_TYPES: dict[str, type] = {field.name: type(field.default) for field in fields(BatchingParameters)}

#: No parameter may be larger: what TensorFlow counts in 32 bits, and 35 minutes for the window.
_LARGEST = 2**31 - 1


@dataclass(eq=False)
class _Loaded:
    """What is known of a batcher."""

    model: str
    path: Path
    is_probed: bool = False


class BatchingSettings:
    """The settings of all models. What was asked for at run time is kept in the store; without one it lives as long as
    the process. All methods may be called from any thread.
    """

    def __init__(
        self, flags: Flags, store: Store | None, probe: Callable[[Servable, Path], Mapping[str, str]] | None
    ) -> None:
        """`probe` says of a servable's signatures why their requests are not to be merged; None: whoever loads a
        version finds it out. Raises ServingError if the file that the flags name cannot be used.
        """
        self._run_probe = probe
        self._flags = flags
        self._store = store
        self._parameters = batching_parameters(
            config_protos.read("BatchingParameters", Path(flags.batching_parameters_file))
            if flags.batching_parameters_file
            else config_protos.parse("BatchingParameters", "")
        )
        self._memory: dict[str, dict[str, Any]] = {}
        self._batchers: WeakKeyDictionary[Batcher, _Loaded] = WeakKeyDictionary()
        self._lock = threading.Lock()  # of changes: what loads meanwhile goes by the last one

    def batcher(self, servable: Servable, path: Path, model: str, number: int) -> Batcher:
        """The batcher of a version that is being loaded; from then on it follows what is changed.

        Raises ServingError if the version's own file cannot be used.
        """
        default = self._default(path)
        batcher = Batcher(servable, default, model, number)
        loaded = _Loaded(model, path)
        if self._in_force(model, default).mode == "auto":
            self._probe(batcher, loaded)  # before the lock: changes of other models are not to wait for it
        with self._lock:
            self._batchers[batcher] = loaded
            self._apply(batcher, loaded, self._in_force(model, default))
        return batcher

    def of(self, model: str, path: Path) -> Batching:
        """What a version that is to be loaded elsewhere goes by. Raises ServingError if its own file cannot be used."""
        return self._in_force(model, self._default(path))

    def follow(self, batcher: Batcher, model: str, path: Path) -> None:
        """A version has been loaded elsewhere: from now on it follows what is changed."""
        with self._lock:
            self._batchers[batcher] = _Loaded(model, path)
            batching = self._in_force(model, self._default(path))
            if batching != batcher.batching:  # changed while it loaded
                batcher.batching = batching

    def change(self, model: str, request: Mapping[str, Any]) -> None:
        """A `BatchingRequest`: applies to the versions that are loaded from their next run on, and to those that come.

        Raises INVALID_ARGUMENT, and changes nothing, if the request is not one or its parts contradict each other.
        """
        _check(request)
        if request.get("mode", "on") in ("auto", None):  # before the lock: loads are not to wait for it
            for batcher, loaded in self._of(model).items():
                self._probe(batcher, loaded)
        with self._lock:
            if self._store is None:
                batchings, given = self._changed(model, request)
                self._memory[model] = given
            else:
                with self._store.locked():
                    batchings, given = self._changed(model, request)
                    try:
                        self._store.set_batching(model, given)
                    except OSError as error:
                        raise ServingError(
                            Code.RESOURCE_EXHAUSTED,
                            f"The batching of {model} cannot be written: {os.strerror(error.errno or 0)}. "
                            "Nothing was changed.",
                            "Free some space, then try again.",
                        ) from None
            for batcher, batching in batchings.items():
                self._apply(batcher, self._batchers[batcher], batching)

    def status(self, model: str, batcher: Batcher | None) -> api.Batching:
        """What is in force: in a loaded version, or what the next one will go by."""
        batching = batcher.batching if batcher is not None else self._in_force(model, self._default(None))
        message: Any = asdict(batching.parameters)
        message["allowed_batch_sizes"] = list(batching.parameters.allowed_batch_sizes)
        message["mode"] = batching.mode
        message["signatures"] = {name: _why_alone(batcher, name) for name in batcher.signatures} if batcher else {}
        return cast(api.Batching, message)

    def _default(self, path: Path | None) -> Batching:
        """What the flags say, and the file in a version's folder."""
        flags = self._flags
        threads = max(flags.rest_api_num_threads, flags.grpc_max_threads)
        if not flags.enable_batching:
            return Batching("auto" if flags.auto_batching else "off", self._parameters, threads)
        if path is None or not flags.enable_per_model_batching_parameters:
            return Batching("on", self._parameters, threads)
        # As in TF Serving only a version with its own file is batched then (`GetPerModelBatchingParams`).
        if not (path / BATCHING_FILE).exists():
            return Batching("off", self._parameters, threads)
        own = batching_parameters(config_protos.read("BatchingParameters", path / BATCHING_FILE))
        return Batching("on", own, threads)

    def _given(self, model: str) -> dict[str, Any]:
        """What was asked for at run time."""
        given = self._memory.get(model, {}) if self._store is None else self._store.batching(model)
        try:
            _check(given)
        except ServingError as error:  # somebody edited the file
            log.error("What is stored for the batching of %s is left out: %s", model, error)
            return {}
        return given

    def _in_force(self, model: str, default: Batching) -> Batching:
        """The default with what was asked for at run time."""
        try:
            return _with(default, self._given(model))
        except ServingError as error:  # a version's own file is at odds with it
            log.error("What was set for the batching of %s is left out: %s", model, error)
            return default

    def _changed(self, model: str, request: Mapping[str, Any]) -> tuple[dict[Batcher, Batching], dict[str, Any]]:
        """What each loaded version goes by after a change, and what is to be remembered."""
        given = {key: value for key, value in {**self._given(model), **request}.items() if value is not None}
        _with(self._default(None), given)
        return {b: _with(self._default(loaded.path), given) for b, loaded in self._of(model).items()}, given

    def _of(self, model: str) -> dict[Batcher, _Loaded]:
        return {batcher: loaded for batcher, loaded in self._batchers.items() if loaded.model == model}

    def _apply(self, batcher: Batcher, loaded: _Loaded, batching: Batching) -> None:
        if batching.mode == "auto":
            self._probe(batcher, loaded)
        batcher.batching = batching

    def _probe(self, batcher: Batcher, loaded: _Loaded) -> None:
        if not loaded.is_probed and self._run_probe is not None:
            batcher.dependent = self._run_probe(batcher.servable, loaded.path)
            loaded.is_probed = True


def _why_alone(batcher: Batcher, signature: str) -> str:
    """Why requests for a signature are not merged, "" if they are."""
    mode = batcher.batching.mode
    return "" if mode == "on" else "batching is off" if mode == "off" else batcher.dependent.get(signature, "")


def _with(default: Batching, given: Mapping[str, Any]) -> Batching:
    """Settings with some of them replaced. Raises INVALID_ARGUMENT if they contradict each other."""
    parameters: dict[str, Any] = {
        key: tuple(value) if key == "allowed_batch_sizes" else value for key, value in given.items()
    }
    mode: Mode = parameters.pop("mode", default.mode)
    return replace(default, mode=mode, parameters=replace(default.parameters, **parameters).check())


def _check(request: Mapping[str, Any]) -> None:
    """Raise INVALID_ARGUMENT unless each value is what its key wants; null is the default."""
    for key, value in request.items():
        if key == "mode":
            if value is not None and value not in get_args(Mode):
                raise invalid(f"mode is one of {', '.join(get_args(Mode))}, not {value!r}.")
        elif key not in _TYPES:
            raise invalid(f"Batching has no {key!r}.", f"It has: mode, {', '.join(_TYPES)}.")
        elif value is None:
            continue
        elif _TYPES[key] is bool:
            if not isinstance(value, bool):
                raise invalid(f"{key} is true or false, not {value!r}.")
        elif _TYPES[key] is tuple:
            if not isinstance(value, list) or not all(map(_is_number, value)):
                raise invalid(f"{key} is a list of whole numbers up to {_LARGEST}, not {value!r}.")
        elif not _is_number(value):
            raise invalid(f"{key} is a whole number up to {_LARGEST}, not {value!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST

"""What a process has that runs models itself: TensorFlow, and what loads versions with it. `app.py` makes one, unless
it is a front: importing this module is what takes long at the start.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from pathlib import Path

from ..devices import TensorFlow
from ..store import Store
from . import tensorflow_parts as parts
from .batching_settings import BatchingSettings
from .core.batching import Batcher
from .core.idle import IdleUnloading, OnDemand
from .core.memory_budget import MemoryBudget
from .core.servable import Servable
from .flags import Flags
from .frontends.profiler import ProfilerService
from .heartbeat import Heartbeat
from .platforms import saved_model
from .platforms.probe import probe
from .platforms.session_config import session_config
from .platforms.warmup import warm_up


class Local:
    """Loads versions into this process."""

    def __init__(self, flags: Flags, store: Store | None, budget: MemoryBudget, on_idle: Callable[[str], None]) -> None:
        """`on_idle(model)` is told when a version leaves memory because nobody asks it, and when it comes back."""
        parts.get_logger().setLevel(logging.ERROR)  # its own handler would say everything twice
        self._flags = flags
        self._budget = budget
        self._on_idle = on_idle
        self._idle: IdleUnloading | None = None
        if flags.unload_idle_seconds:
            self._idle = IdleUnloading(flags.unload_idle_seconds)
            budget.make_room = self._idle.make_room
        config = session_config(flags)
        self._options = saved_model.SavedModelOptions(tuple(flags.saved_model_tags.split(",")), config)
        self.batching = BatchingSettings(flags, store, probe)
        self.batcher: Callable[[Servable, Path, str, int], Batcher] = self.batching.batcher
        self.heartbeat = Heartbeat(config)
        self.profiler = ProfilerService() if flags.enable_profiler else None

    def load(self, name: str, number: int, path: Path) -> Batcher:
        """Load and warm up a version; in one of the manager's threads."""
        flags = self._flags
        servable = self._servable(path)
        if self._idle is not None:
            servable = OnDemand(f"Version {number} of {name}", servable, self._again(name, number, path))
        try:
            batcher = self.batcher(servable, path, name, number)
            if flags.enable_model_warmup:
                warm_up(batcher, path, flags.num_request_iterations_for_warmup)
        except BaseException:
            servable.close()
            raise
        if self._idle is not None and isinstance(servable, OnDemand):
            servable.on_change = functools.partial(self._changed, weakref.ref(batcher))
            self._idle.add(servable)
        return batcher

    def _again(self, name: str, number: int, path: Path) -> Callable[[], Servable]:
        """Loads a version once more, if there is room for it."""

        def load() -> Servable:
            with self._budget.reserve(name, number, path):
                return self._servable(path)

        return load

    def _changed(self, reference: weakref.ref[Batcher]) -> None:
        if (batcher := reference()) is not None:
            batcher.forget_speed()
            self._on_idle(batcher.model)

    def _servable(self, path: Path) -> Servable:
        flags = self._flags
        if flags.prefer_tflite_model:
            from .platforms import lite  # here, as it takes the whole of TensorFlow

            if lite.found(path):
                return lite.load(path, flags.num_tflite_pools * flags.num_tflite_interpreters_per_pool)
        return saved_model.load(path, self._options)

    def close(self) -> None:
        """Nothing is loaded any more."""
        if self._idle is not None:
            self._idle.close()
        self.heartbeat.close()


def sees(visible: str) -> TensorFlow:
    """What TensorFlow in this process can use, which saves asking another one (`devices.Ask`)."""
    build = parts.build_info
    return TensorFlow(
        len(parts.list_physical_devices("GPU")),
        bool(build.get("is_cuda_build")),
        str(build.get("cuda_version", "")),
        tuple(build.get("cuda_compute_capabilities", ())),
    )

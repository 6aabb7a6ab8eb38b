"""What a server without workers says where a front tells of devices, placements and processes: `Places`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import api
from ...devices import CPU, Devices
from ...store import Store
from ..core.batching import Batcher
from ..errors import Code, ServingError
from .here import this_process
from .placement import AUTO, Placements, Wanted, changed, find


class OneProcess:
    """All models are where TensorFlow puts them: on the first GPU that it can use, else on the CPU."""

    def __init__(self, store: Store | None, devices: Devices) -> None:
        self._devices = devices
        self._placements = Placements(store)
        self._device = ""

    def device_list(self, models: Sequence[str]) -> api.DeviceList:
        """The devices."""
        return self._devices.message({self._here(): models})

    def placement(self, model: str) -> api.Placement:
        """Where a model is to be."""
        return self._placements.of(model).message()

    def check(self, model: str, request: Mapping[str, Any]) -> None:
        """Raise ServingError where a `PlacementRequest` cannot be."""
        self._checked(model, request)

    def place(self, model: str, request: Mapping[str, Any]) -> None:
        """Nothing moves: what can be asked for is what there is."""
        self._placements.remember(model, self._checked(model, request))

    def wait(self, model: str, timeout: float) -> None:
        """Nothing is on its way."""

    def devices_of(self, servable: Batcher) -> list[str]:
        """Where a loaded version is."""
        return [self._here()]

    def processes(self, models: Sequence[str]) -> list[api.Process]:
        """This process."""
        return [this_process(self._here(), models)]

    def log(self, process: str) -> Path | None:
        """There are no workers."""
        return None

    def _here(self) -> str:
        if not self._device:
            gpus = [device.id for device in self._devices.read() if device.kind != "cpu" and device.usable]
            self._device = gpus[0] if gpus else CPU
        return self._device

    def _checked(self, model: str, request: Mapping[str, Any]) -> Wanted:
        wanted = changed(self._placements.of(model), request)
        if wanted.device != AUTO:
            find(self._devices.read(), wanted.device)
        if wanted.device not in (AUTO, self._here()) or wanted.replicas > 1 or wanted.memory_limit:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f"{model} cannot be placed: this model server is one process, which runs all models on {self._here()}.",
                "Start it with --isolation=device --workers=always (under Jupyter: c.TFServe.workers = 'always').",
            )
        return wanted

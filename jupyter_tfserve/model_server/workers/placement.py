"""Where models are served: what was asked for, checked and remembered, and which devices that comes to."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ... import api
from ...devices import CPU, Device
from ...store import Store
from ..errors import Code, ServingError, invalid

AUTO = "auto"

#: A model's files times this is what it is taken to need of a GPU's memory: its variables, and room to run.
_ROOM = 1.5

_MAX_REPLICAS = 64


@dataclass(frozen=True)
class Wanted:
    """What was asked for, for one model."""

    device: str = AUTO
    replicas: int = 1
    memory_limit: int | None = None  #: bytes of GPU memory

    def message(self, moving_to: str = "", error: str = "") -> api.Placement:
        """As the management API tells of it."""
        return api.Placement(
            device=self.device,
            replicas=self.replicas,
            memory_limit=self.memory_limit,
            moving_to=moving_to,
            error=error,
        )


class Placements:
    """What was asked for, for all models; kept in the store, without one as long as the process lives."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._memory: dict[str, Wanted] = {}
        self._lock = threading.Lock()

    def of(self, model: str) -> Wanted:
        """What was asked for, for a model."""
        with self._lock:
            if self._store is None:
                return self._memory.get(model, Wanted())
            try:
                return changed(Wanted(), self._store.placement(model))
            except ServingError:  # somebody edited the file
                return Wanted()

    def remember(self, model: str, wanted: Wanted) -> None:
        """From now on. Raises RESOURCE_EXHAUSTED, and remembers nothing, where it cannot be written."""
        with self._lock:
            if self._store is None:
                self._memory[model] = wanted
                return
            try:
                self._store.set_placement(model, {k: v for k, v in asdict(wanted).items() if v is not None})
            except OSError as error:
                raise ServingError(
                    Code.RESOURCE_EXHAUSTED,
                    f"The device of {model} cannot be written: {os.strerror(error.errno or 0)}. Nothing was changed.",
                    "Free some space, then try again.",
                ) from None


def changed(wanted: Wanted, request: Mapping[str, Any]) -> Wanted:
    """With what a `PlacementRequest` says. Raises INVALID_ARGUMENT if it is none."""
    if not isinstance(request, Mapping):
        raise invalid(f"placement is an object, not {request!r}.")
    for key, value in request.items():
        if key == "device":
            right = isinstance(value, str) and bool(value)
        elif key == "replicas":
            right = _is_number(value) and 1 <= value <= _MAX_REPLICAS
        elif key == "memory_limit":
            right = value is None or (_is_number(value) and value > 0)
        else:
            raise invalid(f"A placement has no {key!r}.", "It has: device, replicas, memory_limit.")
        if not right:
            raise invalid(
                f"{key} cannot be {value!r}.",
                f"device is 'auto' or one that `%tfserve devices` lists, replicas a number from 1 to {_MAX_REPLICAS}, "
                "memory_limit a number of bytes, or null.",
            )
    return replace(wanted, **request)


def find(devices: Sequence[Device], name: str) -> Device:
    """The device of that name. Raises NOT_FOUND, or FAILED_PRECONDITION if it is not usable, with the remedy."""
    for device in devices:
        if device.id == name:
            if not device.usable:
                raise ServingError(Code.FAILED_PRECONDITION, f"{name} cannot be used: {device.reason}", device.remedy)
            return device
    there = ", ".join(device.id for device in devices if device.usable)
    raise ServingError(Code.NOT_FOUND, f"There is no device {name!r} on this machine.", f"There are: {there}.")


def choose(devices: Sequence[Device], wanted: Wanted, needed: int) -> list[Device]:
    """The device of each replica, for a model that needs so many bytes.

    `auto` takes, for each replica, the accelerator with the most free memory left where the model fits in; the CPU
    where it fits into none. Raises ServingError where a device that was named cannot be had.
    """
    if wanted.device != AUTO:
        return [find(devices, wanted.device)] * wanted.replicas
    needed = min(needed, wanted.memory_limit) if wanted.memory_limit else needed
    free = {device.id: device.free for device in devices if device.is_accelerator and device.usable}
    by_name = {device.id: device for device in devices}
    chosen = []
    for _ in range(wanted.replicas):
        best = max(free, key=lambda name: free[name], default="")
        if best and free[best] >= needed:
            free[best] -= needed
            chosen.append(by_name[best])
        else:
            chosen.append(by_name[CPU])
    return chosen


def needed(path: Path) -> int:
    """Bytes that a version is taken to need, from the size of its files."""
    size = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                size += os.stat(os.path.join(folder, name)).st_size
            except OSError:  # it is being written, or goes away: loading it will tell
                continue
    return int(size * _ROOM)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

"""Which worker a version is loaded in: names that say what each process is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...devices import Device


@dataclass(frozen=True)
class Slot:
    """A place for one replica of a version: the worker's name, its device and the flags it has of its own."""

    name: str
    device: Device
    flags: tuple[str, ...] = ()


def slots(
    isolation: str, devices: Sequence[Device], model: str, number: int, alone: bool, memory_limit: int | None
) -> list[Slot]:
    """A slot for each replica, whose devices these are. `alone`: it shares no process with another version, whatever
    `isolation` says; a model with a memory limit shares none with other models, for the limit is the process's.

    The second replica on a device is in the process ``...@2``.
    """
    found: list[Slot] = []
    for device in devices:
        name = device.id
        megabytes = -(-memory_limit // 2**20) if memory_limit and device.kind != "cpu" else 0
        if isolation in ("model", "version") or alone or megabytes:
            name += f"/{model}"
        if isolation == "version" or alone:
            name += f"/{number}"
        if megabytes:
            name += f":{megabytes}MB"
        before = sum(slot.device.id == device.id for slot in found)
        if before:
            name += f"@{before + 1}"
        found.append(Slot(name, device, (f"--gpu_memory_limit_mb={megabytes}",) if megabytes else ()))
    return found

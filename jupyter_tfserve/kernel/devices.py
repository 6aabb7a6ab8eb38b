"""`%tfserve device` and `%tfserve devices`: words for a placement, moves that are waited for, how devices are shown.
Called by `magic.py` and `base.py`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..api import Device, DeviceList, ModelStatus, PlacementRequest
from ..client import Client, TFServeError
from . import render
from .arguments import UsageError
from .outcomes import Shown

#: Seconds between two looks whether a model has arrived.
_TICK = 1.0

_SIZE = re.compile(r"(\d+)([KMGT]?)i?B?", re.IGNORECASE)

_HEAD = ["device", "name", "memory", "load", "models", ""]


@dataclass(frozen=True, repr=False)
class DeviceReport(Shown):
    """The devices, as they were."""

    devices: list[Device]
    notice: str

    def _text(self) -> str:
        lines = render.columns(_HEAD, map(_row, self.devices))
        return "\n".join([*lines, *([self.notice] if self.notice else [])])

    def _html(self) -> str:
        card = render.table_card_html("Devices", _HEAD, map(_row, self.devices))
        return card + (render.said_html(self.notice) if self.notice else "")


def report(devices: DeviceList) -> DeviceReport:
    """To be shown."""
    return DeviceReport(devices["devices"], devices["notice"])


def move(client: Client, name: str, request: PlacementRequest, progress: Callable[[str], None]) -> ModelStatus:
    """Move a model, and wait until it is there. Raises TFServeError where it stays where it was."""
    status = client.set_device(name, request)
    began = time.monotonic()
    while status["placement"]["moving_to"]:
        progress(f"{name} is loaded on {status['placement']['moving_to']}, {time.monotonic() - began:.0f} s ...")
        time.sleep(_TICK)
        status = client.model(name)
    if status["placement"]["error"]:
        raise TFServeError(f"{name} stays where it was: {status['placement']['error']}")
    return status


def placed_text(status: ModelStatus) -> str:
    """Where a model is, and what was asked for."""
    placement = status["placement"]
    where = sorted({device for version in status["versions"] for device in version["devices"]})
    words = f"{status['name']} is served on {', '.join(where)}" if where else f"{status['name']} is not loaded"
    asked = [f"asked for: {placement['device']}"]
    if placement["replicas"] > 1:
        asked.append(f"{placement['replicas']} replicas")
    if placement["memory_limit"] is not None:
        asked.append(f"at most {size_text(placement['memory_limit'])} of GPU memory")
    if placement["error"]:
        asked.append(f"the last move failed: {placement['error']}")
    return f"{words} ({', '.join(asked)})."


def size(text: str) -> int | None:
    """Bytes, of "4G" or "none". Raises UsageError."""
    if text == "none":
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is no size.", "For example: --memory-limit 4G, or: --memory-limit none")
    return int(match[1]) << " KMGT".index(match[2].upper() or " ") * 10


def size_text(number: int) -> str:
    """As people read it: "1.5 GiB"."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number} B"


def _row(device: Device) -> list[str]:
    used, total, load = device["memory_used"], device["memory_total"], device["load"]
    memory = "" if total is None else f"{size_text(used or 0)} of {size_text(total)}"
    why = "" if device["usable"] else f"not usable: {device['reason']} {device['remedy']}".rstrip()
    return [
        device["id"],
        device["name"],
        memory,
        "" if load is None else f"{load:.0%}",
        ", ".join(device["models"]),
        why,
    ]

"""What the management API asks about devices, placements and processes: of a front (`front.py`), or of a server that
runs all models itself (`one_process.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ... import api
from ..core.batching import Batcher


class Places(Protocol):
    """Where models are. Methods may be called from any thread but the event loop's; they may wait."""

    def device_list(self, models: Sequence[str]) -> api.DeviceList:
        """The devices; `models` are those that are served."""

    def placement(self, model: str) -> api.Placement:
        """Where a model is to be."""

    def check(self, model: str, request: Mapping[str, Any]) -> None:
        """Raise ServingError where a `PlacementRequest` cannot be."""

    def place(self, model: str, request: Mapping[str, Any]) -> None:
        """Where a model's versions are to be loaded from now on; those that are loaded begin to move there. Raises
        ServingError where that cannot be.
        """

    def wait(self, model: str, timeout: float) -> None:
        """Until a model is not on its way any more, or so many seconds have passed."""

    def devices_of(self, servable: Batcher) -> list[str]:
        """Where a loaded version is."""

    def processes(self, models: Sequence[str]) -> list[api.Process]:
        """This process and its workers; `models` are those that are served."""

    def log(self, process: str) -> Path | None:
        """The log of a worker; None for an unknown one."""

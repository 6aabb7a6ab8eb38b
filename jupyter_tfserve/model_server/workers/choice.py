"""Whether this process runs models itself, or is a front with workers; decided before anything slow is imported."""

from __future__ import annotations

from ...devices import Devices
from ..flags import Flags


def is_front(flags: Flags) -> bool:
    """With `--isolation=device` workers are worth while where there is more than one device; where the CPU is all there
    is, one process does, unless `--workers=always`.
    """
    if flags.worker:
        return False
    if flags.workers == "always" or flags.isolation in ("model", "version"):
        return True
    return flags.isolation == "device" and len(Devices().seen()) > 1

"""This process, as the management API tells of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ... import api

#: The process that has the ports.
SERVER = "server"


def this_process(device: str, models: Sequence[str]) -> api.Process:
    """`device` is where it runs models, "" if it runs none."""
    return api.Process(
        id=SERVER,
        pid=os.getpid(),
        device=device,
        state="running",
        restarts=0,
        memory=_memory(),
        models=sorted(models),
    )


def _memory() -> int | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")

"""Who made a version, and where: read from the file that a registration leaves in the version's folder
(`kernel/lineage.py` writes it). The folder may come from anybody: nothing in it is trusted, or read without a limit.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from ..api import Origin
from ..store import LINEAGE

#: Bytes that a file beside a model may have to be read; what registrations write has a few thousand.
_LIMIT = 1 << 20

#: Characters of a path or a name.
_LONGEST = 1024


def read(version: Path) -> Origin | None:
    """The origin of a version; None if it has none that can be read."""
    record = read_json(version / LINEAGE)
    if record is None:
        return None
    when, cell = record.get("time"), record.get("cell")
    if isinstance(when, bool) or not isinstance(when, (int, float)) or not 0 <= when < 1e12:
        return None
    is_cell = isinstance(cell, int) and not isinstance(cell, bool) and 0 <= cell < 1 << 31
    return Origin(
        notebook=_text(record.get("notebook")),
        cell=cell if is_cell else None,
        user=_text(record.get("user")),
        time=float(when),
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a regular file, not behind a link; None if there is none, or it is too large."""
    try:
        # O_NONBLOCK: a named pipe would be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LIMIT:
            return None
        with os.fdopen(fd, "rb", closefd=False) as file:
            record = json.loads(file.read(_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        os.close(fd)
    return record if isinstance(record, dict) and _is_finite(record) else None


def _is_finite(record: dict[str, Any]) -> bool:
    """Python reads NaN and Infinity at the top, which JSON does not have."""
    return all(not isinstance(value, float) or math.isfinite(value) for value in record.values())


def _text(value: object) -> str:
    """A text of one line that can be encoded, cut to a length."""
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else " " for c in value[:_LONGEST]).encode("utf-8", "replace").decode()

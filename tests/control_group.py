"""A real control group with a memory limit, for tests that need one; skipped where this user may make none."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

import pytest

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


class ControlGroup:
    """One below the root of the hierarchy; removed at the end of the block, its processes killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_v1 = folder.parent == _V1

    @classmethod
    def make(cls) -> ControlGroup:
        """A new one; skips the test where it cannot be made."""
        root = _V1 if _V1.is_dir() else _V2
        folder = root / f"tfserve-test-{uuid.uuid4().hex}"
        try:
            folder.mkdir()
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")
        if not any((folder / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
            folder.rmdir()
            pytest.skip("control groups have no memory controller here")
        return cls(folder)

    def limit(self, size: int) -> None:
        """Bytes that its processes may use together."""
        (self.folder / ("memory.limit_in_bytes" if self._is_v1 else "memory.max")).write_text(str(size))

    def add(self, pid: int) -> None:
        """Put a process, with all its threads, into it."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def __enter__(self) -> ControlGroup:
        return self

    def __exit__(self, *raised: object) -> None:
        end = time.monotonic() + 30
        while True:
            for pid in (self.folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            try:
                self.folder.rmdir()
                return
            except OSError:  # a process that was killed is not gone at once
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

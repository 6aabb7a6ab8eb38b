"""Builds `shim.c` and steers it: faults inside processes that a test cannot make from outside."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest


class Shim:
    """Processes that are started with `environment` have the faults, and each change counts at once."""

    def __init__(self, folder: Path) -> None:
        """Skips the test where there is no C compiler."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("a C compiler makes these faults, and there is none")
        library = folder / "shim.so"
        source = Path(__file__).with_name("shim.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self._control = folder / "shim.control"
        self._control.write_bytes(bytes(24))
        self.environment = {"LD_PRELOAD": str(library), "TFSERVE_SHIM": str(self._control)}
        self.crash = "/nowhere/crash-in-the-op"  #: reading this file is a segmentation fault

    def set(self, clock_seconds: int = 0, open_millis: int = 0, read_millis: int = 0) -> None:
        """Move the wall clock; delay each opening of a file of the store, and each read at a place of a file."""
        with open(self._control, "r+b") as file:
            file.write(struct.pack("=qqq", clock_seconds, open_millis, read_millis))

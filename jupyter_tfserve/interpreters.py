"""Which Python interpreter runs the model server: one that has TensorFlow. Asked by the supervisor, whose own need not
have it. Nothing here imports what it looks for.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

#: What the model server's interpreter must be able to import.
NEEDED = ("tensorflow", "tensorflow_serving", "grpc")

INSTALL = "pip install 'jupyter-tfserve[tensorflow]'"

#: The file in the store that has the interpreter which was used last.
LAST_USED = ".python"


class StartError(Exception):
    """No model server could be started; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def choose(kernel: str, last_used: Path) -> str:
    """This process's interpreter where TensorFlow imports there, else the kernel's, else the one that the file
    `last_used` names. Raises StartError.
    """
    if not missing_here():
        return sys.executable
    try:
        remembered = last_used.read_text()
    except OSError:
        remembered = ""
    tried = [sys.executable]
    for python in (kernel, remembered):
        if python and python not in tried and Path(python).exists():
            if not missing_in(python):
                return python
            tried.append(python)
    raise StartError(
        "TensorFlow cannot be imported by any interpreter that could run the model server: " + ", ".join(tried) + ".",
        f"Install it in one of them: {tried[-1]} -m {INSTALL}",
    )


def missing_here() -> list[str]:
    """The modules that the model server needs and this interpreter lacks; imports none of them."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def missing_in(python: str) -> list[str]:
    """The same for another interpreter (takes about 50 ms); everything if it cannot be run."""
    # found, not imported
    code = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if u.find_spec(n) is None])"
    try:
        done = subprocess.run(
            [python, "-c", code, *NEEDED, "jupyter_tfserve"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return list(NEEDED)
    return done.stdout.split()

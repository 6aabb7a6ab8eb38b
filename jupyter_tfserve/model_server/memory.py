"""What serving does not need: keeps the model server's start short, and the process small. `__main__.py` and `app.py`
call it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
import site
import sys
import threading
import types
from pathlib import Path
from typing import Any

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+\s*(.*)")

#: Mappings of which less than this is in memory are not worth a system call (kB).
_WORTH = 1000

_MADV_DONTNEED = 4


def leave_out_keras() -> None:
    """To be called before TensorFlow is imported, which imports Keras, and with it scikit-learn, SciPy and whatever it
    finds: half of the time that the import takes, and 100 MB. TensorFlow does without where there is none, and a
    SavedModel needs none, as it holds graphs.
    """
    sys.modules["keras"] = None  # type: ignore[assignment]


def leave_out_tensorflow() -> None:
    """To be called in a front, which runs no models: TensorFlow's messages can be imported then without the package
    itself, which takes seconds and hundreds of megabytes.
    """
    _put_in_place(types.ModuleType("tensorflow"))


class _Postponed(types.ModuleType):
    """TensorFlow's package, whose modules can be imported from it; who asks it for anything else gets the whole."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        return getattr(whole_tensorflow(), name)


_importing = threading.RLock()


def postpone_tensorflow() -> None:
    """To be called where models run: the parts that a session needs (`tensorflow_parts.py`) are a third of what
    `import tensorflow` imports, in time and in modules. The rest is imported when somebody asks for it.
    """
    leave_out_keras()
    folders = {*site.getsitepackages(), *sys.path}
    if not any(Path(folder, "tensorflow-plugins").exists() for folder in folders):  # devices that the whole adds
        _put_in_place(_Postponed("tensorflow"))


def whole_tensorflow() -> Any:
    """`import tensorflow`, where it was postponed."""
    with _importing:
        if is_postponed():
            del sys.modules["tensorflow"]
        return importlib.import_module("tensorflow")


def is_postponed() -> bool:
    """Whether only parts of TensorFlow are imported."""
    return isinstance(sys.modules.get("tensorflow"), _Postponed)


def _put_in_place(package: types.ModuleType) -> None:
    found = importlib.util.find_spec("tensorflow")
    if found is None or "tensorflow" in sys.modules:
        return
    package.__path__ = list(found.submodule_search_locations or ())
    package.__spec__ = found
    package.__file__ = found.origin
    sys.modules["tensorflow"] = package


def forget_start_up() -> int:
    """Give back the pages of libraries as they are on disk (TensorFlow's are 350 MB, most of which only the start
    touched: relocations, registrations); returns how many kB. Those that are used again are mapped again, from the
    system's cache. What was written to is left alone. Linux; elsewhere nothing happens.
    """
    try:
        with open("/proc/self/smaps") as file:
            lines = file.readlines()
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    forgotten = start = end = rss = 0
    is_clean = False
    for line in lines:
        mapping = _MAPPING.match(line)
        if mapping:
            start, end = int(mapping[1], 16), int(mapping[2], 16)
            is_clean = mapping[4].startswith("/") and "w" not in mapping[3]
        elif line.startswith("Rss:"):
            rss = int(line.split()[1])
        elif line.startswith("Anonymous:") and is_clean and rss >= _WORTH and int(line.split()[1]) == 0:
            madvise(start, end - start, _MADV_DONTNEED)
            forgotten += rss
    return forgotten

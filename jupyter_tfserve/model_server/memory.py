"""What start-up needed and serving does not: keeps the model server small. `__main__.py` and `app.py` call it."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
import types

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
    found = importlib.util.find_spec("tensorflow")
    if found is None or "tensorflow" in sys.modules:
        return
    package = types.ModuleType("tensorflow")
    package.__path__ = list(found.submodule_search_locations or ())
    package.__spec__ = found
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

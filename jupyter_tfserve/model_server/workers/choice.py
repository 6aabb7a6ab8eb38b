"""Whether this process runs models itself, or is a front with workers; decided before anything slow is imported."""

from __future__ import annotations

import importlib.util
import runpy

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
    if flags.isolation != "device":
        return False
    others = [device for device in Devices().seen() if device.is_accelerator]
    return any(device.kind == "cpu" for device in others) or (bool(others) and _is_cuda_build())


def _is_cuda_build() -> bool:
    """Whether the installed TensorFlow could use a GPU at all; true where that is not known. It is not imported: what
    `tf.sysconfig.get_build_info` tells is in a file of its own.
    """
    found = importlib.util.find_spec("tensorflow")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        try:
            told = runpy.run_path(f"{folder}/python/platform/build_info.py")
        except OSError:
            continue
        return bool(told["build_info"]["is_cuda_build"])
    return True

"""What can go wrong in this wing: every error says what is wrong and what to do about it. Used by all modules here."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from ..client import TFServeError
from ..interpreters import INSTALL, StartError
from ..store import STAGING, StoreError


class KernelError(TFServeError):
    """Something in this kernel stands in the way: the object, the example, the disk, a missing package."""


class ExportError(KernelError):
    """The object cannot become a SavedModel."""


class LoadError(KernelError):
    """The version was made, but the model server could not load it; what was served before goes on being served."""


def need_tensorflow(purpose: str) -> None:
    """Raise KernelError if this kernel cannot import TensorFlow, which `purpose` needs; imports nothing."""
    if importlib.util.find_spec("tensorflow") is None:
        raise KernelError(
            f"{purpose} needs TensorFlow, and this kernel's environment ({sys.executable}) has none.",
            f"Install it there: {sys.executable} -m {INSTALL}",
        )


@contextlib.contextmanager
def plain_errors(folder: Path | None = None) -> Iterator[None]:
    """Turn what the store, the supervisor and the disk raise into KernelError, so that callers see one type.

    `folder` is where things are written: it is named when its disk is full.
    """
    try:
        yield
    except (StoreError, StartError) as error:
        raise KernelError(error.message, error.remedy) from error
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise disk_full(folder) from error


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of the system, of shutil or of TensorFlow means that there is no space left."""
    if isinstance(error, shutil.Error):  # copytree collects what went wrong, as text
        return os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error)
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # Its ResourceExhaustedError may mean memory too.
    return type(error).__name__ == "ResourceExhaustedError" and os.strerror(errno.ENOSPC) in str(error)


def disk_full(folder: Path | None, needed: int = 0) -> KernelError:
    """The error for a disk without space; `needed` in bytes where it is known."""
    if folder is not None and folder.parent.name == STAGING:
        folder = folder.parent.parent
    where = f" that holds {folder}" if folder else ""
    need = f" The version needs {size(needed)}." if needed else ""
    free = ""
    if folder is not None and needed:
        with contextlib.suppress(OSError):
            free = f" {size(shutil.disk_usage(folder).free)} are free."
    return KernelError(
        f"The disk{where} is full.{need}{free}",
        "Remove models that are no longer needed (`%tfserve remove NAME`), keep fewer versions (`--keep N`), "
        "or choose another store (JUPYTER_TFSERVE_STORE, or the trait TFServe.store of the Jupyter Server).",
    )


def size(count: float) -> str:
    """Bytes for people: ``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

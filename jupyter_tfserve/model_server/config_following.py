"""Serves what models.config says whenever it changes: at once in a store, at each poll where the flag says so. Run by
the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from watchfiles import awatch

from ..store import Store
from . import config as model_config
from .config import ConfigStore
from .errors import ServingError

log = logging.getLogger("tfserve")


async def follow_store(store: Store, configs: ConfigStore) -> None:
    """For ever. A look whenever the folder changes, and each second: what changed before the watch began, or on a
    network file system, is told by nobody.
    """
    seen: tuple[int, ...] = ()
    while True:
        with contextlib.suppress(OSError, RuntimeError):  # the folder went away, or there is no watch to be had
            async for _ in awatch(
                store.root, recursive=False, debounce=50, step=10, rust_timeout=1000, yield_on_timeout=True
            ):
                found = _stamp(store.config)
                if found != seen:
                    seen = found
                    await asyncio.to_thread(configs.follow)
        await asyncio.sleep(1)


async def poll_file(file: Path, seconds: float, configs: ConfigStore) -> None:
    """For ever: --model_config_file, read again every `seconds`."""
    refused = ""
    while True:
        await asyncio.sleep(seconds)
        refused_now = await asyncio.to_thread(_read_again, file, configs)
        if refused_now and refused_now != refused:  # once, not at each poll
            log.error("%s is refused, what was served goes on: %s", file, refused_now)
        refused = refused_now


def _read_again(file: Path, configs: ConfigStore) -> str:
    """Apply the file; returns why it is refused, "" if it is not."""
    try:
        configs.apply(model_config.read(file))
    except ServingError as error:
        return str(error)
    return ""


def _stamp(file: Path) -> tuple[int, ...]:
    """What differs between two contents of a file that is replaced by renaming; () if there is none."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size

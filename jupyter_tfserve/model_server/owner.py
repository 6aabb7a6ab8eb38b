"""Ends this process when the one that started it is gone; imports nothing slow, so that it works from the start."""

from __future__ import annotations

import os
import select
import sys
import threading

#: Seconds between two looks whether the owner is still the parent, beside waiting for its pipe to end.
_LOOK = 0.5


def end_with_owner(fd: int) -> None:
    """Watch, in a thread, the pipe that the owner holds open, and the owner itself."""
    threading.Thread(target=_watch, args=(fd, os.getppid()), name="owner", daemon=True).start()


def _watch(fd: int, parent: int) -> None:
    # The pipe ends with the owner. Where a child of the owner still holds it (a fork in a kernel), the parent's number
    # has changed.
    while os.getppid() == parent:
        if select.select([fd], [], [], _LOOK)[0] and not os.read(fd, 1):
            break
    sys.stderr.write("The process that started this server is gone: ending\n")
    os._exit(1)

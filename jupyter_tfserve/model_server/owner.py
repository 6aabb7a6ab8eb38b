"""Ends this process when the one that started it is gone; imports nothing slow, so that it works from the start.

A process that hangs cannot end itself: there Linux does it (PR_SET_PDEATHSIG), which goes by the thread that started
it. `process.py` starts each process in a thread that lives as long, and `instances.py` in its main thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading

#: Seconds between two looks whether the owner is still the parent, beside waiting for its pipe to end.
_LOOK = 0.5

_PR_SET_PDEATHSIG = 1


def end_with_owner(fd: int, socket: str = "") -> None:
    """Watch, in a thread, the pipe that the owner holds open, and the owner itself; `socket` goes when this process
    does, unless it hangs: then it is for the next start to take away.
    """
    if sys.platform == "linux":
        # Where the owner ended before this, its pipe says so.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(fd, os.getppid(), socket), name="owner", daemon=True).start()


def _watch(fd: int, parent: int, socket: str) -> None:
    # The pipe ends with the owner. Where a child of the owner still holds it (a fork in a kernel), the parent's number
    # has changed.
    while os.getppid() == parent:
        if select.select([fd], [], [], _LOOK)[0] and not os.read(fd, 1):
            break
    sys.stderr.write("The process that started this server is gone: ending\n")
    if socket:
        with contextlib.suppress(OSError):
            os.unlink(socket)
    os._exit(1)

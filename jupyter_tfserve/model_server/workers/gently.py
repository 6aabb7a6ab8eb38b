"""Work that is not to slow down others: imports and loads of workers beside those that serve."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

#: Nice: nine times less of a core than an equal gets that wants it too.
_NICE = 10


def gently(work: Callable[[], T]) -> T:
    """Do it in a thread of lower priority, and wait for it. Linux, where priorities are threads'; elsewhere it is just
    done. The process's own priority could not be raised again without privileges.
    """
    future: Future[T] = Future()

    def run() -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    if not os.path.exists("/proc/self/task"):
        return work()
    threading.Thread(target=run, name="gently", daemon=True).start()
    return future.result()

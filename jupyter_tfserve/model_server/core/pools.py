"""Threads for calls that wait or take long (Classify, Regress, large bodies): each model has its own, so that the calls
of a slow one do not keep the others' from theirs. Used by the frontends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from ..errors import Code, ServingError

#: Calls of a model that may wait for one of its threads; what comes on top is UNAVAILABLE.
MAX_WAITING = 1000

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def full() -> ServingError:
    """A model has as much to do as it may: TF Serving's text."""
    return ServingError(
        Code.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full",
        "Try again in a moment; max_enqueued_batches says how much may wait.",
    )


class ModelPools:
    """A pool for each model that is served, made when it is first needed; another one for all else. All methods may be
    called from any thread.
    """

    def __init__(
        self, threads: int, is_served: Callable[[str], bool], name: str, initializer: Callable[[], object] | None = None
    ) -> None:
        """`threads` for each model. `is_served` keeps names that callers make up from having pools."""
        self._threads = threads
        self._is_served = is_served
        self._name = name
        self._initializer = initializer
        self._lock = threading.Lock()
        self._pools: dict[str, _Pool] = {}
        self.common: Executor = self._make("")

    def of(self, model: str) -> Executor:
        """The pool of a model. Its `submit` raises UNAVAILABLE if too much is waiting."""
        found = self._pools.get(model)
        if found is not None:
            return found
        if not self._is_served(model):
            return self.common
        with self._lock:
            for name in [name for name in self._pools if not self._is_served(name)]:
                self._pools.pop(name).shutdown(wait=False)
            if model not in self._pools:
                self._pools[model] = self._make(f"-{model}")
            return self._pools[model]

    def _make(self, suffix: str) -> _Pool:
        return _Pool(self._threads, self._name + suffix, self._initializer or (lambda: None))


class _Pool(ThreadPoolExecutor):
    """With a limit of what may wait."""

    def __init__(self, threads: int, name: str, initializer: Callable[[], Any]) -> None:
        super().__init__(threads, name, initializer)
        self._counting = threading.Lock()
        self._waiting = 0

    def submit(
        self, work: Callable[_Arguments, _Result], /, *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> Future[_Result]:
        """As of its base; raises UNAVAILABLE if too much is waiting."""

        def run() -> _Result:
            with self._counting:
                self._waiting -= 1
            return work(*args, **kwargs)

        with self._counting:
            if self._waiting >= MAX_WAITING:
                raise full()
            self._waiting += 1
        return super().submit(run)

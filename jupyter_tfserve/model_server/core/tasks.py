"""A request for a run, and the ways to be told what became of it. Frontends subclass `Task`, `batch_queue.py` runs
them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import ServingError
from .servable import Array

log = logging.getLogger(__name__)

#: ``turn(function)``: call it in this thread, once the present burst of requests has been taken in.
Turn = Callable[[Callable[[], None]], object]


class Task:
    """One request for a run. A frontend's subclass says what becomes of the outcome; `done` (or `finish`, for all of a
    run) or `failed` is called once, in the frontend's thread or in a batch thread, and must not wait.
    """

    __slots__ = ("deadline", "inputs", "rows", "shape", "submitted")

    inputs: Sequence[Array]
    deadline: float | None
    submitted: float
    rows: int  #: 0 where it must not be merged
    shape: object  #: what the requests of one run have in common; None: it is run alone

    api = ""  #: TF Serving's name of the call, for its metrics; "": it is not counted
    requests = 1  #: that it stands for

    def __init__(self, inputs: Sequence[Array], deadline: float | None = None) -> None:
        """`inputs` in the signature's order, `deadline` a `time.monotonic()`."""
        self.inputs = inputs
        self.deadline = deadline
        self.rows = 0
        self.shape = None

    @classmethod
    def finish(cls, tasks: Sequence[Task], outputs: Sequence[list[Array]]) -> None:
        """Tasks of this class have run together; `outputs` has for each of them what `done` takes. To be overridden
        where the answers to many cost less than as many answers.
        """
        for task, own in zip(tasks, outputs, strict=True):
            try:
                task.done(own)
            except Exception:  # a frontend's bug must not take the other requests of the run with it
                log.exception("A reply failed")

    def done(self, outputs: list[Array]) -> None:
        """The outputs asked for, in that order."""
        raise NotImplementedError

    def failed(self, error: ServingError) -> None:
        """It was refused, or its run failed."""
        raise NotImplementedError

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the outcome any more; asked before a run."""
        return False


class Shares(Sequence[list[Array]]):
    """The outputs of a run of several tasks: for each of them its own rows. `whole` is for who can answer all of them
    with less than as many pieces cost, and they are only cut when somebody asks for one.
    """

    __slots__ = ("_own", "_tasks", "whole")

    def __init__(self, whole: list[Array], tasks: Sequence[Task]) -> None:
        self.whole = whole
        self._tasks = tasks
        self._own: list[list[Array]] = []

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, place: Any) -> Any:
        return self._cut()[place]

    def __iter__(self) -> Iterator[list[Array]]:
        return iter(self._cut())

    def _cut(self) -> list[list[Array]]:
        if not self._own:
            start = 0
            for task in self._tasks:
                end = start + task.rows
                self._own.append([array[start:end] for array in self.whole])
                start = end
        return self._own


def finish(tasks: Sequence[Task], outputs: Sequence[list[Array]]) -> None:
    """Tell tasks of one run their outputs."""
    kind = type(tasks[0])
    if len(tasks) > 1 and len(set(map(type, tasks))) > 1:
        own = [place for place, task in enumerate(tasks) if type(task) is kind]
        rest = [place for place, task in enumerate(tasks) if type(task) is not kind]
        finish([tasks[place] for place in rest], [outputs[place] for place in rest])
        tasks, outputs = [tasks[place] for place in own], [outputs[place] for place in own]
    try:
        kind.finish(tasks, outputs)
    except Exception:  # a frontend's bug must not take the leader with it
        log.exception("Replies failed")


def fail(tasks: Sequence[Task], error: ServingError) -> None:
    """Tell tasks their error."""
    for task in tasks:
        try:
            task.failed(error)
        except Exception:
            log.exception("A reply failed")


def run_here(start: Callable[[Turn], None]) -> None:
    """Call `start` with a turn that is this thread's, and take the turn."""
    turns: list[Callable[[], None]] = []
    start(turns.append)
    while turns:
        turns.pop()()


class Waiter(Task):
    """A request whose thread waits for the outcome."""

    __slots__ = ("_lock", "api", "error", "outputs")

    def __init__(self, inputs: Sequence[Array], deadline: float | None, api: str) -> None:
        super().__init__(inputs, deadline)
        self.api = api
        self.outputs: list[Array] = []
        self.error: ServingError | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def done(self, outputs: list[Array]) -> None:
        """Its thread goes on."""
        self.outputs = outputs
        self._lock.release()

    def failed(self, error: ServingError) -> None:
        """Its thread goes on."""
        self.error = error
        self._lock.release()

    def wait(self) -> None:
        """Until it is done or has failed."""
        self._lock.acquire()


class _Whole:
    """A request that was split: told its outcome when that of the last part is known."""

    def __init__(self, task: Task, parts: int) -> None:
        self.task = task
        self._found: list[list[Array] | None] = [None] * parts
        self._left = parts
        self._error: ServingError | None = None
        self._lock = threading.Lock()

    def part_ended(self, place: int, outputs: list[Array] | None, error: ServingError | None) -> None:
        """One part's outcome."""
        with self._lock:
            self._found[place] = outputs
            self._error = self._error or error
            self._left -= 1
            if self._left:
                return
        if self._error is not None:
            self.task.failed(self._error)
        else:
            pieces = [found for found in self._found if found is not None]
            finish([self.task], [[np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]])


class _Part(Task):
    """Some rows of a request that is too large for one run."""

    __slots__ = ("_place", "_whole", "api")

    def __init__(self, whole: _Whole, place: int, inputs: Sequence[Array]) -> None:
        super().__init__(inputs, whole.task.deadline)
        self._whole, self._place = whole, place
        self.api = whole.task.api if place == 0 else ""
        self.rows = len(inputs[0])
        self.shape = whole.task.shape
        self.submitted = whole.task.submitted

    def done(self, outputs: list[Array]) -> None:
        self._whole.part_ended(self._place, outputs, None)

    def failed(self, error: ServingError) -> None:
        self._whole.part_ended(self._place, None, error)

    def is_cancelled(self) -> bool:
        return self._whole.task.is_cancelled()


def split(task: Task, largest: int) -> Sequence[Task]:
    """Parts of at most `largest` rows."""
    starts = range(0, task.rows, largest)
    whole = _Whole(task, len(starts))
    return [
        _Part(whole, place, [array[start : start + largest] for array in task.inputs])
        for place, start in enumerate(starts)
    ]

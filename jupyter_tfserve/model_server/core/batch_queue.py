"""What waits becomes a run: the requests for one signature and set of outputs. `batching.py` has one for each."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import metrics
from ..errors import Code, ServingError, invalid
from . import tasks
from .padding import check_rows, merged, rows_of
from .pools import full
from .servable import Array, Signature
from .tasks import Task, Turn

if TYPE_CHECKING:
    from .batching import Batcher, Batching

log = logging.getLogger(__name__)

#: Seconds for which nobody is asked whether a request is still wanted.
_MOMENT = 0.001

#: Requests that are not merged count so many to a batch when it comes to how much may wait.
_UNMERGED_ENQUEUED = 100

#: Seconds of runs in a frontend's thread, one after the other, before it sees to its connections again.
_TURN_SECONDS = 0.001


class Queue:
    """The requests for one signature and set of outputs.

    A *leader* takes what waits and runs it until nothing is left. Whose request comes when there are not enough leaders
    makes one: in its own turn if the runs are quick, else on a batch thread.
    """

    def __init__(self, batcher: Batcher, signature: Signature, outputs: tuple[str, ...]) -> None:
        self.signature = signature
        self.outputs = outputs
        self._batcher = batcher
        self._servable = batcher.servable
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[Task] = deque()
        self._rows = 0  # of those that wait
        self._is_mixed = False  # they cannot all be one run
        self._leaders = 0
        self._is_quick = batcher.servable.is_quick(signature)
        labels = (batcher.model, batcher.number, signature.name)
        self._latency = metrics.SIGNATURE_LATENCY.child(*labels)
        self._queue_time = metrics.QUEUE_TIME.child(*labels)
        self._batch_size = metrics.BATCH_SIZE.child(*labels)
        self._runtime: dict[str, metrics.Distribution] = {}  # by what the metrics call the request
        self.configure(batcher.batching)

    def configure(self, batching: Batching) -> None:
        """Go by new settings from the next request and the next run on."""
        with self._lock:
            self._merging = self._batcher.merges(self.signature.name)
            self._parameters = parameters = batching.parameters
            self._strict = batching.mode == "on"
            enqueued = parameters.max_enqueued_batches
            self._room = enqueued * parameters.largest_run  # rows that may wait, where they are merged
            self._most = self._room if self._merging else enqueued * _UNMERGED_ENQUEUED  # requests
            self._window = parameters.batch_timeout_micros / 1e6 if self._merging else 0.0
            self._limit = parameters.num_batch_threads if self._merging else batching.threads
            self._is_mixed = True  # what waits was told apart by the settings before
            self._changed.notify_all()

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def is_idle(self) -> bool:
        """Whether nothing waits nor runs."""
        with self._lock:
            return not self._leaders and not self._waiting

    @property
    def merges_at_once(self) -> bool:
        """Whether requests are merged, and run in a frontend's turn without waiting for more."""
        return self._merging and self._may_run_in_turn()

    @property
    def largest_run(self) -> int:
        """Rows that are run together."""
        return min(self._parameters.largest_run, self._parameters.max_batch_size)

    def submit(self, task: Task, turn: Turn, here: bool = False, now: bool = False) -> None:
        """Let a request wait for its run, which `turn` gets if it is to happen in this thread: because runs are quick,
        or with `here` in any case. With `now` it is not left to a turn. Raises ServingError if the request is refused;
        then it is not told so as well.
        """
        task.submitted = time.monotonic()
        parts: Sequence[Task] = ()
        if self._merging and self._is_too_large(task):
            parts = tasks.split(task, self._parameters.largest_run)
        in_turn = not here and self._is_quick and not self._window
        with self._lock:
            waiting = self._waiting
            if not waiting:
                self._is_mixed = task.shape is None
            elif self._rows + task.rows > self._room or len(waiting) >= self._most:
                raise full()
            elif task.shape != waiting[0].shape:
                self._is_mixed = True
            if parts:
                waiting.extend(parts)
            else:
                waiting.append(task)
            self._rows += task.rows
            if self._window:
                self._changed.notify_all()
            if self._leaders >= (1 if in_turn else self._limit):
                return
            self._leaders += 1
        if not (in_turn or here):
            self._batcher.pool.submit(self._lead)
        elif now:
            self._lead(turn)
        else:
            turn(functools.partial(self._lead, turn))

    def forget_speed(self) -> None:
        """The next run is not in a frontend's thread, however quick the last ones were."""
        self._is_quick = False

    def _may_run_in_turn(self) -> bool:
        return self._is_quick and not self._window

    def _is_too_large(self, task: Task) -> bool:
        """Note what a request can be merged with; returns whether it has to be split for that."""
        parameters = self._parameters
        inputs = task.inputs
        is_single = len(inputs) == 1 and inputs[0].ndim > 0
        rows = inputs[0].shape[0] if is_single else rows_of(inputs, self._strict)
        if rows > parameters.max_batch_size and self._strict:
            raise invalid(
                f"Task size {rows} is larger than maximum input batch size {parameters.max_batch_size}",
                "Send fewer rows, or raise max_batch_size.",
            )
        if not 0 < rows <= parameters.max_batch_size:
            return False  # a run of its own, as it would be without batching
        task.rows = rows
        if parameters.pad_variable_length_inputs:
            task.shape = [array.ndim for array in inputs]
        elif is_single:
            task.shape = inputs[0].shape[1:]
        else:
            task.shape = [array.shape[1:] for array in inputs]
        return rows > parameters.largest_run

    def _lead(self, turn: Turn | None = None) -> None:
        """Run what waits; in a frontend's thread only as long as it may keep its connections waiting."""
        end = 0.0
        while True:
            # Where runs are short, who comes while the last one is under way leads in its own thread.
            batch, now, is_last = self._take(turn is None and self._may_run_in_turn())
            if batch:
                self._run(batch, now)
            if is_last:
                return
            with self._lock:
                if not self._waiting:
                    self._leaders -= 1
                    return
            if turn is not None:
                end = end or now + _TURN_SECONDS
                if time.monotonic() > end:
                    if self._may_run_in_turn():
                        turn(functools.partial(self._lead, turn))
                    else:
                        self._batcher.pool.submit(self._lead)
                    return

    def _take(self, leave: bool) -> tuple[list[Task], float, bool]:
        """The requests of the next run, those that need no answer any more left out; the time; and with `leave` whether
        nothing is left, so that there is one leader less.
        """
        late: list[Task] = []
        with self._lock:
            if self._window:
                self._wait_for_more()
            now = time.monotonic()
            waiting = self._waiting
            if (
                waiting
                and not self._is_mixed
                and self._rows <= self._parameters.largest_run
                and now - waiting[0].submitted <= _MOMENT
            ):
                batch = list(waiting)  # what nearly always is: all of them
                waiting.clear()
                self._rows = 0
            else:
                batch = self._choose(now, late)
            is_last = leave and not waiting
            if is_last:
                self._leaders -= 1
        for task in late:
            tasks.fail([task], self._too_late(task))
        return batch, now, is_last

    def _choose(self, now: float, late: list[Task]) -> list[Task]:
        """Requests that fit into one run, in their order; who is not to be run any more goes to `late`. The lock is
        held.
        """
        batch: list[Task] = []
        largest = self._parameters.largest_run
        skipped: list[Task] = []
        rows = 0
        while self._waiting:
            task = self._waiting.popleft()
            # Who came this moment is still there.
            if now - task.submitted > _MOMENT and (
                (task.deadline is not None and now >= task.deadline) or task.is_cancelled()
            ):
                self._rows -= task.rows
                late.append(task)
                continue
            if batch and (task.shape != batch[0].shape or rows + task.rows > largest):
                skipped.append(task)
                continue
            batch.append(task)
            rows += task.rows
            if task.shape is None or rows >= largest:
                break
        self._waiting.extendleft(reversed(skipped))
        self._rows -= rows
        return batch

    def _too_late(self, task: Task) -> ServingError:
        if task.is_cancelled():
            return ServingError(Code.CANCELLED, "The request was cancelled.")
        if self._merging:
            return ServingError(Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")
        return ServingError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")

    def _wait_for_more(self) -> None:
        """Until the window of the oldest request has passed, or a batch is full; the lock is held."""
        while self._waiting and self._window and self._rows < self._parameters.largest_run:
            left = self._waiting[0].submitted + self._window - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _run(self, batch: list[Task], now: float) -> None:
        """Run a batch and give each request its rows. If it fails, each is run alone: an error is its request's."""
        try:
            found, size = self._execute(batch, now)
        except ServingError as error:
            if len(batch) == 1 or error.code in (Code.DEADLINE_EXCEEDED, Code.CANCELLED):
                tasks.fail(batch, error)
                return
            for task in batch:
                self._run([task], time.monotonic())
            return
        except BaseException:
            log.exception("A run of %s failed", self._batcher.model)
            tasks.fail(batch, ServingError(Code.INTERNAL, "The run failed"))
            return
        took = time.monotonic() - now
        tasks.finish(batch, [found] if len(batch) == 1 else tasks.Shares(found, batch))
        self._count(batch, size, now, took)  # then only: nobody waits for it

    def _execute(self, batch: list[Task], began: float) -> tuple[list[Array], int]:
        """One run of the servable: the outputs of all rows, padding cut off; and how many rows were run, 0 where they
        are no batch.
        """
        timeout_ms = _timeout_ms(batch, began)
        first = batch[0]
        padded = 0
        if first.shape is None:
            found = self._servable.run(self.signature, first.inputs, self.outputs, timeout_ms)
        else:
            parameters = self._parameters
            rows = first.rows if len(batch) == 1 else sum([task.rows for task in batch])
            padded = parameters.padded(rows) if parameters.allowed_batch_sizes else rows
            inputs = first.inputs
            if len(batch) > 1 or padded != rows:
                inputs = merged([task.inputs for task in batch], padded - rows, parameters.pad_variable_length_inputs)
            found = self._servable.run(self.signature, inputs, self.outputs, timeout_ms)
            if self._strict or len(batch) > 1 or first.requests > 1 or padded != rows:
                check_rows(found, padded)
            if padded != rows:
                found = [array[:rows] for array in found]
        self._is_quick = self._servable.is_quick(self.signature)
        return found, padded

    def _count(self, batch: list[Task], size: int, began: float, seconds: float) -> None:
        """Note a run in the metrics."""
        if size:
            self._batch_size.observe(size)
        took = seconds * 1e6
        first = batch[0]
        if len(batch) == 1 and first.requests == 1:
            self._queue_time.observe((began - first.submitted) * 1e6)
            self._latency.observe(took)
            self._runtime_of(first.api).observe(took)
        else:
            requests = [task for task in batch for _ in range(task.requests)]
            self._queue_time.observe_all([(began - task.submitted) * 1e6 for task in requests])
            self._latency.observe_all([took] * len(requests))
            apis = [task.api for task in requests]
            for api in set(apis):
                self._runtime_of(api).observe_all([took] * apis.count(api))

    def _runtime_of(self, api: str) -> metrics.Distribution:
        found = self._runtime.get(api)
        if found is None:
            runtime = metrics.RUNTIME_LATENCY
            found = runtime.child(self._batcher.model, api, "TF1") if api else metrics.Distribution(runtime.limits)
            self._runtime[api] = found
        return found


def _timeout_ms(batch: Sequence[Task], now: float) -> int:
    """Until the last request's deadline; 0 if one has none."""
    latest = 0.0
    for task in batch:
        if task.deadline is None:
            return 0
        if task.deadline > latest:
            latest = task.deadline
    return max(1, int((latest - now) * 1000))

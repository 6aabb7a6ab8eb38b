"""Batching: requests that are waiting become one run of the model (TF Serving's BatchingSession and BatchScheduler).

There are no batch threads. A request's own thread leads when nobody does: it runs what waits, its own request among it,
and hands the lead to a thread whose request came meanwhile. So one request alone is run at once by its own thread, and
under load each run takes what arrived while the last one ran. With a window (`batch_timeout_micros`) a leader first
waits
for more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import Code, ServingError, invalid
from .servable import Array, Servable, Signature


@dataclass(frozen=True)
class BatchingParameters:
    """TF Serving's BatchingParameters, with its defaults."""

    max_batch_size: int = 1000  #: rows of one request, and of one run
    batch_timeout_micros: int = 0  #: how long a run waits for more; 0: it takes what is there
    max_enqueued_batches: int = 10  #: full batches that may wait; what comes on top is UNAVAILABLE
    num_batch_threads: int = 1  #: runs of one queue at the same time
    allowed_batch_sizes: tuple[int, ...] = ()  #: a run is padded to the next of these; ascending
    pad_variable_length_inputs: bool = False  #: requests of different lengths are padded to the longest and merged
    enable_large_batch_splitting: bool = False  #: a request larger than a run may be is run in pieces
    max_execution_batch_size: int = 0  #: rows of one run, with splitting; 0: max_batch_size

    def check(self) -> BatchingParameters:
        """Itself; raises INVALID_ARGUMENT if it cannot be."""
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
            if getattr(self, name) < 1:
                raise invalid(f"{name} must be positive; was {getattr(self, name)}")
        if self.batch_timeout_micros < 0:
            raise invalid(f"batch_timeout_micros must not be negative; was {self.batch_timeout_micros}")
        sizes = self.allowed_batch_sizes
        if sizes:
            if any(size <= 0 for size in sizes) or list(sizes) != sorted(set(sizes)):
                raise invalid(f"allowed_batch_sizes entries must be positive and ascending; were {list(sizes)}")
            if sizes[-1] != self.largest_run:
                raise invalid(
                    f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; "
                    f"expected {self.largest_run}"
                )
        if self.max_execution_batch_size and not self.enable_large_batch_splitting:
            raise invalid("max_execution_batch_size needs enable_large_batch_splitting")
        return self

    @property
    def largest_run(self) -> int:
        """Rows of one run."""
        return (self.enable_large_batch_splitting and self.max_execution_batch_size) or self.max_batch_size

    def padded(self, rows: int) -> int:
        """The rows that a run of so many has after padding."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)


@dataclass(eq=False)
class _Task:
    """One request, waiting."""

    inputs: Mapping[str, Array]
    rows: int
    arrived: float
    deadline: float | None
    wake: threading.Event = field(default_factory=threading.Event)
    leads: bool = False  #: its thread was handed the lead
    outputs: list[Array] | None = None
    error: ServingError | None = None

    @property
    def done(self) -> bool:
        return self.outputs is not None or self.error is not None


class _Queue:
    """Requests for one signature and set of outputs whose rows fit together."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: deque[_Task] = deque()
        self.rows = 0
        self.leaders = 0


class BatchingServable:
    """A servable that merges its requests. `parameters` may be replaced at any time; the next run goes by the new
    ones.
    """

    def __init__(self, servable: Servable, parameters: BatchingParameters) -> None:
        self._servable = servable
        self.parameters = parameters.check()
        self._queues: dict[tuple[object, ...], _Queue] = {}
        self._lock = threading.Lock()

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Those of the servable."""
        return self._servable.signatures

    @property
    def signature_def_map(self) -> bytes:
        """That of the servable."""
        return self._servable.signature_def_map

    def close(self) -> None:
        """Close the servable; nothing waits any more."""
        self._servable.close()

    def run(
        self, signature: Signature, inputs: Mapping[str, Array], outputs: Sequence[str], timeout_ms: int = 0
    ) -> list[Array]:
        """As of the servable, merged with what else is waiting.

        Raises, besides: INVALID_ARGUMENT if the inputs have no rows in common or too many of them, UNAVAILABLE if too
        much is waiting, RESOURCE_EXHAUSTED if `timeout_ms` pass while this waits.
        """
        parameters = self.parameters
        rows = _rows(inputs)
        if rows is None or not inputs:  # a signature without inputs: there is nothing to merge
            return self._servable.run(signature, inputs, outputs, timeout_ms)
        if rows > parameters.max_batch_size:
            raise invalid(
                f"Task size {rows} is larger than maximum input batch size {parameters.max_batch_size}",
                "Send fewer rows, or raise max_batch_size.",
            )
        if rows == 0:
            return self._servable.run(signature, inputs, outputs, timeout_ms)
        now = time.monotonic()
        deadline = now + timeout_ms / 1000 if timeout_ms else None
        queue = self._queue(signature, inputs, outputs, parameters)
        tasks = [
            _Task(part, len(next(iter(part.values()))), now, deadline)
            for part in _parts(inputs, rows, parameters.largest_run)
        ]
        lead = self._enqueue(queue, tasks, parameters)
        if lead:
            self._lead(queue, tasks[-1], signature, outputs)
        for task in tasks:
            while True:
                task.wake.wait()
                task.wake.clear()
                done = task.done  # read first: once it is done nobody makes it lead, so `leads` is final then
                if task.leads:
                    task.leads = False
                    self._lead(queue, task, signature, outputs)
                if done or task.done:
                    break
        for task in tasks:
            if task.error is not None:
                raise task.error
        found = [task.outputs for task in tasks if task.outputs is not None]
        return found[0] if len(found) == 1 else [np.concatenate(pieces) for pieces in zip(*found, strict=True)]

    def _queue(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        parameters: BatchingParameters,
    ) -> _Queue:
        """Rows fit together if they have the same shape, or with padding the same rank."""
        pad = parameters.pad_variable_length_inputs
        shapes = tuple(inputs[name].ndim if pad else inputs[name].shape[1:] for name in signature.inputs)
        key = (signature.name, tuple(outputs), shapes)
        queue = self._queues.get(key)
        if queue is None:
            with self._lock:
                for old, idle in list(self._queues.items()):  # shapes come and go: what is idle need not be kept
                    if len(self._queues) > 100 and not idle.leaders and not idle.waiting:
                        del self._queues[old]
                queue = self._queues.setdefault(key, _Queue())
        return queue

    def _enqueue(self, queue: _Queue, tasks: Sequence[_Task], parameters: BatchingParameters) -> bool:
        """Let requests wait; returns whether their thread leads."""
        with queue.changed:
            rows = sum(task.rows for task in tasks)
            room = parameters.max_enqueued_batches * parameters.largest_run
            if queue.waiting and queue.rows + rows > room:
                raise ServingError(
                    Code.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full",
                    "Try again in a moment; max_enqueued_batches says how much may wait.",
                )
            queue.waiting.extend(tasks)
            queue.rows += rows
            queue.changed.notify_all()
            if queue.leaders < parameters.num_batch_threads:
                queue.leaders += 1
                return True
            return False

    def _lead(self, queue: _Queue, own: _Task, signature: Signature, outputs: Sequence[str]) -> None:
        """Run what waits until one's own request is answered; then hand the lead on."""
        try:
            while not own.done:
                batch = self._take(queue)
                if not batch:
                    return  # another leader has one's own request
                self._run(batch, signature, outputs)
        finally:
            with queue.changed:
                heir = next((task for task in queue.waiting if task is not own), None)
                if heir is None:
                    queue.leaders -= 1
                else:
                    heir.leads = True
                    heir.wake.set()

    def _take(self, queue: _Queue) -> list[_Task]:
        """The next batch: what waits, up to the largest run, after the window. Requests past their deadline are
        refused.
        """
        parameters = self.parameters
        with queue.changed:
            if parameters.batch_timeout_micros and queue.waiting:
                end = queue.waiting[0].arrived + parameters.batch_timeout_micros / 1e6
                while queue.rows < parameters.largest_run and (left := end - time.monotonic()) > 0:
                    queue.changed.wait(left)
            batch: list[_Task] = []
            rows = 0
            now = time.monotonic()
            while queue.waiting and rows + queue.waiting[0].rows <= parameters.largest_run:
                task = queue.waiting.popleft()
                queue.rows -= task.rows
                if task.deadline is not None and now >= task.deadline:
                    _finish(
                        task,
                        error=ServingError(
                            Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue"
                        ),
                    )
                    continue
                batch.append(task)
                rows += task.rows
            if not batch and queue.waiting:  # the limit was lowered below what waits
                task = queue.waiting.popleft()
                queue.rows -= task.rows
                batch = [task]
            return batch

    def _run(self, batch: list[_Task], signature: Signature, outputs: Sequence[str]) -> None:
        """Run a batch and give each request its rows. If it fails, each is run alone: an error is its request's."""
        try:
            found = self._execute(batch, signature, outputs)
        except ServingError as error:
            if len(batch) == 1:
                _finish(batch[0], error=error)
                return
            for task in batch:
                self._run([task], signature, outputs)
            return
        except BaseException:
            for task in batch:
                _finish(task, error=ServingError(Code.INTERNAL, "The batch failed"))
            raise
        start = 0
        for task in batch:
            _finish(task, outputs=[array[start : start + task.rows] for array in found])
            start += task.rows

    def _execute(self, batch: list[_Task], signature: Signature, outputs: Sequence[str]) -> list[Array]:
        """One run of the servable: the outputs of all rows, padding cut off."""
        rows = sum(task.rows for task in batch)
        padded = self.parameters.padded(rows)
        inputs = {name: _merged([task.inputs[name] for task in batch], padded - rows) for name in signature.inputs}
        deadlines = [task.deadline for task in batch]
        timeout_ms = 0
        if None not in deadlines:
            latest = max(deadline for deadline in deadlines if deadline is not None)
            timeout_ms = max(1, int((latest - time.monotonic()) * 1000))
        found = self._servable.run(signature, inputs, outputs, timeout_ms)
        for array in found:
            if array.ndim == 0:
                raise ServingError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
            if len(array) != padded:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors",
                )
        return [array[:rows] for array in found] if padded != rows else found


def _finish(task: _Task, outputs: list[Array] | None = None, error: ServingError | None = None) -> None:
    task.outputs, task.error = outputs, error
    task.wake.set()


def _rows(inputs: Mapping[str, Array]) -> int | None:
    """The rows that the inputs have in common; None without inputs."""
    rows: int | None = None
    for array in inputs.values():
        if array.ndim == 0:
            raise invalid("Batching Run() input tensors must have at least one dimension")
        if rows is not None and len(array) != rows:
            raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
        rows = len(array)
    return rows


def _parts(inputs: Mapping[str, Array], rows: int, largest: int) -> Iterator[Mapping[str, Array]]:
    """The inputs in pieces of at most `largest` rows."""
    if rows <= largest:
        yield inputs
        return
    for start in range(0, rows, largest):
        yield {name: array[start : start + largest] for name, array in inputs.items()}


def _merged(arrays: list[Array], padding: int) -> Array:
    """Rows below each other, with `padding` copies of the first one; of the longest length, where lengths differ."""
    if len({array.shape[1:] for array in arrays}) > 1:
        longest = np.max([array.shape[1:] for array in arrays], axis=0)
        arrays = [_lengthened(array, longest) for array in arrays]
    if padding:
        arrays = [*arrays, np.repeat(arrays[0][:1], padding, axis=0)]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _lengthened(array: Array, shape: Array) -> Array:
    """Padded to a row shape with its own first value, as TF Serving does."""
    widths = [(0, 0), *((0, int(size) - have) for size, have in zip(shape, array.shape[1:], strict=True))]
    fill = array.reshape(-1)[0] if array.size else (b"" if array.dtype.hasobject else 0)
    return np.pad(array, widths, constant_values=fill)

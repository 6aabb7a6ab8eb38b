"""Batching: what is waiting becomes one run of the model (TF Serving's BatchingSession and BatchScheduler).

Each loaded version has a `Batcher`, and in it a `Queue` for each signature and set of outputs. A request is a `Task`:
a frontend submits it and is told its outcome. Where runs are short they happen in the frontend's own thread, at the end
of the burst that the requests came in (the *turn*); where they are long, or a window is to be waited for, on the batch
threads of the version, so that a slow model never stalls a fast one. Either way a run takes what arrived while the last
one ran: one request alone never waits, and under load batches fill by themselves.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .. import metrics
from ..errors import Code, ServingError, invalid
from .pools import full
from .servable import Array, Servable, Signature

log = logging.getLogger(__name__)

#: ``turn(function)``: call it in this thread, once the present burst of requests has been taken in.
Turn = Callable[[Callable[[], None]], object]

#: Seconds for which nobody is asked whether a request is still wanted.
_MOMENT = 0.001

#: Requests that are not merged count so many to a batch when it comes to how much may wait.
_UNMERGED_ENQUEUED = 100

#: Seconds of runs in a frontend's thread, one after the other, before it sees to its connections again.
_TURN_SECONDS = 0.001


@dataclass(frozen=True)
class BatchingParameters:
    """TF Serving's BatchingParameters, with its defaults; the window's default is ours."""

    max_batch_size: int = 1000  #: rows of one request, and of one run
    batch_timeout_micros: int = 0  #: how long a run waits for more; 0: it takes what is there
    max_enqueued_batches: int = 10  #: full batches (or 100 times as many unmerged requests) that may wait
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

    @functools.cached_property
    def largest_run(self) -> int:
        """Rows of one run."""
        return (self.enable_large_batch_splitting and self.max_execution_batch_size) or self.max_batch_size

    def padded(self, rows: int) -> int:
        """The rows that a run of so many has after padding."""
        if not self.allowed_batch_sizes:
            return rows
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)


#: ``on``: requests are merged, as with --enable_batching. ``auto``: those of signatures whose rows were seen to be
#: independent. ``off``: each request is a run.
Mode = Literal["on", "auto", "off"]


@dataclass(frozen=True)
class Batching:
    """How a model's requests are run."""

    mode: Mode = "off"
    parameters: BatchingParameters = field(default_factory=BatchingParameters)
    threads: int = 8  #: runs of one queue at the same time where requests are not merged


class Task:
    """One request for a run. A frontend's subclass says what becomes of the outcome; `done` or `failed` is called
    once, in the frontend's thread or in a batch thread, and must not wait.
    """

    __slots__ = ("deadline", "inputs", "rows", "shape", "submitted")

    inputs: Sequence[Array]
    deadline: float | None
    submitted: float
    rows: int  #: 0 where it must not be merged
    shape: object  #: what the requests of one run have in common; None: it is run alone

    api = ""  #: TF Serving's name of the call, for its metrics; "": it is not counted

    def __init__(self, inputs: Sequence[Array], deadline: float | None = None) -> None:
        """`inputs` in the signature's order, `deadline` a `time.monotonic()`."""
        self.inputs = inputs
        self.deadline = deadline
        self.rows = 0
        self.shape = None

    def done(self, outputs: list[Array]) -> None:
        """The outputs asked for, in that order."""
        raise NotImplementedError

    def failed(self, error: ServingError) -> None:
        """It was refused, or its run failed."""
        raise NotImplementedError

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the outcome any more; asked before a run."""
        return False


def run_here(start: Callable[[Turn], None]) -> None:
    """Call `start` with a turn that is this thread's, and take the turn."""
    turns: list[Callable[[], None]] = []
    start(turns.append)
    while turns:
        turns.pop()()


class Batcher:
    """A loaded version whose requests are run one by one or merged, as `batching` says."""

    def __init__(
        self,
        servable: Servable,
        batching: Batching | None = None,
        model: str = "",
        number: int = 0,
        dependent: Mapping[str, str] | None = None,
    ) -> None:
        """`dependent` says of signatures why ``auto`` does not merge them; one that is not in it is merged."""
        self.servable = servable
        self.signatures = servable.signatures
        self.model, self.number = model, str(number)
        self.dependent = dependent or {}
        self.memory: int | None = None  #: bytes that it takes, as far as that is known
        self._lock = threading.Lock()
        self._queues: dict[tuple[str, tuple[str, ...]], Queue] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._batching = batching or Batching()
        self._batching.parameters.check()

    @property
    def batching(self) -> Batching:
        """How requests are run; when replaced, the next run goes by the new one."""
        return self._batching

    @batching.setter
    def batching(self, batching: Batching) -> None:
        batching.parameters.check()
        with self._lock:
            self._batching = batching
            for queue in self._queues.values():
                queue.configure(batching)

    @property
    def signature_def_map(self) -> bytes:
        """That of the servable."""
        return self.servable.signature_def_map

    @property
    def waiting(self) -> int:
        """Requests that wait for a run."""
        with self._lock:
            return sum(map(len, self._queues.values()))

    def merges(self, signature: str) -> bool:
        """Whether requests for a signature are merged."""
        mode = self._batching.mode
        return mode == "on" or (mode == "auto" and signature not in self.dependent)

    def queue(self, signature: Signature, outputs: tuple[str, ...]) -> Queue:
        """Where requests for these outputs of a signature wait."""
        found = self._queues.get((signature.name, outputs))
        if found is not None:
            return found
        with self._lock:
            for key, idle in list(self._queues.items()):  # filters of outputs come and go with callers
                if len(self._queues) > 100 and idle.is_idle():
                    del self._queues[key]
            return self._queues.setdefault((signature.name, outputs), Queue(self, signature, outputs))

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        timeout_ms: int = 0,
        api: str = "",
    ) -> list[Array]:
        """As of the servable, merged with what else is waiting; in this thread if it need not wait for another one.
        `api` is TF Serving's name of the call, for its metrics.

        Raises, besides: INVALID_ARGUMENT if the inputs have no rows in common or too many of them, UNAVAILABLE if too
        much is waiting, RESOURCE_EXHAUSTED if `timeout_ms` pass while this waits to be merged.
        """
        deadline = time.monotonic() + timeout_ms / 1000 if timeout_ms else None
        waiter = _Waiter([inputs[name] for name in signature.inputs], deadline, api)
        run_here(lambda turn: self.queue(signature, outputs).submit(waiter, turn, here=True))
        waiter.wait()
        if waiter.error is not None:
            raise waiter.error
        return waiter.outputs

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The batch threads: they begin with the first run that needs one."""
        if self._pool is None:
            with self._lock:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(
                        max(64, self._batching.threads), f"batch-{self.model}-{self.number}"
                    )
        return self._pool

    def close(self) -> None:
        """Close the servable; nothing waits any more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self.servable.close()


class Queue:
    """The requests for one signature and set of outputs.

    A *leader* takes what waits and runs it until nothing is left. Whose request comes when there are not enough leaders
    makes one: in its own turn if the runs are quick, else on a batch thread.
    """

    def __init__(self, batcher: Batcher, signature: Signature, outputs: tuple[str, ...]) -> None:
        self._batcher = batcher
        self._servable = batcher.servable
        self._signature = signature
        self._outputs = outputs
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[Task] = deque()
        self._rows = 0  # of those that wait
        self._leaders = 0
        self._is_quick = batcher.servable.is_quick(signature)
        labels = (batcher.model, batcher.number, signature.name)
        self._latency = metrics.SIGNATURE_LATENCY.child(*labels)
        self._queue_time = metrics.QUEUE_TIME.child(*labels)
        self._batch_size = metrics.BATCH_SIZE.child(*labels)
        self._runs = metrics.WRAPPED_RUN_COUNT.child()
        self._runtime: dict[str, metrics.Distribution] = {}  # by what the metrics call the request
        self.configure(batcher.batching)

    def configure(self, batching: Batching) -> None:
        """Go by new settings from the next request and the next run on."""
        with self._lock:
            self._merging = self._batcher.merges(self._signature.name)
            self._parameters = batching.parameters
            self._strict = batching.mode == "on"
            enqueued = batching.parameters.max_enqueued_batches
            self._room = enqueued * batching.parameters.largest_run  # rows that may wait, where they are merged
            self._most = self._room if self._merging else enqueued * _UNMERGED_ENQUEUED  # requests
            self._window = batching.parameters.batch_timeout_micros / 1e6 if self._merging else 0.0
            self._limit = batching.parameters.num_batch_threads if self._merging else batching.threads
            self._changed.notify_all()

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def is_idle(self) -> bool:
        """Whether nothing waits nor runs."""
        with self._lock:
            return not self._leaders and not self._waiting

    def submit(self, task: Task, turn: Turn, here: bool = False) -> None:
        """Let a request wait for its run, which `turn` gets if it is to happen in this thread: because runs are quick,
        or with `here` in any case. Raises ServingError if the request is refused; then it is not told so as well.
        """
        task.submitted = time.monotonic()
        tasks: Sequence[Task] = ()
        if self._merging and self._is_too_large(task):
            tasks = _split(task, self._parameters.largest_run)
        with self._lock:
            waiting = self._waiting
            if waiting and (self._rows + task.rows > self._room or len(waiting) >= self._most):
                raise full()
            if tasks:
                waiting.extend(tasks)
            else:
                waiting.append(task)
            self._rows += task.rows
            if self._window:
                self._changed.notify_all()
            in_turn = not here and self._is_quick and not self._window
            if self._leaders >= (1 if in_turn else self._limit):
                return
            self._leaders += 1
        if in_turn or here:
            turn(functools.partial(self._lead, turn))
        else:
            self._batcher.pool.submit(self._lead)

    def _may_run_in_turn(self) -> bool:
        return self._is_quick and not self._window

    def _is_too_large(self, task: Task) -> bool:
        """Note what a request can be merged with; returns whether it has to be split for that."""
        parameters = self._parameters
        inputs = task.inputs
        rows = _rows(inputs, self._strict)
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
        elif len(inputs) == 1:
            task.shape = inputs[0].shape[1:]
        else:
            task.shape = [array.shape[1:] for array in inputs]
        return rows > parameters.largest_run

    def _lead(self, turn: Turn | None = None) -> None:
        """Run what waits; in a frontend's thread only as long as it may keep its connections waiting."""
        end = time.monotonic() + _TURN_SECONDS if turn is not None else 0.0
        while True:
            # Where runs are short, who comes while the last one is under way leads in its own thread.
            batch, is_last = self._take(turn is None and self._may_run_in_turn())
            if batch:
                self._run(batch)
            if is_last:
                return
            with self._lock:
                if not self._waiting:
                    self._leaders -= 1
                    return
            if turn is not None and time.monotonic() > end:
                if self._may_run_in_turn():
                    turn(functools.partial(self._lead, turn))
                else:
                    self._batcher.pool.submit(self._lead)
                return

    def _take(self, leave: bool) -> tuple[list[Task], bool]:
        """The requests of the next run, those that need no answer any more left out; and with `leave` whether nothing
        is left, so that there is one leader less.
        """
        batch: list[Task] = []
        late: list[Task] = []
        with self._lock:
            if self._window:
                self._wait_for_more()
            largest = self._parameters.largest_run
            skipped: list[Task] = []
            rows = 0
            now = time.monotonic()
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
            is_last = leave and not self._waiting
            if is_last:
                self._leaders -= 1
        for task in late:
            _deliver_error(task, self._too_late(task))
        return batch, is_last

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

    def _run(self, batch: list[Task]) -> None:
        """Run a batch and give each request its rows. If it fails, each is run alone: an error is its request's."""
        try:
            found = self._execute(batch)
        except ServingError as error:
            if len(batch) == 1 or error.code in (Code.DEADLINE_EXCEEDED, Code.CANCELLED):
                for task in batch:
                    _deliver_error(task, error)
                return
            for task in batch:
                self._run([task])
            return
        except BaseException:
            log.exception("A run of %s failed", self._batcher.model)
            for task in batch:
                _deliver_error(task, ServingError(Code.INTERNAL, "The run failed"))
            return
        start = 0
        for task in batch:
            end = start + task.rows
            try:
                task.done(found if len(batch) == 1 else [array[start:end] for array in found])
            except Exception:  # a frontend's bug must not take the other requests of the batch with it
                log.exception("A reply failed")
            start = end

    def _execute(self, batch: list[Task]) -> list[Array]:
        """One run of the servable: the outputs of all rows, padding cut off."""
        began = time.monotonic()
        timeout_ms = _timeout_ms(batch, began)
        first = batch[0]
        if first.shape is None:
            found = self._servable.run(self._signature, first.inputs, self._outputs, timeout_ms)
        else:
            rows = sum([task.rows for task in batch]) if len(batch) > 1 else first.rows
            padded = self._parameters.padded(rows)
            inputs = first.inputs if len(batch) == 1 and padded == rows else _merged(batch, padded - rows)
            found = self._servable.run(self._signature, inputs, self._outputs, timeout_ms)
            if self._strict or len(batch) > 1 or padded != rows:
                _check_rows(found, padded)
            if padded != rows:
                found = [array[:rows] for array in found]
            self._batch_size.observe(padded)
            self._runs.add()
        self._is_quick = self._servable.is_quick(self._signature)
        self._count(batch, began, (time.monotonic() - began) * 1e6)
        return found

    def _count(self, batch: list[Task], began: float, took: float) -> None:
        """Metrics of a run that took so many microseconds."""
        if len(batch) == 1:
            self._queue_time.observe((began - batch[0].submitted) * 1e6)
            self._latency.observe(took)
            self._runtime_of(batch[0].api).observe(took)
            return
        self._queue_time.observe_all([(began - task.submitted) * 1e6 for task in batch])
        self._latency.observe_all([took] * len(batch))
        for api in {task.api for task in batch}:
            self._runtime_of(api).observe_all([took for task in batch if task.api == api])

    def _runtime_of(self, api: str) -> metrics.Distribution:
        found = self._runtime.get(api)
        if found is None:
            runtime = metrics.RUNTIME_LATENCY
            found = runtime.child(self._batcher.model, api, "TF1") if api else metrics.Distribution(runtime.limits)
            self._runtime[api] = found
        return found


class _Waiter(Task):
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
        self.outputs = outputs
        self._lock.release()

    def failed(self, error: ServingError) -> None:
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

    def finish(self, place: int, outputs: list[Array] | None, error: ServingError | None) -> None:
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
            self.task.done([np.concatenate(arrays) for arrays in zip(*pieces, strict=True)])


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
        self._whole.finish(self._place, outputs, None)

    def failed(self, error: ServingError) -> None:
        self._whole.finish(self._place, None, error)

    def is_cancelled(self) -> bool:
        return self._whole.task.is_cancelled()


def _split(task: Task, largest: int) -> Sequence[Task]:
    """Parts of at most `largest` rows."""
    starts = range(0, task.rows, largest)
    whole = _Whole(task, len(starts))
    return [
        _Part(whole, place, [array[start : start + largest] for array in task.inputs])
        for place, start in enumerate(starts)
    ]


def _deliver_error(task: Task, error: ServingError) -> None:
    try:
        task.failed(error)
    except Exception:
        log.exception("A reply failed")


def _timeout_ms(batch: Sequence[Task], now: float) -> int:
    """Until the last request's deadline; 0 if one has none."""
    latest = 0.0
    for task in batch:
        if task.deadline is None:
            return 0
        latest = max(latest, task.deadline)
    return max(1, int((latest - now) * 1000))


def _check_rows(found: Sequence[Array], rows: int) -> None:
    """Raise FAILED_PRECONDITION if outputs do not have a row for each row of the inputs."""
    for array in found:
        if array.ndim == 0:
            raise ServingError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if len(array) != rows:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                "input tensors",
            )


def _rows(inputs: Sequence[Array], strict: bool) -> int:
    """The rows that the inputs have in common; 0 without inputs, and where they have none unless that is an error."""
    rows = -1
    for array in inputs:
        shape = array.shape
        if not shape:
            if strict:
                raise invalid("Batching Run() input tensors must have at least one dimension")
            return 0
        if shape[0] != rows >= 0:
            if strict:
                raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
            return 0
        rows = shape[0]
    return max(rows, 0)


def _merged(batch: Sequence[Task], padding: int) -> list[Array]:
    """The inputs of all requests with their rows below each other, and `padding` copies of the first row; of the
    longest length, where lengths differ.
    """
    merged = []
    for place in range(len(batch[0].inputs)):
        arrays = [task.inputs[place] for task in batch]
        if len({array.shape[1:] for array in arrays}) > 1:
            longest = np.max([array.shape[1:] for array in arrays], axis=0)
            arrays = [_lengthened(array, longest) for array in arrays]
        if padding:
            arrays.append(np.repeat(arrays[0][:1], padding, axis=0))
        merged.append(np.concatenate(arrays))
    return merged


def _lengthened(array: Array, shape: Array) -> Array:
    """Padded to a row shape with its own first value, as TF Serving does."""
    widths = [(0, 0), *((0, int(size) - have) for size, have in zip(shape, array.shape[1:], strict=True))]
    fill = array.reshape(-1)[0] if array.size else (b"" if array.dtype.hasobject else 0)
    return np.pad(array, widths, constant_values=fill)

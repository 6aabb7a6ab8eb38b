"""Batching: what is waiting becomes one run of the model (TF Serving's BatchingSession and BatchScheduler).

Each loaded version has a `Batcher`, and in it a `Queue` for each signature and set of outputs. A request is a `Task`:
a frontend submits it and is told its outcome. Where runs are short they happen in the frontend's own thread, at the end
of the burst that the requests came in (the *turn*); where they are long, or a window is to be waited for, on the batch
threads of the version, so that a slow model never stalls a fast one. Either way a run takes what arrived while the last
one ran: one request alone never waits, and under load batches fill by themselves.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from ..errors import invalid
from .batch_queue import Queue
from .idle import OnDemand
from .servable import DEFAULT_SIGNATURE, Array, Servable, Signature
from .tasks import Waiter, run_here


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
        self._whole: dict[str, Queue] = {}
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
    def is_idle(self) -> bool:
        """Whether it has left memory until somebody asks."""
        return isinstance(self.servable, OnDemand) and not self.servable.is_loaded

    def forget_speed(self) -> None:
        """The next runs take as long as they take: the servable has left memory."""
        with self._lock:
            for queue in self._queues.values():
                queue.forget_speed()

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
                if len(self._queues) > 100 and idle.outputs != idle.signature.output_names and idle.is_idle():
                    del self._queues[key]
            return self._queues.setdefault((signature.name, outputs), Queue(self, signature, outputs))

    def whole(self, name: str) -> Queue | None:
        """Where requests for all outputs of a signature wait; "" is the default one, None: there is no such."""
        found = self._whole.get(name)
        if found is None and (signature := self.signatures.get(name or DEFAULT_SIGNATURE)) is not None:
            found = self._whole[name] = self.queue(signature, signature.output_names)
        return found

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
        waiter = Waiter([inputs[name] for name in signature.inputs], deadline, api)
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

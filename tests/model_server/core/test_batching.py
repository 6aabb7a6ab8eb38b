"""Batching, on a servable that says what it was run with."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from jupyter_tfserve.model_server.core.batching import BatchingParameters, BatchingServable
from jupyter_tfserve.model_server.core.servable import Signature, TensorInfo
from jupyter_tfserve.model_server.errors import Code, ServingError

X = TensorInfo("x:0", "float", np.dtype(np.float32), (-1,))
SIGNATURE = Signature("serving_default", {"x": X}, {"y": X}, "")
SECONDS = 30.0


class Recording:
    """y = 2 x; fails for -1. The first run waits until `gate` is open."""

    def __init__(self) -> None:
        self.signatures = {"serving_default": SIGNATURE}
        self.signature_def_map = b""
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.sizes: list[int] = []

    def run(
        self, signature: Signature, inputs: Mapping[str, Any], outputs: Sequence[str], timeout_ms: int = 0
    ) -> list[Any]:
        self.sizes.append(len(inputs["x"]))
        self.begun.set()
        assert self.gate.wait(SECONDS)
        if (inputs["x"] == -1).any():
            raise ServingError(Code.INVALID_ARGUMENT, "no -1")
        return [inputs["x"] * 2]

    def close(self) -> None:
        pass


def ask(batching: BatchingServable, *values: float, timeout_ms: int = 0) -> list[float]:
    [y] = batching.run(SIGNATURE, {"x": np.array(values, np.float32)}, ["y"], timeout_ms)
    answer: list[float] = y.tolist()
    return answer


class Asking(threading.Thread):
    """One request of a thread of its own."""

    def __init__(self, batching: BatchingServable, *values: float, timeout_ms: int = 0) -> None:
        super().__init__(daemon=True)
        self._call = lambda: ask(batching, *values, timeout_ms=timeout_ms)
        self.answer: list[float] | None = None
        self.error: ServingError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._call()
        except ServingError as error:
            self.error = error


def waiting(batching: BatchingServable) -> int:
    return sum(len(queue.waiting) for queue in batching._queues.values())


def queue_up(batching: BatchingServable, *requests: Asking, count: int) -> None:
    end = threading.Event()
    for _ in range(int(SECONDS * 100)):
        if waiting(batching) >= count:
            return
        end.wait(0.01)
    raise AssertionError("the requests did not queue up")


def test_what_waits_becomes_one_run() -> None:
    servable = Recording()
    batching = BatchingServable(servable, BatchingParameters())
    first = Asking(batching, 1.0)
    assert servable.begun.wait(SECONDS)
    others = [Asking(batching, float(n), float(n) + 0.5) for n in range(2, 6)]
    queue_up(batching, *others, count=4)
    servable.gate.set()
    for request in (first, *others):
        request.join(SECONDS)
    assert first.answer == [2.0]
    assert [request.answer for request in others] == [[2.0 * n, 2.0 * n + 1] for n in range(2, 6)]
    assert servable.sizes == [1, 8]


def test_an_error_is_its_own_requests_only() -> None:
    servable = Recording()
    batching = BatchingServable(servable, BatchingParameters())
    first = Asking(batching, 1.0)
    assert servable.begun.wait(SECONDS)
    good, bad = Asking(batching, 2.0), Asking(batching, -1.0)
    queue_up(batching, good, bad, count=2)
    servable.gate.set()
    for request in (first, good, bad):
        request.join(SECONDS)
    assert good.answer == [4.0]
    assert bad.error is not None and bad.error.message == "no -1"


def test_a_full_queue_and_a_passed_deadline() -> None:
    servable = Recording()
    batching = BatchingServable(servable, BatchingParameters(max_batch_size=2, max_enqueued_batches=1))
    first = Asking(batching, 1.0)
    assert servable.begun.wait(SECONDS)
    late = Asking(batching, 2.0, 2.0, timeout_ms=1)
    queue_up(batching, late, count=1)
    with pytest.raises(ServingError) as full:
        ask(batching, 3.0)
    assert full.value.code is Code.UNAVAILABLE
    threading.Event().wait(0.01)  # past the one millisecond
    servable.gate.set()
    for request in (first, late):
        request.join(SECONDS)
    assert late.error is not None and late.error.code is Code.RESOURCE_EXHAUSTED


def test_padding_splitting_and_limits() -> None:
    servable = Recording()
    servable.gate.set()
    padded = BatchingServable(servable, BatchingParameters(max_batch_size=8, allowed_batch_sizes=(2, 8)))
    assert ask(padded, 1.0, 2.0, 3.0) == [2.0, 4.0, 6.0]
    assert servable.sizes == [8]
    with pytest.raises(ServingError, match="Task size 9 is larger than maximum input batch size 8"):
        ask(padded, *range(9))
    split = BatchingServable(
        servable, BatchingParameters(max_batch_size=8, enable_large_batch_splitting=True, max_execution_batch_size=3)
    )
    assert ask(split, *range(8)) == [2.0 * n for n in range(8)]
    assert max(servable.sizes[1:]) <= 3
    with pytest.raises(ServingError, match="Last entry in allowed_batch_sizes"):
        BatchingParameters(max_batch_size=8, allowed_batch_sizes=(2, 4)).check()


def test_many_threads_get_their_own_rows() -> None:
    servable = Recording()
    servable.gate.set()
    for threads in (1, 3):
        batching = BatchingServable(servable, BatchingParameters(max_batch_size=16, num_batch_threads=threads))
        failures: list[object] = []

        def loop(seed: int, batching: BatchingServable = batching, failures: list[object] = failures) -> None:
            for n in range(200):
                value = float(seed * 1000 + n)
                answer = ask(batching, value)
                if answer != [2 * value]:
                    failures.append((value, answer))

        workers = [threading.Thread(target=loop, args=(seed,), daemon=True) for seed in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(SECONDS)
            assert not worker.is_alive()
        assert failures == []

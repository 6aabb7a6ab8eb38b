"""Batching, on a servable that says what it was run with."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jupyter_tfserve.model_server.core.batching import Batcher, Batching, BatchingParameters, Mode
from jupyter_tfserve.model_server.core.servable import Signature, TensorInfo
from jupyter_tfserve.model_server.core.tasks import Task
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
        self.quick = False

    def run(
        self, signature: Signature, inputs: Sequence[Any], outputs: tuple[str, ...], timeout_ms: int = 0
    ) -> list[Any]:
        [x] = inputs
        self.sizes.append(len(x))
        self.begun.set()
        assert self.gate.wait(SECONDS)
        if (x == -1).any():
            raise ServingError(Code.INVALID_ARGUMENT, "no -1")
        return [x * 2]

    def is_quick(self, signature: Signature) -> bool:
        return self.quick

    def close(self) -> None:
        pass


def merging(servable: Recording, parameters: BatchingParameters, mode: Mode = "on") -> Batcher:
    return Batcher(servable, Batching(mode, parameters))


def ask(batching: Batcher, *values: float, timeout_ms: int = 0) -> list[float]:
    [y] = batching.run(SIGNATURE, {"x": np.array(values, np.float32)}, ("y",), timeout_ms)
    answer: list[float] = y.tolist()
    return answer


class Asking(threading.Thread):
    """One request of a thread of its own."""

    def __init__(self, batching: Batcher, *values: float, timeout_ms: int = 0) -> None:
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


def waiting(batching: Batcher) -> int:
    return sum(len(queue) for queue in batching._queues.values())


def queue_up(batching: Batcher, *requests: Asking, count: int) -> None:
    end = threading.Event()
    for _ in range(int(SECONDS * 100)):
        if waiting(batching) >= count:
            return
        end.wait(0.01)
    raise AssertionError("the requests did not queue up")


def test_what_waits_becomes_one_run() -> None:
    servable = Recording()
    batching = merging(servable, BatchingParameters())
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
    batching = merging(servable, BatchingParameters())
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
    batching = merging(servable, BatchingParameters(max_batch_size=2, max_enqueued_batches=1))
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
    padded = merging(servable, BatchingParameters(max_batch_size=8, allowed_batch_sizes=(2, 8)))
    assert ask(padded, 1.0, 2.0, 3.0) == [2.0, 4.0, 6.0]
    assert servable.sizes == [8]
    with pytest.raises(ServingError, match="Task size 9 is larger than maximum input batch size 8"):
        ask(padded, *range(9))
    split = merging(
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
        batching = merging(servable, BatchingParameters(max_batch_size=16, num_batch_threads=threads))
        failures: list[object] = []

        def loop(seed: int, batching: Batcher = batching, failures: list[object] = failures) -> None:
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


class Noted(Task):
    """A request of a frontend: what becomes of it is written down."""

    def __init__(self, *values: float, deadline: float | None = None) -> None:
        super().__init__([np.array(values, np.float32)], deadline)
        self.answer: list[float] | ServingError | None = None
        self.cancelled = False
        self.thread = 0
        self.finished = threading.Event()

    def done(self, outputs: list[Any]) -> None:
        self.answer, self.thread = outputs[0].tolist(), threading.get_ident()
        self.finished.set()

    def failed(self, error: ServingError) -> None:
        self.answer, self.thread = error, threading.get_ident()
        self.finished.set()

    def is_cancelled(self) -> bool:
        return self.cancelled


def test_a_burst_of_quick_requests_is_one_run_in_its_own_thread() -> None:
    servable = Recording()
    servable.gate.set()
    servable.quick = True
    queue = merging(servable, BatchingParameters()).queue(SIGNATURE, ("y",))
    turns: list[Any] = []
    burst = [Noted(float(n)) for n in range(5)]
    for task in burst:
        queue.submit(task, turns.append)
    assert len(turns) == 1 and servable.sizes == []
    turns.pop()()
    assert [task.answer for task in burst] == [[2.0 * n] for n in range(5)]
    assert {task.thread for task in burst} == {threading.get_ident()}
    assert servable.sizes == [5]


def test_slow_runs_leave_the_frontends_thread_alone() -> None:
    servable = Recording()
    queue = merging(servable, BatchingParameters()).queue(SIGNATURE, ("y",))
    turns: list[Any] = []
    task = Noted(1.0)
    queue.submit(task, turns.append)
    assert turns == []
    servable.gate.set()
    assert task.finished.wait(SECONDS)
    assert task.answer == [2.0] and task.thread != threading.get_ident()


def test_who_has_gone_away_is_not_run() -> None:
    servable = Recording()
    servable.gate.set()
    servable.quick = True
    queue = merging(servable, BatchingParameters()).queue(SIGNATURE, ("y",))
    turns: list[Any] = []
    gone, late, here = Noted(1.0), Noted(2.0, deadline=time.monotonic() - 1), Noted(3.0)
    for task in (gone, late, here):
        queue.submit(task, turns.append)
    gone.cancelled = True
    threading.Event().wait(0.01)  # who came this moment is not asked
    turns.pop()()
    assert isinstance(gone.answer, ServingError) and gone.answer.code is Code.CANCELLED
    assert isinstance(late.answer, ServingError) and late.answer.code is Code.RESOURCE_EXHAUSTED
    assert here.answer == [6.0]
    assert servable.sizes == [1]


def test_different_shapes_never_mix() -> None:
    servable = Recording()
    servable.gate.set()
    servable.quick = True
    queue = merging(servable, BatchingParameters()).queue(SIGNATURE, ("y",))
    turns: list[Any] = []
    flat = [Noted(float(n)) for n in range(3)]
    deep = [Noted(float(n)) for n in range(2)]
    for task in deep:
        task.inputs = [task.inputs[0].reshape(1, 1)]
    for task in (flat[0], deep[0], flat[1], deep[1], flat[2]):
        queue.submit(task, turns.append)
    while turns:  # one turn, unless the machine is slow
        turns.pop()()
    assert [task.answer for task in flat] == [[0.0], [2.0], [4.0]]
    assert [task.answer for task in deep] == [[[0.0]], [[2.0]]]
    assert servable.sizes == [3, 2]


def test_settings_change_while_requests_come() -> None:
    servable = Recording()
    servable.gate.set()
    batcher = merging(servable, BatchingParameters(), "off")
    servable.quick = True
    turns: list[Any] = []

    def burst(count: int) -> list[int]:
        servable.sizes.clear()
        queue = batcher.queue(SIGNATURE, ("y",))
        tasks = [Noted(float(n)) for n in range(count)]
        for task in tasks:
            queue.submit(task, turns.append)
        while turns:
            turns.pop()()
        assert [task.answer for task in tasks] == [[2.0 * n] for n in range(count)]
        return list(servable.sizes)

    assert burst(4) == [1, 1, 1, 1]
    batcher.batching = Batching("on", BatchingParameters(max_batch_size=3))
    assert burst(4) == [3, 1]
    batcher.batching = Batching("auto", BatchingParameters())
    assert burst(4) == [4]
    with pytest.raises(ServingError, match="max_batch_size must be positive"):
        batcher.batching = Batching("on", BatchingParameters(max_batch_size=0))
    assert burst(4) == [4]


def test_auto_merges_only_where_rows_are_independent() -> None:
    servable = Recording()
    batcher = Batcher(servable, Batching("auto"), "m", 1, {"serving_default": "a mean over the batch"})
    assert not batcher.merges("serving_default")
    assert batcher.merges("another")
    batcher.batching = Batching("on")
    assert batcher.merges("serving_default")


def test_a_window_waits_for_more() -> None:
    servable = Recording()
    servable.gate.set()
    parameters = BatchingParameters(max_batch_size=4, batch_timeout_micros=int(SECONDS * 1e6))
    batcher = merging(servable, parameters)
    asking = [Asking(batcher, float(n)) for n in range(4)]
    for request in asking:
        request.join(SECONDS)
    assert sorted(request.answer[0] for request in asking if request.answer) == [0.0, 2.0, 4.0, 6.0]
    assert servable.sizes == [4]  # at once when the batch was full: the window is as long as the test's patience

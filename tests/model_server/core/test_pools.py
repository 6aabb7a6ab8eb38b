"""Threads of each model's own, with a limit of what may wait for them."""

from __future__ import annotations

import threading

import pytest

from jupyter_tfserve.model_server.core import pools
from jupyter_tfserve.model_server.core.pools import ModelPools
from jupyter_tfserve.model_server.errors import Code, ServingError


def test_a_model_whose_threads_are_taken_leaves_the_others_theirs() -> None:
    made = ModelPools(1, lambda name: name in ("slow", "fast"), "test")
    gate = threading.Event()
    try:
        waiting = made.of("slow").submit(gate.wait, 30)
        assert made.of("fast").submit(lambda: 1).result(5) == 1
        assert not waiting.done()
    finally:
        gate.set()


def test_names_that_are_not_served_have_one_pool_together() -> None:
    served = {"a"}
    made = ModelPools(1, served.__contains__, "test")
    assert made.of("x") is made.of("y") is made.common
    own = made.of("a")
    assert made.of("a") is own is not made.common
    served.remove("a")
    served.add("b")
    made.of("b")
    assert made.of("a") is made.common
    with pytest.raises(RuntimeError):  # its threads have been let go
        own.submit(print)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MAX_WAITING", 2)
    made = ModelPools(1, lambda name: True, "test")
    gate, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(30)

    try:
        made.of("a").submit(work)
        assert begun.wait(5)
        waiting = [made.of("a").submit(gate.wait, 30) for _ in range(2)]
        with pytest.raises(ServingError) as refused:
            made.of("a").submit(print)
        assert refused.value.code is Code.UNAVAILABLE
    finally:
        gate.set()
    assert all(one.result(5) for one in waiting)
    assert made.of("a").submit(lambda: 3).result(5) == 3

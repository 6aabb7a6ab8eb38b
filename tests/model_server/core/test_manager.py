"""The state machine of versions, with loaders that do nothing but what the test says."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_for

from jupyter_tfserve.model_server.core.manager import Manager, RetryPolicy, Version
from jupyter_tfserve.model_server.errors import Code, ServingError


class Loaded:
    """A servable that knows whether it was closed, and whether it was used after that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = threading.Event()

    def run(self) -> Path:
        assert not self.closed.is_set(), f"{self.path} is used after it was closed"
        return self.path

    def close(self) -> None:
        assert not self.closed.is_set(), f"{self.path} is closed twice"
        self.closed.set()


class Loads:
    """A loader whose loads wait for their gate where there is one, and fail where the test says so."""

    def __init__(self) -> None:
        self.gates: dict[int, threading.Event] = {}
        self.failures: dict[int, list[Exception]] = {}
        self.begun: list[int] = []
        self.all: list[Loaded] = []
        self.beginning = threading.Condition()

    def __call__(self, name: str, number: int, path: Path) -> Any:
        with self.beginning:
            self.begun.append(number)
            self.beginning.notify_all()
        if number in self.gates:
            assert self.gates[number].wait(30)
        if self.failures.get(number):
            raise self.failures[number].pop(0)
        loaded = Loaded(path)
        self.all.append(loaded)
        return loaded

    def wait_begun(self, number: int) -> None:
        with self.beginning:
            assert self.beginning.wait_for(lambda: number in self.begun, 30)


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
def events() -> list[tuple[int, str]]:
    return []


@pytest.fixture
def make(loads: Loads, events: list[tuple[int, str]]) -> Iterator[Callable[..., Manager]]:
    made: list[Manager] = []

    def manager(retry: RetryPolicy = RetryPolicy(0, 0.0), threads: int = 4) -> Manager:  # noqa: B008
        one = Manager(loads, lambda v: events.append((v.number, v.state)), retry, threads, 2)
        made.append(one)
        return one

    yield manager
    for one in made:
        one.close(5)


@pytest.fixture
def manager(make: Callable[..., Manager]) -> Manager:
    return make()


def paths(*numbers: int, base: str = "/m") -> Mapping[int, Path]:
    return {number: Path(base) / str(number) for number in numbers}


def states(manager: Manager, name: str = "m") -> dict[int, str]:
    return {version.number: version.state for version in manager.versions(name)}


def wait_states(manager: Manager, **expected: str) -> None:
    wanted = {int(number[1:]): state for number, state in expected.items()}
    wait_for(f"{wanted}, not {states(manager)}", lambda: states(manager) == wanted, 30)


def test_a_life(manager: Manager, events: list[tuple[int, str]], loads: Loads) -> None:
    manager.set_aspired("m", paths(1))
    wait_states(manager, v1="AVAILABLE")
    manager.set_aspired("m", {})
    wait_states(manager, v1="END")
    assert events == [(1, state) for state in ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")]
    assert loads.all[0].closed.is_set()
    with pytest.raises(ServingError) as refused:
        manager.acquire("m")
    assert (refused.value.code, refused.value.message) == (
        Code.NOT_FOUND,
        "Servable not found for request: Latest(m)",
    )


def test_the_old_version_answers_until_the_new_one_does(manager: Manager, loads: Loads) -> None:
    loads.gates[2] = threading.Event()
    manager.set_aspired("m", paths(1))
    wait_states(manager, v1="AVAILABLE")
    manager.set_aspired("m", paths(2))
    loads.wait_begun(2)
    assert states(manager) == {2: "LOADING", 1: "AVAILABLE"}
    with manager.use("m") as version:
        assert version.number == 1
    loads.gates[2].set()
    wait_states(manager, v2="AVAILABLE", v1="END")
    with manager.use("m") as version:
        assert version.number == 2
    with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(m, 1\)"):
        manager.acquire("m", 1)


def test_a_version_in_use_stays_until_its_last_request(manager: Manager, loads: Loads) -> None:
    manager.set_aspired("m", paths(1))
    wait_states(manager, v1="AVAILABLE")
    first, second = manager.acquire("m"), manager.acquire("m", 1)
    manager.set_aspired("m", paths(2))
    wait_states(manager, v2="AVAILABLE", v1="UNLOADING")
    manager.release(first)
    assert not loads.all[0].closed.is_set() and second.loaded.run()  # type: ignore[attr-defined]
    manager.release(second)
    wait_states(manager, v2="AVAILABLE", v1="END")
    assert loads.all[0].closed.is_set()


def test_a_version_that_fails_leaves_the_old_one(manager: Manager, loads: Loads) -> None:
    loads.failures[2] = [ServingError(Code.DATA_LOSS, "torn")]
    manager.set_aspired("m", paths(1))
    wait_states(manager, v1="AVAILABLE")
    manager.set_aspired("m", paths(2))
    wait_states(manager, v2="END", v1="AVAILABLE")
    assert {number: (e.code, e.message) for number, e in manager.failures("m").items()} == {2: (Code.DATA_LOSS, "torn")}
    manager.set_aspired("m", paths(2))  # the next poll: not tried again while its folder stays
    assert loads.begun == [1, 2]
    manager.set_aspired("m", paths(1))
    manager.set_aspired("m", paths(2))  # it was away in between: a new life
    wait_states(manager, v2="AVAILABLE", v1="END")


def test_a_loader_with_a_bug_does_not_leave_a_version_loading(manager: Manager, loads: Loads) -> None:
    loads.failures[1] = [KeyError("oh")]
    manager.set_aspired("m", paths(1))
    wait_states(manager, v1="END")
    assert manager.failures("m")[1].code is Code.INTERNAL


def test_retries(make: Callable[..., Manager], loads: Loads, events: list[tuple[int, str]]) -> None:
    manager = make(RetryPolicy(2, 0.01))
    loads.failures[1] = [ServingError(Code.UNAVAILABLE, "once"), ServingError(Code.UNAVAILABLE, "twice")]
    manager.set_aspired("m", paths(1))
    wait_states(manager, v1="AVAILABLE")
    assert loads.begun == [1, 1, 1] and not manager.failures("m")
    loads.failures[2] = [ServingError(Code.UNAVAILABLE, f"{n}") for n in range(9)]
    manager.set_aspired("m", paths(2))
    wait_states(manager, v2="END", v1="AVAILABLE")
    assert loads.begun.count(2) == 3
    assert manager.failures("m")[2].message == "2"
    assert events.count((2, "LOADING")) == 1


def test_a_version_that_goes_between_two_tries_ends(make: Callable[..., Manager], loads: Loads) -> None:
    manager = make(RetryPolicy(5, 1000.0))
    loads.failures[1] = [ServingError(Code.UNAVAILABLE, "no")]
    manager.set_aspired("m", paths(1))
    wait_for("the failure", lambda: manager.failures("m"))
    assert manager.wait(lambda: manager.settled("m"), 0), "a start must not wait for the retries"
    assert states(manager) == {1: "LOADING"}
    manager.set_aspired("m", {})
    assert states(manager) == {1: "END"}
    assert loads.begun == [1]


def test_a_load_that_is_no_longer_wanted(manager: Manager, loads: Loads) -> None:
    loads.gates[1] = threading.Event()
    manager.set_aspired("m", paths(1))
    loads.wait_begun(1)
    manager.set_aspired("m", {})
    loads.gates[1].set()
    wait_states(manager, v1="END")
    assert loads.all[0].closed.is_set()


def test_a_waiting_load_that_is_wanted_again_is_done(make: Callable[..., Manager], loads: Loads) -> None:
    manager = make(threads=1)
    loads.gates[1] = threading.Event()
    manager.set_aspired("other", paths(1))
    loads.wait_begun(1)  # the only thread is busy
    for wanted in (paths(2), {}, paths(2)):
        manager.set_aspired("m", wanted)
    loads.gates[1].set()
    wait_states(manager, v2="AVAILABLE")


def test_the_same_number_from_another_path(manager: Manager, loads: Loads) -> None:
    manager.set_aspired("m", paths(1, base="/a"))
    wait_states(manager, v1="AVAILABLE")
    loads.gates[1] = threading.Event()
    manager.set_aspired("m", paths(1, base="/b"))
    wait_for("the second load", lambda: loads.begun == [1, 1])
    with manager.use("m", 1) as version:
        assert version.path == Path("/a/1")
    loads.gates[1].set()
    wait_for("the first to end", lambda: loads.all[0].closed.is_set())
    with manager.use("m", 1) as version:
        assert version.path == Path("/b/1")
    assert states(manager) == {1: "AVAILABLE"}


def test_several_at_once(manager: Manager) -> None:
    manager.set_aspired("m", paths(1, 2, 3))
    wait_states(manager, v1="AVAILABLE", v2="AVAILABLE", v3="AVAILABLE")
    manager.set_aspired("m", paths(1, 3))
    wait_states(manager, v1="AVAILABLE", v2="END", v3="AVAILABLE")
    with manager.use("m") as version:
        assert version.number == 3


def test_labels(manager: Manager, loads: Loads) -> None:
    loads.gates[2] = threading.Event()
    manager.set_aspired("m", paths(1, 2))
    wait_states(manager, v1="AVAILABLE", v2="LOADING")
    manager.set_labels("m", {"stable": 1, "canary": 2})
    assert manager.labels("m") == {"stable": 1, "canary": 2}
    assert manager.in_force("m") == {"stable": 1}
    with manager.use("m", label="stable") as version:
        assert version.number == 1
    with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(m, 2\)") as refused:
        manager.acquire("m", label="canary")
    assert refused.value.code is Code.NOT_FOUND
    manager.set_labels("m", {"stable": 2})  # keeps its version until the other one answers
    with manager.use("m", label="stable") as version:
        assert version.number == 1
    loads.gates[2].set()
    wait_states(manager, v1="AVAILABLE", v2="AVAILABLE")
    with manager.use("m", label="stable") as version:
        assert version.number == 2
    for name, label in (("m", "canary"), ("nobody", "stable")):
        with pytest.raises(ServingError, match=f"Unrecognized servable version label: {label}") as refused:
            manager.acquire(name, label=label)
        assert refused.value.code is Code.INVALID_ARGUMENT


def test_waits_end_when_the_server_does(manager: Manager, loads: Loads) -> None:
    loads.gates[1] = threading.Event()
    manager.set_aspired("m", paths(1))
    waited: list[bool] = []
    thread = threading.Thread(target=lambda: waited.append(manager.wait(lambda: manager.settled("m"), None)))
    thread.start()
    manager.interrupt()
    thread.join(10)
    assert waited == [False]
    loads.gates[1].set()


def test_close_waits_for_requests(make: Callable[..., Manager], loads: Loads) -> None:
    manager = make()
    manager.set_aspired("m", paths(1))
    wait_states(manager, v1="AVAILABLE")
    version = manager.acquire("m")
    closing = threading.Thread(target=manager.close, args=(30.0,))
    closing.start()
    wait_states(manager, v1="UNLOADING")
    assert version.loaded.run()  # type: ignore[attr-defined]
    manager.release(version)
    closing.join(10)
    assert not closing.is_alive() and loads.all[0].closed.is_set()


def test_ended_versions_are_not_remembered_for_ever(manager: Manager) -> None:
    for number in range(1, 230):
        manager.set_aspired("m", paths(number))
        wait_for(f"version {number}", lambda number=number: states(manager).get(number) == "AVAILABLE")
    assert 1 < len(states(manager)) <= 202
    assert min(states(manager)) > 1


def test_disorder(make: Callable[..., Manager], loads: Loads) -> None:
    """Requests, changes and failing loads from many threads at once, then calm: what is wanted answers, all else is
    closed, and nothing was ever used after it was closed.
    """
    manager = make(RetryPolicy(1, 0.001))
    random.seed(7)
    stop = threading.Event()
    errors: list[BaseException] = []
    manager.set_aspired("m", paths(1))
    wait_states(manager, v1="AVAILABLE")

    def ask() -> None:
        while not stop.is_set():
            try:
                with manager.use("m") as version:
                    version.loaded.run()  # type: ignore[attr-defined]
            except BaseException as error:
                errors.append(error)
                return

    def change(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            # Version 1 is always wanted: some version must answer at every moment.
            numbers = {1, *(chance.randrange(2, 8) for _ in range(chance.randrange(3)))}
            manager.set_aspired("m", paths(*numbers))
            if chance.random() < 0.1:
                loads.failures.setdefault(chance.randrange(2, 8), []).append(ServingError(Code.ABORTED, "by chance"))
            if chance.random() < 0.3:
                time.sleep(0.0005)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    changers = [threading.Thread(target=change, args=(seed,)) for seed in range(3)]
    for thread in (*askers, *changers):
        thread.start()
    for thread in changers:
        thread.join()
    stop.set()
    for thread in askers:
        thread.join()
    assert not errors, errors[0]
    loads.failures.clear()
    manager.set_aspired("m", {})
    manager.set_aspired("m", paths(8))

    def calm() -> bool:
        lives: list[Version] = manager.versions("m")
        return all(v.state == ("AVAILABLE" if v.number == 8 else "END") for v in lives) and lives[0].number == 8

    wait_for("calm", calm)
    wait_for("all but one to be closed", lambda: sum(not one.closed.is_set() for one in loads.all) == 1)
    assert all(version.in_flight == 0 for version in manager.versions("m"))


def test_a_load_that_takes_too_long_has_failed_and_others_get_their_turn(loads: Loads) -> None:
    manager = Manager(loads, load_timeout=0.2)  # one loading thread
    loads.gates[1] = threading.Event()
    try:
        manager.set_aspired("m", paths(1, 2))
        loads.wait_begun(1)
        wait_states(manager, v1="END", v2="AVAILABLE")
        error = manager.failures("m")[1]
        assert error.code is Code.DEADLINE_EXCEEDED
        assert error.message.startswith("The version did not load within 0.2 s: ")
        loads.gates[1].set()
        late = wait_for("the late load to come", lambda: [one for one in loads.all if one.path.name == "1"])
        assert late[0].closed.wait(30)  # and to be dropped
        assert states(manager) == {1: "END", 2: "AVAILABLE"}
        assert sorted(loads.begun) == [1, 2]
    finally:
        loads.gates[1].set()
        manager.close(5)

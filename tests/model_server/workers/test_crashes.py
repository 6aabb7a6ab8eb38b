"""Workers that end unasked, under load: what they had is loaded again, requests are answered or refused cleanly."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from fronts import Front, Load
from helpers import PATIENCE, publish, wait_for


def test_a_crash_is_mended(front: Front, models: Path) -> None:
    front.register(models / "affine" / "2", "falling", 2, placement={"device": "cpu:1"})
    first = front.wait_workers("cpu", "cpu:1")["cpu:1"]
    with Load(front, "falling", 2.0) as load:
        load.wait_more(50)
        os.kill(first["pid"], signal.SIGKILL)
        wait_for("a refusal", lambda: load.outcomes["UNAVAILABLE"])
        ok = load.outcomes["OK"]
        wait_for("answers again", lambda: load.outcomes["OK"] > ok + 50)
    assert set(load.outcomes) == {"OK", "UNAVAILABLE"}, load.outcomes
    second = front.wait_workers("cpu", "cpu:1")["cpu:1"]
    assert second["pid"] != first["pid"] and second["restarts"] == 1
    with front.client() as client:
        client.unregister("falling")


def test_a_request_in_flight_is_answered(front: Front, models: Path, tmp_path: Path) -> None:
    front.register(models / "gated" / "1", "waiting", 1, placement={"device": "cpu:2"})
    gate = tmp_path / "gate"
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(front.call("POST", "/v1/models/waiting:predict", {"inputs": str(gate)}))
    )
    asking.start()
    wait_for("the run", Path(f"{gate}.waits").exists)
    os.kill(front.workers()["cpu:2"]["pid"], signal.SIGKILL)
    asking.join(PATIENCE)
    assert answers[0].status == 503 and answers[0].headers["retry-after"] == "1"
    front.wait_available("waiting", 1)
    with front.client() as client:
        client.unregister("waiting")


def test_a_replica_that_crashes_loses_nothing(front: Front, models: Path) -> None:
    front.register(models / "affine" / "3", "twice", 3, placement={"device": "cpu:1", "replicas": 2})
    workers = front.wait_workers("cpu", "cpu:1", "cpu:1@2")
    with Load(front, "twice", 3.0) as load:
        load.wait_more(50)
        os.kill(workers["cpu:1"]["pid"], signal.SIGKILL)
        wait_for("its end", lambda: front.workers().get("cpu:1", {}).get("pid") != workers["cpu:1"]["pid"])
        front.wait_workers("cpu", "cpu:1", "cpu:1@2")
        load.wait_more(50)
    # Each request was asked again of the other replica, once.
    assert set(load.outcomes) == {"OK"}, load.outcomes
    both = [front.status("twice")["versions"][0]["devices"]]
    assert both == [["cpu:1"]]
    with front.client() as client:
        client.unregister("twice")


def test_the_culprit_is_told_from_the_others(start_front: Callable[..., Front], models: Path, tmp_path: Path) -> None:
    """Whoever had a request in flight at each crash is put into a process of its own, and given up at last; a model
    that only was there serves on, and so does the version before it that the policy keeps.
    """
    front = start_front("--isolation=device")
    front.register(models / "affine" / "1", "innocent", 1, placement={"device": "cpu"})
    front.register(models / "affine" / "1", "culprit", 1, policy={"latest": {"num_versions": 2}})
    publish(models / "gated" / "1", front.store / "culprit", 2)
    front.wait_available("culprit", 1, 2)
    names = []
    with Load(front, "innocent", 1.0, threads=1) as load:
        for crash in range(6):
            gate = tmp_path / f"gate-{crash}"
            asking = threading.Thread(
                target=front.call, args=("POST", "/v1/models/culprit/versions/2:predict", {"inputs": str(gate)})
            )
            asking.start()
            wait_for("the run", Path(f"{gate}.waits").exists)
            [(name, pid)] = [
                (name, one["pid"])
                for name, one in front.workers().items()
                if name == "cpu/culprit/2" or (name == "cpu" and "cpu/culprit/2" not in front.workers())
            ]
            names.append(name)
            os.kill(pid, signal.SIGSEGV)
            asking.join(PATIENCE)
            wait_for("its end to be noticed", functools.partial(_is_gone, front, pid))
            if crash < 5:
                wait_for("the next life", lambda: front.states("culprit").get(2) == "AVAILABLE")
        wait_for("the culprit to be given up", lambda: front.states("culprit").get(2) == "END")
        load.wait_more(20)
    assert names == ["cpu", "cpu", *["cpu/culprit/2"] * 4]
    version = front.status("culprit")["versions"][0]
    assert "was killed by SIGSEGV" in version["error_message"]
    assert "Loading version 2 of culprit" in version["error_message"]  # the end of its log
    assert front.predict("culprit", [1.0]) == [2.0]  # the version before it
    assert set(load.outcomes) <= {"OK", "UNAVAILABLE"}, load.outcomes


def _is_gone(front: Front, pid: int) -> bool:
    return pid not in [one["pid"] for one in front.workers().values()]


@pytest.mark.parametrize("hangs", [False, True], ids=["running", "stopped"])
def test_no_orphans(start_front: Callable[..., Front], models: Path, hangs: bool) -> None:
    front = start_front("--isolation=model")
    front.register(models / "affine" / "1", "affine", 1)
    worker = psutil.Process(front.workers()["cpu/affine"]["pid"])
    if hangs:
        worker.suspend()
    front.end(signal.SIGKILL)
    wait_for("the worker's end", lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    # What the two could not take away themselves is no hindrance for the next front on the same folder.
    again = Front(front.folder, "--isolation=model", store=front.store)
    try:
        again.wait_until_ready().wait_available("affine", 1)
        assert again.predict("affine", [1.0]) == [2.0]
    finally:
        again.close()


def test_a_stopped_worker_is_found(start_front: Callable[..., Front], models: Path) -> None:
    front = start_front("--isolation=device", "--hang_timeout_seconds=1")
    front.register(models / "affine" / "1", "affine", 1)
    pid = front.workers()["cpu"]["pid"]
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    wait_for("its successor", lambda: front.workers().get("cpu", {}).get("restarts") == 1)
    front.wait_available("affine", 1)
    assert front.predict("affine", [1.0]) == [2.0]
    assert "hung: it did not answer its heartbeat" in front.said()
    assert time.monotonic() - began < PATIENCE

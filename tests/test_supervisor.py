"""The supervisor with real model servers: single crashes, crash loops, hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import PATIENCE, wait_for

from jupyter_tfserve.api import Event
from jupyter_tfserve.interpreters import StartError
from jupyter_tfserve.store import Store
from jupyter_tfserve.supervisor import Settings, Supervisor

Make = Callable[..., Supervisor]


@pytest.fixture
def events() -> list[Event]:
    """What the supervisor tells."""
    return []


@pytest.fixture
def make(tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes supervisors of model servers with an empty store and no ports."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    made: list[Supervisor] = []

    def one(**more: Any) -> Supervisor:
        settings = Settings(
            Store(tmp_path / "store"), tmp_path / "runtime", grpc_port=0, rest_port=0, **{"drain_timeout": 5.0, **more}
        )
        made.append(Supervisor(settings, events.append))
        return made[-1]

    yield one
    for supervisor in made:
        supervisor.close()


def end_it(supervisor: Supervisor, number: int) -> int:
    """Signal the process that runs, and wait until there is another, or none any more; returns its number."""
    pid = supervisor.info()["pid"]
    assert pid
    os.kill(pid, number)

    def gone_on() -> bool:
        info = supervisor.info()
        return info["state"] == "failed" or (info["state"] == "running" and info["pid"] not in (pid, None))

    wait_for("the process to be replaced, or given up", gone_on, 2 * PATIENCE)
    return pid


def test_a_hung_process_is_replaced_and_that_is_said(make: Make, events: list[Event]) -> None:
    supervisor = make(hang_timeout=1.0)
    supervisor.ensure_started()
    pid = end_it(supervisor, signal.SIGSTOP)
    info = supervisor.info()
    assert info["state"] == "running"
    assert info["restarts"] == 1
    assert not psutil.pid_exists(pid)
    said = "hung: it did not answer its heartbeat for 1 s, and was killed"
    assert info["last_exit"] is not None
    assert info["last_exit"]["reason"] == said
    assert [e["reason"] for e in events if e["state"] == "restarting"] == [
        f"The model server {said}; it is started again."
    ]
    assert info["notices"] == []


def test_a_crash_loop_is_answered_by_isolation_and_then_given_up(make: Make) -> None:
    supervisor = make(backoff=(0.0, 0.0), isolate=("--drain_timeout_seconds=4.5",), isolate_after=2)
    supervisor.ensure_started()
    end_it(supervisor, signal.SIGSEGV)
    assert supervisor.info()["notices"] == []  # a single crash
    end_it(supervisor, signal.SIGSEGV)
    info = supervisor.info()
    assert info["notices"] == [
        "The model server ended 2 times in a row, the last time it was killed by SIGSEGV. Models now have processes of "
        "their own, so that only the one at fault fails; a restart goes back to one process."
    ]
    assert info["pid"]
    assert psutil.Process(info["pid"]).cmdline()[-3] == "--drain_timeout_seconds=4.5"
    end_it(supervisor, signal.SIGSEGV)
    assert supervisor.info()["state"] == "running"
    end_it(supervisor, signal.SIGSEGV)
    info = supervisor.info()
    assert info["state"] == "failed"
    assert info["error"] == "The model server ended 3 times in a row; the last time it was killed by SIGSEGV."
    assert info["remedy"].startswith(
        "Stop serving what makes it end (its log may say), then `%tfserve start`.\nThe end"
    )
    assert "Segmentation fault" in info["remedy"]
    assert info["pid"] is None
    # Asked for, it starts afresh: in one process.
    info = supervisor.ensure_started()
    assert info["notices"] == []
    assert info["error"] == ""
    assert info["pid"]
    assert "--drain_timeout_seconds=4.5" not in psutil.Process(info["pid"]).cmdline()


def test_a_first_start_that_fails_is_not_tried_again(make: Make) -> None:
    supervisor = make(flags=("--no_such_flag",))
    with pytest.raises(StartError) as refused:
        supervisor.ensure_started()
    assert refused.value.message == "The model server ended with status 2."
    assert "unknown flag '--no_such_flag'" in refused.value.remedy
    assert supervisor.info()["restarts"] == 0

"""The model server is killed, stopped, crashes or runs out of memory under load: requests are answered or refused, none
is lost, and it is there again.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from control_group import ControlGroup
from helpers import PATIENCE, StoreServer, wait_for
from jupyter_process import JupyterServer
from load import Load

from .conftest import HANG, Figures, affine_load
from .shim import Shim


def replaced(jupyter: JupyterServer, pid: int) -> Callable[[], bool]:
    """Whether another model server answers."""

    def is_so() -> bool:
        info = jupyter.info()
        assert info["state"] != "failed", info
        return info["state"] == "running" and info["pid"] != pid

    return is_so


def under_load(
    jupyter: JupyterServer, figures: Figures, fault: str, make_it: Callable[[int], object], clients: int = 4
) -> str:
    """Let a fault end the model server under load; returns why, as the owner tells it. Nothing is left of it."""
    # Asked for: so this end is the first one of its row, and no crash loop.
    assert jupyter.call("POST", "/tfserve/api/server", {"action": "restart"}).status == 200
    wait_for("the model", lambda: ask(jupyter, "affine", [1.0]).status == 200)
    before = jupyter.info()
    pid = before["pid"]
    assert pid
    with affine_load(jupyter, clients=clients) as load:
        load.wait(50)
        began = time.monotonic()
        make_it(pid)
        wait_for("another model server", replaced(jupyter, pid))
        back = time.monotonic() - began
        load.wait(50)
    info = jupyter.info()
    assert info["last_exit"] is not None
    reason = info["last_exit"]["reason"]
    figures.add(fault, load.outcome, f'said: "{reason}"; started again after {back:.1f} s')
    assert not load.outcome.lost
    assert load.outcome.refused.total() > 0
    assert info["restarts"] == before["restarts"] + 1
    assert not psutil.pid_exists(pid)  # no zombie either
    children = [one for one in jupyter.processes() if "jupyter_tfserve.model_server" in " ".join(one.cmdline())]
    assert [one.pid for one in children] == [info["pid"]]
    return reason


def ask(jupyter: JupyterServer, model: str, instances: Any) -> Any:
    return jupyter.call("POST", f"/tfserve/v1/models/{model}:predict", {"instances": instances})


def test_kill_9(jupyter: JupyterServer, figures: Figures) -> None:
    reason = under_load(jupyter, figures, "kill -9", lambda pid: os.kill(pid, signal.SIGKILL))
    assert reason.startswith("was killed by SIGKILL")


def test_a_stopped_process(jupyter: JupyterServer, figures: Figures) -> None:
    reason = under_load(jupyter, figures, "kill -STOP", lambda pid: os.kill(pid, signal.SIGSTOP))
    assert reason == f"hung: it did not answer its heartbeat for {HANG:g} s, and was killed"


def test_a_segmentation_fault_in_an_op(jupyter: JupyterServer, shim: Shim, figures: Figures) -> None:
    def crash(pid: int) -> None:
        answer = jupyter.call("POST", "/tfserve/v1/models/reader:predict", {"inputs": shim.crash})
        assert answer.status == 503, answer
        assert answer.headers["retry-after"] == "1"
        assert list(answer.json) == ["error"]

    reason = under_load(jupyter, figures, "SIGSEGV in the op ReadFile", crash)
    assert reason == "was killed by SIGSEGV"
    last = jupyter.info()["last_exit"]
    assert last is not None
    assert "Fatal Python error: Segmentation fault" in last["log_tail"]


def test_the_system_kills_for_want_of_memory(jupyter: JupyterServer, figures: Figures) -> None:
    with ControlGroup.make() as group:

        def run_out(pid: int) -> None:
            group.limit(psutil.Process(pid).memory_info().rss + 300 * 2**20)
            group.add(pid)
            assert ask(jupyter, "hungry", [4000.0]).status == 503

        reason = under_load(jupyter, figures, "OOM kill (control group)", run_out)
    assert reason == "was killed by the system, because memory ran out (SIGKILL)"
    [notice] = [one for one in jupyter.info()["notices"] if "memory" in one]
    assert "Stop serving a model, serve a smaller one, or give this machine or container more memory" in notice


def test_memory_that_is_not_given_refuses_one_request_and_ends_nothing(
    start_store: Callable[..., StoreServer], models: Path
) -> None:
    server = start_store("--auto_batching").wait_until_ready()
    server.register(models / "hungry" / "1", "hungry", 1)
    for _ in range(3):  # threads and their arenas are there then
        assert server.predict("hungry", [1.0]) == [1.0]
    limit = psutil.Process(server.process.pid).memory_info().vms + 2 * 2**30
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, -1))
    answer = server.call("POST", "/v1/models/hungry:predict", {"instances": [4000.0]})
    assert answer.status == 429, answer
    assert answer.json["error"].endswith("Memory ran out: send fewer rows at once, or stop serving another model.")
    assert server.predict("hungry", [1.0]) == [1.0]


def test_busy_is_not_hung(jupyter: JupyterServer) -> None:
    # All batch threads have work for longer than the heartbeat may be missing.
    pid = jupyter.info()["pid"]
    with Load(
        jupyter.port,
        "/tfserve/v1/models/slow:predict",
        {"instances": [1.0]},
        headers={"Authorization": f"token {jupyter.token}"},
        clients=24,
    ) as load:
        end = time.monotonic() + 3 * HANG
        while time.monotonic() < end:
            load.wait(1, PATIENCE)
    assert not load.outcome.lost
    info = jupyter.info()
    assert (info["pid"], info["state"]) == (pid, "running")

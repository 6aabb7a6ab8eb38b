"""Another program has the port: at a start by hand, and when the model server is started again under Jupyter."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers import PATIENCE, environment, free_ports, wait_for
from jupyter_process import JupyterServer

from .conftest import LONG, Figures, affine_load


@contextlib.contextmanager
def taken(port: int) -> Iterator[None]:
    """Listen on a port as another program, as soon as it is free."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        end = time.monotonic() + PATIENCE
        while True:
            try:
                one.bind(("127.0.0.1", port))
                one.listen()
                break
            except OSError:
                assert time.monotonic() < end, "the port is never free"
                time.sleep(0.001)
        yield


@pytest.mark.parametrize(("flag", "workers"), [("--port", "auto"), ("--rest_api_port", "always")])
def test_a_start_by_hand_says_so_and_leaves_nothing(models: Path, tmp_path: Path, flag: str, workers: str) -> None:
    ports = dict(zip(("--port", "--rest_api_port"), free_ports(2), strict=True))
    command = [sys.executable, "-m", "jupyter_tfserve.model_server", f"--workers={workers}"]
    command += [f"{name}={port}" for name, port in ports.items()]
    command += [f"--model_base_path={models / 'affine'}", f"--management_socket={tmp_path / 'socket'}"]
    with taken(ports[flag]):
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    what = "gRPC" if flag == "--port" else "REST"
    assert f"{what} cannot listen on 127.0.0.1:{ports[flag]}" in said and "Choose another port" in said, said
    assert "Traceback" not in said
    assert not (tmp_path / "socket").exists()
    left = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]
    assert not left


@pytest.mark.parametrize("which", ["rest_port", "grpc_port"] if LONG else ["grpc_port"])
def test_a_restart_takes_another_port(jupyter: JupyterServer, figures: Figures, which: str) -> None:
    before = jupyter.info()
    pid, port = before["pid"], before[which]  # type: ignore[literal-required]
    assert pid
    with affine_load(jupyter) as load:
        load.wait(50)
        os.kill(pid, signal.SIGKILL)
        with taken(port):
            wait_for("the next one", lambda: jupyter.info()["pid"] != pid and jupyter.info()["state"] == "running")
            after = jupyter.info()
            load.wait(50)
    assert after[which] != port  # type: ignore[literal-required]
    assert [f"Port {port} was taken" in notice for notice in after["notices"]].count(True) == 1, after
    figures.add(f"{which.split('_')[0]} port taken at a restart", load.outcome, "answers on the next free one")
    assert not load.outcome.lost
    # And back, for the other tests.
    assert jupyter.call("POST", "/tfserve/api/server", {"action": "restart"}).status == 200
    assert jupyter.info()[which] == port  # type: ignore[literal-required]

"""One model server process: real ones, and small programs where a model server would have to be made to misbehave."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import PATIENCE, environment, wait_for

from jupyter_tfserve.process import ModelServerProcess

#: A program that says that it answers, and then does what stands behind it.
READY = """
import argparse, os, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--owner_fd", type=int)
parser.add_argument("--ready_fd", type=int)
flags = parser.parse_args()
def ready():
    os.write(flags.ready_fd, b'{"grpc_port": 1, "rest_port": 2, "notices": []}\\n')
    os.close(flags.ready_fd)
"""

#: Owns a model server for so many seconds, and says whether it lives at their end.
OWNER = """
import sys
from pathlib import Path
from jupyter_tfserve.process import ModelServerProcess
folder = Path(sys.argv[1])
socket = folder / "socket"
command = [sys.executable, "-m", "jupyter_tfserve.model_server", "--port=0", f"--management_socket={socket}"]
process = ModelServerProcess(command, folder / "log", socket, hang_timeout=1.5, cwd=folder)
print(process.start(), flush=True)
process.wait(float(sys.argv[2]))
print(process.is_alive, flush=True)
"""

#: A model server in which something takes Python's lock once the file `hold` is there, and keeps it.
HELD = """
import ctypes, os, sys, threading, time
def hold():
    while not os.path.exists("hold"):
        time.sleep(0.05)
    ctypes.PyDLL(None).sleep(1000)  # PyDLL: without letting go of the lock
threading.Thread(target=hold, daemon=True).start()
sys.argv[0] = "tfserve"
from jupyter_tfserve.model_server.__main__ import main
main()
"""

Make = Callable[..., ModelServerProcess]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Make]:
    """Makes a process of a program's text."""
    made: list[ModelServerProcess] = []

    def make(text: str, **more: Any) -> ModelServerProcess:
        settings = {"hang_timeout": 0.0, **more}
        one = ModelServerProcess(
            [sys.executable, "-c", READY + text], tmp_path / "log", tmp_path / "socket", **settings
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.kill()


@pytest.fixture
def tfserve(tmp_path: Path) -> Iterator[Make]:
    """Makes a model server with an empty store."""
    made: list[ModelServerProcess] = []

    def make(**more: Any) -> ModelServerProcess:
        socket = tmp_path / "socket"
        command = [sys.executable, "-m", "jupyter_tfserve.model_server", "--port=0", f"--management_socket={socket}"]
        one = ModelServerProcess(command, tmp_path / "log", socket, cwd=tmp_path, environment=environment(), **more)
        made.append(one)
        return one

    yield make
    for one in made:
        one.kill()


def alive(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_model_server_starts_beats_and_ends(tfserve: Make) -> None:
    process = tfserve(hang_timeout=2.0)
    assert process.start() == {"grpc_port": None, "rest_port": None, "notices": []}
    assert process.is_alive
    memory = process.memory()
    assert memory is not None
    assert memory > 50 * 2**20
    assert not process.wait(5.0), process.how_it_ended()  # at least one heartbeat was asked for, and answered
    process.stop(10.0)
    assert process.how_it_ended() == "ended with status 0"
    assert not process.is_alive
    assert process.memory() is None
    assert not process.socket.exists()
    assert "Ended" in process.log_tail(5)


def test_a_stopped_model_server_is_killed_as_hung(tfserve: Make) -> None:
    process = tfserve(hang_timeout=1.0)
    assert process.start()
    assert process.pid
    os.kill(process.pid, signal.SIGSTOP)
    assert process.wait(PATIENCE)
    assert process.how_it_ended() == "hung: it did not answer its heartbeat for 1 s, and was killed"
    assert not process.socket.exists()
    assert not psutil.pid_exists(process.pid)  # no zombie


def test_one_whose_interpreter_is_held_is_killed_as_hung(tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    command = [sys.executable, "-c", HELD, "--port=0", f"--management_socket={socket}"]
    process = ModelServerProcess(
        command, tmp_path / "log", socket, hang_timeout=1.0, cwd=tmp_path, environment=environment()
    )
    try:
        assert process.start()
        (tmp_path / "hold").touch()
        assert process.wait(PATIENCE)
    finally:
        process.kill()
    assert process.how_it_ended() == "hung: it did not answer its heartbeat for 1 s, and was killed"


def test_a_stopped_model_server_drains_when_it_is_asked_to_end(tfserve: Make) -> None:
    process = tfserve()
    assert process.start()
    assert process.pid
    os.kill(process.pid, signal.SIGSTOP)
    process.stop(10.0)
    assert process.how_it_ended() == "ended with status 0"


def test_a_kill_from_outside_is_told_apart_from_ours(tfserve: Make) -> None:
    process = tfserve()
    assert process.start()
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(PATIENCE)
    assert process.how_it_ended().startswith("was killed by SIGKILL (")
    assert not process.was_out_of_memory
    assert not process.socket.exists()


def test_another_signal_is_named(program: Make) -> None:
    process = program("ready(); os.kill(os.getpid(), signal.SIGSEGV)")
    assert process.start()
    assert process.wait(PATIENCE)
    assert process.how_it_ended() == "was killed by SIGSEGV"


def test_one_that_never_answers_is_killed(program: Make) -> None:
    process = program("time.sleep(1000)", start_timeout=0.5)
    assert process.start() is None
    assert process.how_it_ended() == "did not answer within 0.5 s of its start and was killed"
    assert process.pid
    assert not psutil.pid_exists(process.pid)


def test_one_that_ends_instead_says_its_status(program: Make) -> None:
    process = program("print('no room', file=sys.stderr); sys.exit(3)")
    assert process.start() is None
    assert process.how_it_ended() == "ended with status 3"
    assert process.log_tail() == "no room"


def test_no_process_can_be_made(tmp_path: Path) -> None:
    process = ModelServerProcess([str(tmp_path / "nothing")], tmp_path / "log", tmp_path / "socket")
    with pytest.raises(FileNotFoundError):
        process.start()
    assert process.wait(0)
    assert process.how_it_ended() == "did not start"


def test_one_that_does_not_end_is_killed(program: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_tfserve.process.GRACE_SECONDS", 0.3)
    process = program("signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(1000)")
    assert process.start()
    process.stop(0.2)
    assert process.how_it_ended() == "did not end within 0.2 s of being asked to, and was killed"


def test_stopping_during_the_start_ends_it(program: Make) -> None:
    process = program("time.sleep(1000)")
    started: list[object] = []
    thread = threading.Thread(target=lambda: started.append(process.start()))
    thread.start()
    wait_for("the process to be there", lambda: process.pid)
    process.stop(5.0)
    thread.join(PATIENCE)
    assert started == [None]
    assert process.how_it_ended() == "was killed by SIGTERM"


def test_stopping_before_the_start_ends_it_as_well(program: Make) -> None:
    process = program("time.sleep(1000)")
    process.stop(5.0)
    assert process.start() is None
    assert process.wait(0)


def test_what_a_killed_process_has_started_goes_with_it(program: Make) -> None:
    process = program(
        "child = subprocess.Popen(['sleep', '1000']); print(child.pid, flush=True); ready(); time.sleep(1000)"
    )
    assert process.start()
    child = int(wait_for("the child's number", process.log_tail))
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(PATIENCE)
    wait_for("the child to be gone", lambda: not alive(child))


def test_the_log_before_is_kept(program: Make, tmp_path: Path) -> None:
    for text in ("first", "second"):
        process = program(f"print('{text}', file=sys.stderr)")
        assert process.start() is None
    assert (tmp_path / "log").read_text() == "second\n"
    assert (tmp_path / "log.1").read_text() == "first\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_vanished_socket_counts_as_no_heartbeat(tfserve: Make) -> None:
    process = tfserve(hang_timeout=1.0)
    assert process.start()
    process.socket.unlink()
    assert process.wait(PATIENCE)
    assert process.how_it_ended().startswith("hung: ")


def test_a_suspended_owner_does_not_take_its_own_sleep_for_the_servers(program: Make, tmp_path: Path) -> None:
    # The owner is a process of its own here, stopped for longer than the limit; its model server goes on answering.
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    owner = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), "8"], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert owner.stdout is not None
    try:
        assert owner.stdout.readline().startswith("{")
        os.kill(owner.pid, signal.SIGSTOP)
        wait_for("the owner to be stopped", lambda: psutil.Process(owner.pid).status() == psutil.STATUS_STOPPED)
        time.sleep(3.0)  # twice the limit: that time passes is what is tested
        os.kill(owner.pid, signal.SIGCONT)
        assert owner.stdout.readline() == "True\n"
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that hangs outlives its owner")
def test_one_that_hangs_ends_with_its_owner(tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    owner = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), "600"], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert owner.stdout is not None
    with owner, contextlib.ExitStack() as ends:
        ends.callback(owner.kill)
        assert owner.stdout.readline().startswith("{")
        [hung] = psutil.Process(owner.pid).children()
        ends.callback(lambda: hung.is_running() and hung.kill())
        hung.suspend()
        owner.kill()
        wait_for("its end", lambda: not alive(hung.pid))

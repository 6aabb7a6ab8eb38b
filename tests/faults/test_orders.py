"""Jupyter Server, model server and kernel are killed in every order, or all at once in the middle of a registration, as
by a power cut. Nothing of them is left, and the next start on the same folder serves what was registered.

With FAULT_LONG (as `make faults` has it) every order and twenty power cuts; the suite runs a few.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers import PATIENCE, environment, wait_for
from jupyter_process import JupyterServer

from .conftest import LONG, Figures

ORDERS = list(itertools.permutations(("jupyter", "model server", "kernel")))
CUTS = 20 if LONG else 2

#: Registers version after version, whose answers are their numbers, and says so; in a kernel's way.
REGISTER = """
import sys
import tensorflow as tf
from jupyter_tfserve import connect

class Number(tf.Module):
    def __init__(self, number):
        self.number = tf.Variable(float(number))
        self.weights = tf.Variable(tf.ones([512, 1024]))  # so that there is something to write

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": x * 0 + self.number + 0 * tf.reduce_sum(self.weights)}

endpoint = connect()
first, count = map(int, sys.argv[1:])
for number in range(first, first + count):
    endpoint.register("number", Number(number), version=number)
    print(number, flush=True)
"""


class House:
    """A folder in which one Jupyter Server after the other lives, with its model server and a kernel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jupyter: JupyterServer | None = None

    def start(self) -> JupyterServer:
        """Another Jupyter Server, whose model server runs if anything is registered."""
        self.jupyter = JupyterServer(self.folder).wait_until_ready()
        return self.jupyter

    def register(self, first: int, count: int) -> subprocess.Popen[str]:
        """A kernel that registers so many versions; it prints each number."""
        assert self.jupyter is not None
        return subprocess.Popen(
            [sys.executable, "-c", REGISTER, str(first), str(count)],
            cwd=self.folder,
            env={**environment(), "JUPYTER_TFSERVE_ENDPOINT": str(self.jupyter.endpoint_file)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def processes(self) -> list[psutil.Process]:
        """All that have this folder on their command line, or in it their home."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and str(self.folder) in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def versions(self) -> dict[int, Path]:
        """The version folders on disk."""
        base = self.folder / "store" / "number"
        return {int(path.name): path for path in base.iterdir() if path.name.isdigit()} if base.exists() else {}

    def check(self) -> int:
        """Whether what is on disk is whole, and its last version served by the server that runs; returns that one."""
        assert self.jupyter is not None
        versions = self.versions()
        wholes = {
            frozenset(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
            for path in versions.values()
        }
        assert len(wholes) == 1, wholes
        last = max(versions)

        def answers() -> bool:
            answer = self.jupyter.call("POST", "/tfserve/v1/models/number:predict", {"instances": [0.0]})  # type: ignore[union-attr]
            return answer.status == 200 and answer.json == {"predictions": [float(last)]}

        wait_for(f"version {last} to answer", answers)
        # Nothing is left of who was killed.
        runtime = self.folder / "runtime"
        assert [path.name for path in runtime.glob("tfserve-*")] == [f"tfserve-{self.jupyter.process.pid}"]
        return last


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """With one version registered, and a server that serves it."""
    one = House(tmp_path_factory.mktemp("house"))
    try:
        one.start()
        kernel = one.register(1, 1)
        assert kernel.communicate(timeout=PATIENCE)[0] == "1\n"
        yield one
    finally:
        for process in one.processes():
            process.kill()
        if one.jupyter is not None:
            one.jupyter.process.wait()


def start_kernel(jupyter: JupyterServer) -> int:
    """A kernel that Jupyter Server owns; returns its process."""
    before = {process.pid for process in jupyter.processes()}
    assert jupyter.call("POST", "/api/kernels", {"name": "python3"}).status == 201

    def found() -> int:
        for process in jupyter.processes():
            with contextlib.suppress(psutil.Error):
                if process.pid not in before and "ipykernel" in " ".join(process.cmdline()):
                    return process.pid
        return 0

    return wait_for("the kernel's process", found)


@pytest.mark.parametrize("order", ORDERS if LONG else ORDERS[::5], ids=", ".join)
def test_killed_in_this_order(house: House, figures: Figures, order: tuple[str, ...]) -> None:
    jupyter = house.jupyter
    assert jupyter is not None
    last = house.check()
    kernel = start_kernel(jupyter)
    for one in order:
        if one == "jupyter":
            jupyter.process.kill()
            jupyter.process.wait()
            continue
        pid = kernel
        if one == "model server":
            if jupyter.process.poll() is not None:  # it ends by itself then; whichever comes first
                wait_for(
                    "its end",
                    lambda: not any("jupyter_tfserve.model_server" in " ".join(p.cmdline()) for p in alive(house)),
                )
                continue
            pid = jupyter.wait_running()["pid"] or 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for("all to be gone", lambda: not house.processes())
    began = time.monotonic()
    house.start()
    assert house.check() == last
    figures.note(f"killed: {', '.join(order)}", f"nothing left; serves again {time.monotonic() - began:.1f} s later")


def alive(house: House) -> list[psutil.Process]:
    return [process for process in house.processes() if process.is_running()]


def test_a_power_cut_in_the_middle_of_a_registration(house: House, figures: Figures) -> None:
    dice = random.Random(int(os.environ.get("FAULT_SEED", "1")))
    unanswered = 0
    for _ in range(CUTS):
        last = house.check()
        jupyter = house.jupyter
        assert jupyter is not None
        kernel = house.register(last + 1, 10**6)
        assert kernel.stdout is not None
        told = int(kernel.stdout.readline())
        began = time.monotonic()
        told = int(kernel.stdout.readline())
        took = time.monotonic() - began
        time.sleep(dice.uniform(0, 2 * took))  # any moment will do: it is not waited for anything
        victims = [*house.processes(), psutil.Process(kernel.pid)]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # nobody sees another one die
            for process in victims:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
        told = max([told, *map(int, kernel.stdout.read().split())])
        kernel.stdout.close()
        kernel.wait()
        jupyter.process.wait()
        wait_for("all to be gone", lambda: not house.processes())
        # What was told to be registered is there; one more may be that nobody was told of.
        newest = max(house.versions())
        assert told <= newest <= told + 1
        unanswered += newest - told
        house.start()
        assert house.check() == newest
        again = house.register(newest + 1, 1)
        assert again.communicate(timeout=PATIENCE)[0] == f"{newest + 1}\n"
    figures.note(
        f"{CUTS} power cuts in the middle of a registration",
        f"no half-written version; the last whole one is served ({unanswered} of them told nobody yet); "
        "the next registration works",
    )

"""Many registrations from a notebook under load, and a large one: nothing is lost, and memory stays flat.

``REGISTRATIONS=200 pytest tests/faults`` is the full form, which `make faults` runs; the suite runs a shorter one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from driver import JupyterServer, Kernel

REGISTRATIONS = int(os.environ.get("REGISTRATIONS", "40"))

#: Registrations after which memory must not grow any more: caches and thread pools are full by then.
WARM = 20

#: What the notebook keeps of the model's old versions on disk: see SETUP.
KEPT = 3

GIB = 1024**3

SETUP = """
import tensorflow as tf
from jupyter_tfserve import connect

KEPT = 3

class Number(tf.Module):
    def __init__(self):
        self.number = tf.Variable(0.0)
        self.weights = tf.Variable(tf.ones([256, 1024]))  # 1 MB, so that a version that stays loaded shows

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": x * 0 + self.number + 0 * tf.reduce_sum(self.weights)}

model = Number()
endpoint = connect()

def register(count):
    for _ in range(count):
        model.number.assign_add(1.0)
        endpoint.register("number", model, keep=KEPT)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[JupyterServer]:
    with JupyterServer(tmp_path) as one:
        yield one


def run(kernel: Kernel, code: str, timeout: float = 600) -> str:
    """Run a cell; its text output. Fails with its traceback."""
    outputs, _ = kernel.execute(code, timeout)
    for output in outputs:
        assert output.output_type != "error", "\n".join(output.traceback)
    return "".join(output.text for output in outputs if output.output_type == "stream")


class Loop(threading.Thread):
    """Asks one address again and again; remembers each answer that differs from the one before, and each failure."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self._http = httpx.Client(headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=60)
        self._url = url
        self._end = threading.Event()
        self.answers: list[float] = []
        self.count = 0
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._end.is_set():
            try:
                reply = self._http.post(self._url, json={"instances": [0.0]})
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
                continue
            if reply.status_code != 200:
                self.failures.append(f"{reply.status_code} {reply.text}")
                continue
            self.count += 1
            [answer] = reply.json()["predictions"]
            if not self.answers or answer != self.answers[-1]:
                self.answers.append(answer)

    def stop(self) -> None:
        self._end.set()
        self.join()
        self._http.close()


def resident(processes: dict[str, psutil.Process]) -> dict[str, int]:
    """Bytes of memory that each process holds for itself."""
    return {name: process.memory_full_info().uss for name, process in processes.items()}


def test_many_registrations_under_load(server: JupyterServer) -> None:
    with Kernel(server, "many.ipynb") as kernel:
        run(kernel, SETUP)
        run(kernel, "register(1)")
        state = server.call("GET", "tfserve/api/state")["server"]
        loops = [
            Loop(f"{server.url}tfserve/v1/models/number:predict", server.token),
            Loop(f"http://127.0.0.1:{state['rest_port']}/v1/models/number:predict", server.token),
        ]
        for loop in loops:
            loop.start()
        processes = {
            "Jupyter Server": psutil.Process(server.pid),
            "model server": psutil.Process(state["pid"]),
            "kernel": psutil.Process(int(run(kernel, "import os; print(os.getpid())"))),
        }
        run(kernel, f"register({WARM - 1})")
        before = resident(processes)
        run(kernel, f"register({REGISTRATIONS - WARM})")
        after = resident(processes)
        for loop in loops:
            loop.stop()
        status = server.call("GET", "tfserve/api/models/number")
    for loop in loops:
        assert loop.failures == []
        assert loop.count > REGISTRATIONS
        # Each version took over once, and none came back.
        assert loop.answers == sorted(loop.answers)
        assert len(loop.answers) > REGISTRATIONS / 2
        assert loop.answers[-1] == REGISTRATIONS
    growth = {name: after[name] / before[name] for name in before}
    print({name: f"{before[name] / 2**20:.0f} -> {after[name] / 2**20:.0f} MB" for name in before})
    assert max(growth.values()) < 1.10, (growth, before, after)
    available = [version for version in status["versions"] if version["state"] == "AVAILABLE"]
    assert len(available) == 1
    kept = sorted(int(folder.name) for folder in Path(status["base_path"]).iterdir() if folder.name.isdigit())
    assert len(kept) == KEPT
    assert kept[-1] == available[0]["version"]


LARGE = """
import tensorflow as tf

class Large(tf.Module):
    def __init__(self):
        self.weights = [tf.Variable(tf.zeros([64, 1024, 1024])) for _ in range(4)]  # 4 x 256 MB

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": x + sum(w[0, 0, 0] for w in self.weights)}

large = Large()
"""

PEAK = """
from pathlib import Path
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
"""

REGISTER = """
endpoint.register("large", large)
import re
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
print(peak)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the peak of a process is read from /proc")
def test_a_model_of_1_gib_is_not_read_into_memory_again(server: JupyterServer) -> None:
    with Kernel(server, "large.ipynb") as kernel:
        run(kernel, SETUP + LARGE + "\nregister(1)")
        process = psutil.Process(int(run(kernel, "import os; print(os.getpid())")))
        run(kernel, PEAK)
        jupyter = psutil.Process(server.pid)
        before, jupyter_before = process.memory_info().rss, jupyter.memory_info().rss
        assert before > GIB  # the model itself
        peak = int(run(kernel, REGISTER))
        assert peak - before < GIB / 4
        assert jupyter.memory_info().rss - jupyter_before < GIB / 16
        answer = server.call("POST", "tfserve/v1/models/large:predict", {"instances": [2.0]})
        assert answer == {"predictions": [2.0]}

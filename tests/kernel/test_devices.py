"""%tfserve device and devices, in a real kernel whose model server has workers on simulated devices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jupyter_tfserve.kernel.arguments import UsageError
from jupyter_tfserve.kernel.devices import size, size_text

from .conftest import Kernel


@pytest.fixture(scope="module")
def kernel(kernel: Kernel) -> Iterator[Kernel]:
    kernel.run(
        "import os\nos.environ['TFSERVE_SIMULATED_DEVICES'] = 'cpu:1,cpu:2'\n%load_ext jupyter_tfserve\n"
        "import numpy as np\ndef double(x): return x * 2.0\nrows = np.array([1.0, 2.0], np.float32)"
    )
    yield kernel


def test_a_model_is_registered_and_moved(kernel: Kernel) -> None:
    listed = kernel.run("%tfserve devices").text
    assert "cpu:1" in listed and "Simulated device cpu:2" in listed
    assert "No NVIDIA driver is installed on this machine." in listed
    kernel.run("%tfserve register double double --example rows --device cpu:1")
    assert "double is served on cpu:1 (asked for: cpu:1)." in kernel.run("%tfserve device double").text
    assert "double is served on cpu:2 (asked for: cpu:2)." in kernel.run("%tfserve device double cpu:2").text
    assert "array([2., 4.])" in kernel.run("%tfserve predict double rows").text
    moved = kernel.run("%tfserve device double --replicas 2").text
    assert "(asked for: cpu:2, 2 replicas)" in moved
    row = next(line for line in kernel.run("%tfserve devices").text.splitlines() if " cpu:2 " in line)
    assert row.rstrip().endswith("double")
    assert "Loading version" in kernel.run("%tfserve logs --process cpu:2@2").printed


def test_the_same_in_python(kernel: Kernel) -> None:
    kernel.run(
        "from jupyter_tfserve import connect\n"
        "endpoint = connect()\n"
        "status = endpoint.set_device('double', 'cpu:1', replicas=1)\n"
        "assert status['placement']['device'] == 'cpu:1', status\n"
        "assert [d['id'] for d in endpoint.devices().devices] == ['cpu', 'cpu:1', 'cpu:2']"
    )
    html = kernel.run("endpoint.devices()").shown[-1]["text/html"]
    assert "aria-label='Devices'" in html and "<td" in html


def test_what_is_refused(kernel: Kernel) -> None:
    for line, message in (
        ("%tfserve device double gpu:3", "There is no device 'gpu:3'"),
        ("%tfserve device double --memory-limit much", "'much' is no size"),
        ("%tfserve device nosuch cpu:1", "There is no model 'nosuch'"),
        ("%tfserve device", "needs a name"),
    ):
        error = "\n".join(kernel.run(line, fails=True).error)
        assert message in error, error


def test_completion_knows_the_devices(kernel: Kernel) -> None:
    kernel.run("%tfserve devices")

    def complete(code: str) -> list[str]:
        matches: list[str] = kernel.client.complete(code, len(code), reply=True, timeout=60)["content"]["matches"]
        return matches

    assert {"auto", "cpu", "cpu:1"} <= set(complete("%tfserve device double "))
    assert "double" in complete("%tfserve device ")
    assert "--replicas" in complete("%tfserve device double --re")


def test_sizes() -> None:
    assert size("4G") == 4 * 2**30 and size("512MiB") == 512 * 2**20 and size("100") == 100 and size("none") is None
    with pytest.raises(UsageError):
        size("4 parrots")
    assert size_text(3 * 2**29) == "1.5 GiB" and size_text(10) == "10 B"

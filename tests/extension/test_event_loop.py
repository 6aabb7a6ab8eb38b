"""Large bodies through Jupyter leave its event loop to the kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_process import JupyterServer

from benchmarks.kernel_echo import EchoingKernel

#: Seconds of processor time that one turn of the loop may take: nobody feels them in a kernel's echo. By the clock
#: other processes of the machine count too: `benchmarks/soak.py jupyter` tells that, on a machine that is ours alone.
MOST = 0.020

SIZE = 100_000_000


def measure(jupyter: JupyterServer, kernel: EchoingKernel, work: Callable[[], Any]) -> dict[str, float]:
    jupyter.call("GET", "/loop_lag")
    echoes = kernel.during(work)
    seen = jupyter.call("GET", "/loop_lag").json
    return {"echoes": len(echoes), "ticks": seen["ticks"], "busy": seen["busy"][0]}


def test_a_large_body_does_not_hold_up_the_loop(start_jupyter: Callable[..., JupyterServer], models: Path) -> None:
    """100 MB up, 100 MB up and down, while a kernel echoes: no turn of the loop takes 20 ms, there are many, and echoes
    come before the answer does.
    """
    jupyter = start_jupyter(extensions={"tests.extension.loop_lag": True})
    jupyter.register(models / "echo" / "1", "echo")
    path = "/tfserve/v1/models/echo:predict"
    kernel = EchoingKernel(f"http://127.0.0.1:{jupyter.port}", jupyter.token)
    idle = measure(jupyter, kernel, lambda: time.sleep(1))
    assert idle["ticks"] > 50, idle

    def up() -> None:
        body = b'{"signature_name": "float32", "inputs": [1.5]' + b" " * SIZE + b"}"
        assert jupyter.call("POST", path, body).json == {"outputs": [1.5]}

    def both_ways() -> None:
        text = b"a" * SIZE
        answer = jupyter.call("POST", path, b'{"signature_name": "string", "inputs": ["%b"]}' % text)
        assert answer.status == 200, answer
        assert len(answer.body) > SIZE and text in answer.body

    for work in (up, both_ways):
        seen = measure(jupyter, kernel, work)
        assert seen["ticks"] > 50, seen
        assert seen["echoes"] > 2, seen
        assert seen["busy"] < MOST, seen
    kernel.close()

"""Large bodies through Jupyter leave its event loop to the kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_process import JupyterServer

#: Seconds that one turn of the loop may take: nobody feels them in a kernel's echo.
MOST = 0.020

SIZE = 100_000_000


def measure(jupyter: JupyterServer, work: Callable[[], Any]) -> dict[str, float]:
    jupyter.call("GET", "/loop_lag")
    work()
    seen = jupyter.call("GET", "/loop_lag").json
    return {"ticks": seen["ticks"], **{name: seen[name][0] for name in ("late", "busy", "p99")}}


def test_a_large_body_does_not_hold_up_the_loop(start_jupyter: Callable[..., JupyterServer], models: Path) -> None:
    """100 MB up, 100 MB up and down: no turn of the loop takes 20 ms, and it has many."""
    jupyter = start_jupyter(extensions={"tests.extension.loop_lag": True})
    jupyter.register(models / "echo" / "1", "echo")
    path = "/tfserve/v1/models/echo:predict"
    idle = measure(jupyter, lambda: time.sleep(1))
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
        seen = measure(jupyter, work)
        assert seen["ticks"] > 50, seen
        assert seen["busy"] < MOST, seen
        # By the clock other processes on the machine count too, so it is compared with a loop that has nothing to do.
        assert seen["p99"] < MOST + idle["late"], (seen, idle)

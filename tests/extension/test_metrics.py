"""What Jupyter Server's own /metrics shows of the model server."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path

import psutil
from jupyter_process import JupyterServer
from prometheus_client import CollectorRegistry, generate_latest

from jupyter_tfserve.extension.metrics import LIMIT_SECONDS, ModelServerCollector

RUNS = re.compile(
    r'^jupyter_tfserve_run_microseconds_count\{model_name="affine",signature="serving_default",version="1"\} (\S+)$',
    re.MULTILINE,
)


def page(jupyter: JupyterServer) -> str:
    answer = jupyter.call("GET", "/metrics")
    assert answer.status == 200, answer
    return answer.body.decode()


def runs(text: str) -> float:
    found = RUNS.search(text)
    return float(found[1]) if found else 0.0


def test_the_model_servers_figures_are_on_jupyters_page(jupyter: JupyterServer) -> None:
    before = runs(page(jupyter))
    for _ in range(3):
        assert jupyter.call("POST", "/tfserve/v1/models/affine:predict", {"instances": [1.0]}).status == 200
    text = page(jupyter)
    assert runs(text) == before + 3
    assert 'jupyter_tfserve_loads_total{model_name="affine",status="OK",version="1"} 1.0' in text
    assert ":tensorflow:" not in text
    assert "jupyter_tfserve_requests_total" in text  # the extension's own


def test_a_model_server_that_hangs_is_left_out_soon(jupyter: JupyterServer) -> None:
    process = psutil.Process(jupyter.info()["pid"])
    process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        text = page(jupyter)
        took = time.monotonic() - began
    finally:
        process.send_signal(signal.SIGCONT)
    assert RUNS.search(text) is None
    assert "jupyter_tfserve_requests_total" in text
    assert took < 20 * LIMIT_SECONDS, took


def test_nothing_runs(tmp_path: Path) -> None:
    asked = threading.Event()
    registry = CollectorRegistry()
    registry.register(ModelServerCollector(tmp_path / "none", lambda: asked.set() or True))
    assert not asked.is_set(), "registering must not ask"
    assert generate_latest(registry) == b""
    assert asked.is_set()

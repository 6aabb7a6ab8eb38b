"""Devices and workers through a Jupyter Server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from fronts import SIMULATED
from helpers import PATIENCE, wait_for
from jupyter_process import JupyterServer

from jupyter_tfserve.client import TFServeError


def test_devices_are_listed_while_no_model_server_runs(start_jupyter: Callable[..., JupyterServer]) -> None:
    jupyter = start_jupyter(env=SIMULATED)
    client = jupyter.client()
    devices = client.devices()
    assert [device["id"] for device in devices["devices"]] == ["cpu", "cpu:1", "cpu:2"]
    assert devices["notice"] == "No NVIDIA driver is installed on this machine."
    state = client.state()
    assert state["processes"] == [] and psutil.Process(jupyter.process.pid).children() == []
    client.close()


def test_one_device_is_one_process(jupyter: JupyterServer) -> None:
    client = jupyter.client()
    state = client.state()
    [process] = state["processes"]
    assert state["server"] is not None
    assert (process["id"], process["device"], process["pid"]) == ("server", "cpu", state["server"]["pid"])
    assert psutil.Process(process["pid"] or 0).children() == []
    [affine] = [model for model in state["models"] if model["name"] == "affine"]
    assert affine["placement"]["device"] == "auto" and affine["versions"][0]["devices"] == ["cpu"]
    assert "affine" in client.devices()["devices"][0]["models"]
    with pytest.raises(TFServeError, match="this model server is one process") as refused:
        client.set_device("affine", {"replicas": 2})
    assert "TFServe.workers = 'always'" in refused.value.remedy
    client.close()


def test_a_move_through_jupyter(start_jupyter: Callable[..., JupyterServer], models: Path) -> None:
    jupyter = start_jupyter(env=SIMULATED)  # two devices and more: the default is workers
    jupyter.register(models / "affine" / "1", "affine")
    client = jupyter.client()
    status = client.set_device("affine", {"device": "cpu:2"}, timeout=PATIENCE)
    assert status["versions"][0]["devices"] == ["cpu:2"], status
    wait_for("the old worker to end", lambda: len(client.state()["processes"]) == 2)
    server, worker = client.state()["processes"]
    assert (server["id"], server["device"]) == ("server", "")
    assert (worker["id"], worker["models"]) == ("cpu:2", ["affine"])
    assert client.predict("affine", {"instances": [1.0]}) == {"predictions": [2.0]}
    assert "Loading version" in client.logs(process="cpu:2")
    assert "Starting the worker cpu:2" in client.logs()
    with pytest.raises(TFServeError, match="There is no worker 'gpu:7'"):
        client.logs(process="gpu:7")
    worker_process = psutil.Process(worker["pid"] or 0)
    client.close()
    jupyter.end()
    wait_for("the worker's end", lambda: not worker_process.is_running())


def test_workers_always(start_jupyter: Callable[..., JupyterServer], models: Path) -> None:
    jupyter = start_jupyter("--TFServe.workers=always", "--TFServe.isolation=model")
    jupyter.register(models / "affine" / "1", "affine")
    client = jupyter.client()
    assert [process["id"] for process in client.state()["processes"]] == ["server", "cpu/affine"]
    client.close()

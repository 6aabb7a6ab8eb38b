"""A Jupyter Server for the panels, and panels that follow it, in this process: real widgets without a front end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_for
from jupyter_process import JupyterServer
from panels import serve

from jupyter_tfserve.kernel.endpoint import JupyterEndpoint
from jupyter_tfserve.kernel.finding import Found
from jupyter_tfserve.kernel.panel import Panel


@pytest.fixture(scope="session")
def jupyter(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """Serves "affine" in three versions: y = x + version."""
    one = JupyterServer(tmp_path_factory.mktemp("jupyter"))
    try:
        one.wait_until_ready()
        serve(one, models, "affine")
        yield one
    finally:
        one.close()


@pytest.fixture
def endpoint(jupyter: JupyterServer) -> Iterator[JupyterEndpoint]:
    one = JupyterEndpoint(
        Found(f"http://127.0.0.1:{jupyter.port}/tfserve", jupyter.token, "a test", jupyter.process.pid)
    )
    yield one
    one.close()


@pytest.fixture
def show(endpoint: JupyterEndpoint) -> Iterator[Callable[..., Panel]]:
    """Makes a panel and displays it; waits until it knows what is served. It is closed after the test."""
    made: list[Panel] = []

    def begin(name: str | None = None, **more: Any) -> Panel:
        panel = Panel(name, endpoint=more.get("endpoint", endpoint))
        made.append(panel)
        panel._repr_mimebundle_()
        wait_for("the panel to know the model", lambda: panel.status is not None)
        with panel._lock:  # and to show it
            return panel

    yield begin
    for panel in made:
        panel.close()
    for panel in made:
        wait_for("the panel's threads to end", lambda panel=panel: not panel.following)  # type: ignore[misc]

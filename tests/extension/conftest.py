"""Jupyter Servers with the extension: one for all tests, and fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_process import JupyterServer


@pytest.fixture
def start_jupyter(tmp_path: Path) -> Iterator[Callable[..., JupyterServer]]:
    """Starts a Jupyter Server, in a home of the test or in ``home=``; what still runs at the test's end is killed."""
    started: list[JupyterServer] = []

    def begin(*flags: str, home: str = "home", **more: Any) -> JupyterServer:
        one = JupyterServer(tmp_path / home, *flags, **more)
        started.append(one)
        return one.wait_until_ready()

    yield begin
    for one in started:
        one.close()


@pytest.fixture(scope="session")
def jupyter(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """A Jupyter Server that the tests share, under a base URL that needs care; it serves some models.

    A test that changes something takes a model name of its own; none stops the model server.
    """
    one = JupyterServer(
        tmp_path_factory.mktemp("jupyter"), "--TFServe.max_body_size=33554432", base_url="/user/z%C3%A9%20b/"
    )
    try:
        one.wait_until_ready()
        for name in ("several", "echo", "gated"):
            one.register(models / name / "1", name)
        one.register(models / "affine" / "1", "affine")
        yield one
    finally:
        one.close()

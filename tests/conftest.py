"""What the tests of several wings share: small SavedModels, and `tfserve` processes that serve them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import StoreServer, Tfserve, environment, publish


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of base paths: see `make_models.py`. Not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).with_name("make_models.py")
    subprocess.run([sys.executable, script, folder], check=True, env=environment(), stderr=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A store's server that all tests share: it serves the models that need no special care, under their names.

    A test that changes something takes a model name of its own.
    """
    one = StoreServer(tmp_path_factory.mktemp("server"))
    try:
        one.wait_until_ready()
        for name in ("several", "echo", "gated", "tf1", "keras_export", "keras_saved"):
            publish(models / name / "1", one.store / name, 1)
        publish(models / "affine" / "1", one.store / "affine", 1)
        with one.client() as client:
            for name in ("several", "echo", "gated", "tf1", "keras_export", "keras_saved", "affine"):
                client.register(name, {})
            for name in ("several", "echo", "gated", "tf1", "keras_export", "keras_saved", "affine"):
                status = client.model(name, wait=1, timeout=60)
                assert status["versions"][0]["state"] == "AVAILABLE", status
        yield one
    finally:
        one.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Tfserve]]:
    """Starts `tfserve` by hand, with the flags given, in a folder of the test; what still runs at its end is killed."""
    started: list[Tfserve] = []

    def begin(*flags: str, **more: Any) -> Tfserve:
        one = Tfserve(tmp_path / f"tfserve-{len(started)}", *flags, **more)
        started.append(one)
        return one

    yield begin
    for one in started:
        one.close()


@pytest.fixture
def start_store(tmp_path: Path) -> Iterator[Callable[..., StoreServer]]:
    """The same with a store; ``store=`` names it where several servers are to have the same one."""
    started: list[StoreServer] = []

    def begin(*flags: str, **more: object) -> StoreServer:
        one = StoreServer(tmp_path / f"server-{len(started)}", *flags, **more)  # type: ignore[arg-type]
        started.append(one)
        return one

    yield begin
    for one in started:
        one.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; skips the test where this user may mount none."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={24 << 20}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"a full disk needs a mount, which is not allowed here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)

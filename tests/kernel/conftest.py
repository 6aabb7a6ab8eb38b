"""What the kernel's tests share: an environment of their own, a model server, small SavedModels, IPython kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel

from jupyter_tfserve.kernel.endpoint import OwnedEndpoint

_ENVIRONMENT = (
    "JUPYTER_TFSERVE_URL JUPYTER_TFSERVE_ENDPOINT JUPYTER_TFSERVE_STORE JUPYTER_TOKEN JPY_PARENT_PID JPY_SESSION_NAME "
    "JUPYTERHUB_SERVICE_PREFIX JUPYTERHUB_PUBLIC_URL JUPYTERHUB_HOST"
).split()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the Jupyter of who runs it."""
    for name in _ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    return tmp_path


@pytest.fixture(scope="session")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnedEndpoint]:
    """A model server owned by this process."""
    folder = tmp_path_factory.mktemp("owned")
    endpoint = OwnedEndpoint("the tests want it", folder / "store", folder / "runtime")
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel folder: y = 2 x."""
    from jupyter_tfserve.kernel.export import export

    folder = tmp_path_factory.mktemp("saved_model")
    export(lambda x: x * 2.0, folder, example=np.ones(2, np.float32))
    return folder


class Kernel:
    """A real kernel, with what a cell did."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.manager: KernelManager
        self.manager, self.client = start_new_kernel(
            kernel_name="python3", env={**os.environ, **environment}, cwd=str(folder)
        )

    def run(self, code: str, fails: bool = False, timeout: float = 90.0) -> Cell:
        """Execute a cell; raises unless it ends as expected."""
        messages: list[dict[str, Any]] = []
        reply = self.client.execute_interactive(code, timeout=timeout, output_hook=messages.append, stop_on_error=False)
        cell = Cell(reply["content"], messages)
        assert (cell.reply["status"] == "error") == fails, cell
        return cell

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


class Cell:
    """What a cell showed, updates of displays applied."""

    def __init__(self, reply: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        self.reply = reply
        self.shown: list[dict[str, Any]] = []
        self.printed = ""
        self.error: list[str] = []
        at: dict[str, int] = {}
        for message in messages:
            kind, content = message["msg_type"], message["content"]
            key = content.get("transient", {}).get("display_id", "")
            if kind == "update_display_data":
                self.shown[at[key]] = content["data"]
            elif kind in ("display_data", "execute_result"):
                at[key] = len(self.shown)
                self.shown.append(content["data"])
            elif kind == "stream" and content["name"] == "stdout":
                self.printed += content["text"]
            elif kind == "error":
                self.error = content["traceback"]

    @property
    def text(self) -> str:
        """Everything that was shown, as text."""
        return "\n".join([*(data.get("text/plain", "") for data in self.shown), self.printed])

    def __repr__(self) -> str:
        return f"{self.reply}\n{self.text}\n{self.error}"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel without a Jupyter Server, with the extension loaded."""
    folder = tmp_path_factory.mktemp("kernel")
    with pytest.MonkeyPatch.context() as patch:
        for name in _ENVIRONMENT:
            patch.delenv(name, raising=False)
        environment = {
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])),
        }
        one = Kernel(environment, folder)
        yield one
        one.close()

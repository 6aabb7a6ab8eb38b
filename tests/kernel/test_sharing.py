"""`%tfserve share` from a kernel: what it says, what it keeps to itself, and the notebook for the receiver."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from helpers import PATIENCE, environment
from jupyter_process import JupyterServer

from jupyter_tfserve.kernel.endpoint import JupyterEndpoint
from jupyter_tfserve.kernel.errors import KernelError
from jupyter_tfserve.kernel.finding import Found
from jupyter_tfserve.kernel.sharing import per_second, seconds


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    one = JupyterServer(tmp_path_factory.mktemp("sharing"))
    try:
        one.wait_until_ready()
        for name in ("affine", "several"):
            one.register(models / name / "1", name)
        yield one
    finally:
        one.close()


@pytest.fixture
def endpoint(server: JupyterServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JupyterEndpoint]:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    one = JupyterEndpoint(Found(f"http://127.0.0.1:{server.port}/tfserve", server.token, "the test says so"))
    yield one
    one.close()


def test_a_key_is_kept_from_the_notebook(endpoint: JupyterEndpoint, server: JupyterServer) -> None:
    shared = endpoint.share("affine", note="for <Ann>", rate=10.0, concurrency=2)
    shown = [shared._repr_html_(), repr(shared), endpoint.shares()._repr_html_(), repr(endpoint.shares())]
    assert all(shared.key not in text for text in shown)
    assert "10 requests/s, 2 at once" in shown[1] and "for <Ann>" in shown[3] and "for &lt;Ann&gt;" in shown[2]
    file = Path(shared.key_file)
    assert file.read_text() == shared.key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    done = subprocess.run(
        shared.curl, shell=True, env={**os.environ, "TFSERVE_TOKEN": shared.key}, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == {"predictions": [1.0]}, done
    endpoint.unshare(shared.share["id"])
    assert shared.share["id"] not in repr(endpoint.shares())
    assert not file.exists()


@pytest.mark.parametrize("name", ["affine", "several"])
def test_the_client_notebook_runs_with_pythons_own_library(
    endpoint: JupyterEndpoint, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "client.ipynb"
    shared = endpoint.share(name, notebook=str(path), versions=[1] if name == "affine" else [])
    assert shared.key not in path.read_text()
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")

    def run(token: str) -> subprocess.CompletedProcess[str]:
        source = code + "\nimport json; print(json.dumps(answer))"
        env = {**environment(), "TFSERVE_TOKEN": token}
        # -I: no package of this environment is found, as on a machine that has none
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", source], env=env, capture_output=True, text=True, timeout=PATIENCE
        )

    done = run(shared.key)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)["outputs"]
    assert answer == ([1.0] if name == "affine" else {"product": [0], "label": ["0"], "raw_bytes": [{"b64": "MA=="}]})
    assert "401: " in run("wrong").stderr
    assert "Set the environment variable TFSERVE_TOKEN first." in run("").stderr
    with pytest.raises(KernelError, match="exists already"):
        endpoint.share(name, notebook=str(path))


def test_times_and_rates() -> None:
    assert [seconds(text) for text in ("7d", "12h", "1.5m", "never")] == [604800, 43200, 90, None]
    assert [per_second(text) for text in ("100/s", "60/m", "7", "3600/h")] == [100, 1, 7, 1]
    for text in ("", "7", "-1d", "0d", "soon"):
        with pytest.raises(KernelError, match="no time"):
            seconds(text)
    for text in ("", "0/s", "fast", "1/y"):
        with pytest.raises(KernelError, match="no rate"):
            per_second(text)

"""The endpoint through a real Jupyter Server that has the extension."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import nbformat
import numpy as np
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from nbformat.v4 import new_code_cell, new_notebook

from jupyter_tfserve.kernel import lineage
from jupyter_tfserve.kernel.endpoint import JupyterEndpoint, OwnedEndpoint, connect
from jupyter_tfserve.kernel.errors import KernelError
from jupyter_tfserve.kernel.finding import Found, NotFound, find
from jupyter_tfserve.kernel.upload import PART
from jupyter_tfserve.store import Store, versions_in

from .conftest import Cell

TOKEN = "a-token-of-the-tests"
ROWS = np.array([1.0, 2.0], np.float32)


@dataclass(frozen=True)
class Jupyter:
    """A Jupyter Server process."""

    pid: int
    url: str  #: with base_url and a slash
    runtime: Path
    root: Path
    store: Store

    @property
    def endpoint_file(self) -> Path:
        """What the extension writes for the kernels."""
        return self.runtime / f"jupyter_tfserve-{self.pid}.json"


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    folder = tmp_path_factory.mktemp("jupyter")
    root = folder / "root"
    root.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_"))}
    environment |= {
        "HOME": str(folder),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "IPYTHONDIR": str(folder / "ipython"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"),
                *("--ServerApp.base_url=/base/", f"--IdentityProvider.token={TOKEN}", "--allow-root"),
                *("--ServerApp.open_browser=False", f"--ServerApp.root_dir={root}"),
                "--ServerApp.jpserver_extensions={'jupyter_tfserve': True}",
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            record = folder / "runtime" / f"jpserver-{process.pid}.json"
            ours = folder / "runtime" / f"jupyter_tfserve-{process.pid}.json"
            until = time.monotonic() + 30
            while not (record.exists() and ours.exists() and record.read_text() and ours.read_text()):
                assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.05)
            url = json.loads(record.read_text())["url"]
            yield Jupyter(process.pid, url, folder / "runtime", root, Store(folder / "data" / "tfserve"))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="module")
def endpoint(jupyter: Jupyter) -> Iterator[JupyterEndpoint]:
    found = connect(jupyter.url, TOKEN)
    assert isinstance(found, JupyterEndpoint)
    yield found
    found.close()


def test_found_by_the_file_that_the_extension_names(jupyter: Jupyter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_TFSERVE_ENDPOINT", str(jupyter.endpoint_file))
    found = find()
    assert isinstance(found, Found)
    assert (found.url, found.pid) == (jupyter.url + "tfserve", jupyter.pid)
    assert jupyter.endpoint_file.stat().st_mode & 0o77 == 0
    assert TOKEN not in jupyter.endpoint_file.read_text(), "kernels get a key of their own"


def test_found_by_the_parent_where_the_environment_says_nothing(
    jupyter: Jupyter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(jupyter.runtime))
    assert isinstance(find(), NotFound), "some Jupyter Server is not the one that started this kernel"
    monkeypatch.setenv("JPY_PARENT_PID", str(jupyter.pid))
    found = find()
    assert isinstance(found, Found) and found.pid == jupyter.pid


def test_a_dead_process_is_not_asked(jupyter: Jupyter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port may belong to somebody else by now, who would get the key."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    record = json.loads(jupyter.endpoint_file.read_text()) | {"pid": dead.pid}
    (tmp_path / "endpoint.json").write_text(json.dumps(record))
    monkeypatch.setenv("JUPYTER_TFSERVE_ENDPOINT", str(tmp_path / "endpoint.json"))
    found = find()
    assert isinstance(found, NotFound) and "is gone" in found.why


def test_found_by_name(jupyter: Jupyter, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = jupyter.url + "tfserve"
    for url in (
        jupyter.url,
        jupyter.url + "lab/tree/x.ipynb",
        jupyter.url + "tfserve",
        jupyter.url + "?token=" + TOKEN,
    ):
        found = find(url, "" if "token=" in url else TOKEN)
        assert isinstance(found, Found) and found.url == expected
    monkeypatch.setenv("JUPYTER_TFSERVE_URL", jupyter.url)
    monkeypatch.setenv("JUPYTER_TOKEN", TOKEN)
    assert isinstance(find(), Found)


def test_what_was_named_must_answer(jupyter: Jupyter) -> None:
    with pytest.raises(KernelError, match="refuses the token"):
        find(jupyter.url, "wrong")
    with pytest.raises(KernelError, match="does not answer"):
        find("http://127.0.0.1:9/", TOKEN)
    with pytest.raises(KernelError, match="not an address"):
        find("jupyter", TOKEN)
    with pytest.raises(KernelError, match="does not have the extension"):
        find(jupyter.url.removesuffix("base/"), TOKEN)


def test_without_a_jupyter_server_the_kernel_owns_one() -> None:
    endpoint = connect()
    assert isinstance(endpoint, OwnedEndpoint)
    assert "was not started by a Jupyter Server" in endpoint.why
    assert connect() is endpoint
    assert endpoint.overview().state["models"] == []
    endpoint.close()


def test_register_through_jupyter(jupyter: Jupyter, endpoint: JupyterEndpoint) -> None:
    done = endpoint.register("double", lambda x: x * 2.0, example=ROWS, labels=["stable"])
    assert done.url == jupyter.url + "tfserve/v1/models/double"
    assert done.version in versions_in(jupyter.store.model("double"))
    assert done.address.grpc and done.address.rest
    assert endpoint.predict("double", ROWS, label="stable").tolist() == [2.0, 4.0]
    curl = next(line for line in str(done).splitlines() if "curl -s" in line).split(maxsplit=1)[1]
    assert TOKEN not in str(done) + done._repr_html_()
    answer = subprocess.run(
        curl, shell=True, capture_output=True, timeout=30, check=True, env={**os.environ, "JUPYTER_TOKEN": TOKEN}
    )
    assert json.loads(answer.stdout) == {"predictions": [2.0]}
    direct = f"http://{done.address.rest}/v1/models/double:predict"
    bearer = {"Authorization": "Bearer " + Path(done.address.token_file).read_text()}
    assert httpx.post(direct, json={"instances": [3.0]}, headers=bearer, timeout=30).json() == {"predictions": [6.0]}


def test_start_stop_and_logs(jupyter: Jupyter, endpoint: JupyterEndpoint, saved_model: Path) -> None:
    endpoint.register("kept", saved_model)
    assert endpoint.stop()["state"] == "stopped"
    assert endpoint.start()["state"] == "running"
    assert endpoint.predict("kept", ROWS).tolist() == [2.0, 4.0]
    assert endpoint.logs(5)
    assert [model["name"] for model in endpoint.overview().state["models"]].count("kept") == 1
    endpoint.remove("kept")
    assert not jupyter.store.model("kept").exists()


def test_notebook_of_a_session(jupyter: Jupyter, saved_model: Path) -> None:
    """A kernel that Jupyter Server starts for a notebook finds everything by itself."""
    notebook = jupyter.root / "work.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 + 1")]), notebook)
    headers = {"Authorization": f"token {TOKEN}"}
    body = {"path": "work.ipynb", "name": "work.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
    session = httpx.post(jupyter.url + "api/sessions", json=body, headers=headers, timeout=60).json()
    client = BlockingKernelClient(connection_file=str(jupyter.runtime / f"kernel-{session['kernel']['id']}.json"))
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(60)
        messages: list[dict[str, object]] = []
        code = f"%load_ext jupyter_tfserve\nfolder = {str(saved_model)!r}\n%tfserve from_notebook folder"
        reply = client.execute_interactive(code, timeout=90, output_hook=messages.append)
        cell = Cell(reply["content"], messages)
    finally:
        client.stop_channels()
        httpx.delete(jupyter.url + f"api/sessions/{session['id']}", headers=headers, timeout=60)
    assert "are served by the Jupyter Server" in cell.text and "because it started this kernel" in cell.text
    assert jupyter.url + "tfserve/v1/models/from_notebook" in cell.text
    (version,) = versions_in(jupyter.store.model("from_notebook")).values()
    record = lineage.read(version)
    assert record is not None
    assert (record["notebook"], record["expression"]) == (str(notebook), "folder")
    for kept in (lineage.CELLS, lineage.NOTEBOOK):
        nbformat.validate(nbformat.read(version / kept, as_version=4))
    assert record["copied_from"] == str(saved_model)
    assert "%tfserve from_notebook folder" in (version / lineage.CELLS).read_text()


class Cutting:
    """A connection between kernel and server that breaks, several times, after a number of bytes."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._port = port
        self.cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        sent = 0
        try:
            while data := source.recv(65536):
                sent += len(data)
                if counts and self.cuts and sent > self.cuts[0]:
                    self.cuts.pop(0)
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # ends the other direction's loop too, which closes its own source
        source.close()


def test_remote_kernel_uploads_over_a_connection_that_breaks(
    jupyter: Jupyter, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved_model, model)
    (model / "assets").mkdir(exist_ok=True)
    (model / "assets" / "empty").touch()
    (model / "assets" / "large").write_bytes(os.urandom(3 * PART + 17))
    link = Cutting(urlsplit(jupyter.url).port or 0, [2 * PART, PART // 2])
    endpoint = connect(f"http://127.0.0.1:{link.port}/base/", TOKEN)
    # What the kernel reads under the store's path on a machine of its own: not this store.
    monkeypatch.setattr(Store, "id", property(lambda store: ""))
    lines: list[str] = []
    shutil.copytree(saved_model, tmp_path / "base" / "1")
    with pytest.raises(KernelError, match="another machine"):
        endpoint.register("far", tmp_path / "base")
    done = endpoint.register("far", model, progress=lines.append)
    assert endpoint.predict("far", ROWS).tolist() == [2.0, 4.0]
    endpoint.close()
    link.close()
    assert link.cuts == []
    assert any("trying again" in line for line in lines) and any("(100 %)" in line for line in lines)
    version = jupyter.store.model("far") / str(done.version)
    assert (version / "assets" / "large").read_bytes() == (model / "assets" / "large").read_bytes()
    assert (version / "assets" / "empty").exists()
    assert lineage.read(version) is not None
    assert not list(jupyter.store.staging.glob("*/version"))

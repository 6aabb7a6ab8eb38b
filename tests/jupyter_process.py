"""Real Jupyter Servers with the extension, in processes of their own: for the tests of several wings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from helpers import PATIENCE, Answer, call, environment, free_ports, publish, wait_for

from jupyter_tfserve.api import Event, ServerInfo, State
from jupyter_tfserve.client import Client

TOKEN = "a-token-of-the-tests"

#: What a test without a wish of its own shows.
HEADERS = {"Authorization": f"token {TOKEN}"}


class JupyterServer:
    """A Jupyter Server process with just this extension; `folder` is its home. With `sock` it
    listens there alone; with `ports_of` its model server is to have the ports of another one's. `extensions` are
    switched on or off beside it, `env` is added to its environment.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        base_url: str = "/",
        token: str = TOKEN,
        sock: Path | None = None,
        ports_of: JupyterServer | None = None,
        extensions: Mapping[str, bool] | None = None,
        env: Mapping[str, str] | None = None,
        store: Path | None = None,
    ) -> None:
        self.folder = folder
        self.store = store or folder / "store"
        self.runtime = folder / "runtime"
        self.base_url = base_url
        self.token = token
        self._sock = sock
        self.port, self.grpc_port, self.rest_port = free_ports(3)
        if ports_of is not None:
            self.grpc_port, self.rest_port = ports_of.grpc_port, ports_of.rest_port
        self.log = folder / "jupyter.log"
        self._begin = self.log.stat().st_size if self.log.exists() else 0
        for name in ("root", "config"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        enabled = {"jupyter_tfserve": True, "jupyterlab": False, "notebook": False, "jupyter_lsp": False}
        enabled.update(extensions or {})
        command = [
            sys.executable,
            "-m",
            "jupyter_server",
            "--no-browser",
            "--allow-root",
            *(
                (f"--ServerApp.sock={sock}",)
                if sock
                else (f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0")
            ),
            f"--ServerApp.base_url={base_url}",
            f"--ServerApp.root_dir={folder / 'root'}",
            f"--ServerApp.jpserver_extensions={enabled}",
            f"--IdentityProvider.token={token}",
            f"--TFServe.store={self.store}",
            f"--TFServe.grpc_port={self.grpc_port}",
            f"--TFServe.rest_port={self.rest_port}",
            *flags,
        ]
        more = {
            "HOME": str(folder),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
        }
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**environment(), **more, **(env or {})},
            )

    def said(self) -> str:
        """The log."""
        with open(self.log, "rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    @property
    def endpoint_file(self) -> Path:
        return self.runtime / f"jupyter_tfserve-{self.process.pid}.json"

    @property
    def own_runtime(self) -> Path:
        return self.runtime / f"tfserve-{self.process.pid}"

    def wait_until_ready(self) -> JupyterServer:
        """Wait until it says where its kernels find us, and answers."""

        def ready() -> bool:
            assert self.process.poll() is None, self.said()
            if not self.endpoint_file.exists():
                return False
            if self._sock:
                return self._sock.exists()
            try:
                return self.call("GET", "/tfserve/api/state").status < 500
            except OSError:
                return False

        wait_for("the Jupyter Server to start", ready)
        return self

    @property
    def owner_key(self) -> str:
        key: str = json.loads(self.endpoint_file.read_text())["token"]
        return key

    def call(
        self, verb: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = PATIENCE
    ) -> Answer:
        """One request, with the token unless `headers` are given; `path` follows the base URL."""
        shown = {"Authorization": f"token {self.token}"} if headers is None else headers
        return call(self.port, verb, self.base_url.rstrip("/") + path, body, shown, timeout)

    def client(self) -> Client:
        """The management client; the caller closes it."""
        return Client(f"http://127.0.0.1:{self.port}{self.base_url}tfserve", self.token)

    def state(self) -> State:
        answer = self.call("GET", "/tfserve/api/state")
        assert answer.status == 200, answer
        state: State = answer.json
        return state

    def info(self) -> ServerInfo:
        info = self.state()["server"]
        assert info is not None
        return info

    def register(self, source: Path, name: str, version: int = 1) -> None:
        """Publish a SavedModel and wait until it answers."""
        publish(source, self.store / name, version)
        client = self.client()
        try:
            client.register(name, {})
            status = client.model(name, wait=version, timeout=PATIENCE)
        finally:
            client.close()
        assert {v["version"]: v["state"] for v in status["versions"]}[version] == "AVAILABLE", status

    def wait_running(self) -> ServerInfo:
        def running() -> ServerInfo | None:
            info = self.info()
            assert info["state"] != "failed", info
            return info if info["state"] == "running" else None

        found = wait_for("the model server to run", running)
        assert found is not None
        return found

    def processes(self) -> list[psutil.Process]:
        """What it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it however it is, and what it started."""
        if self.process.poll() is None:
            left = self.processes()
            self.process.kill()
            self.process.wait()
            psutil.wait_procs(left, PATIENCE)


def read_events(lines: Iterator[bytes], until: Callable[[Event], bool]) -> list[Event]:
    """Server-sent events up to the first that `until` is true of."""
    found: list[Event] = []
    for line in lines:
        if line.startswith(b"data: "):
            found.append(json.loads(line[6:]))
            if until(found[-1]):
                return found
    raise AssertionError(f"the stream ended: {found}")


def open_files(process: psutil.Process) -> int:
    """How many file descriptors a process has."""
    return len(os.listdir(f"/proc/{process.pid}/fd"))

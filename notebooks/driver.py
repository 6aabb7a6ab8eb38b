"""Executes a notebook the way a user does: in a kernel of a real Jupyter Server. Used by `demo.py` and by the tests.

The server is a process of its own with a random port and token, and its data, configuration and runtime folders are
temporary: what a user has at home is neither read nor changed.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import nbformat
import websocket
from nbformat import NotebookNode


class DriverError(Exception):
    """The server did not start, or a cell failed."""


class JupyterServer:
    """A Jupyter Server with this environment's extensions, serving `root`; a context manager that ends it."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.token = secrets.token_hex(24)
        self.url = ""  #: with a slash at its end, once started
        self._options = options
        self._home = tempfile.TemporaryDirectory(prefix="jupyter-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(headers={"Authorization": f"token {self.token}"}, trust_env=False, timeout=60)

    @property
    def home(self) -> Path:
        """The temporary folder with data, configuration, runtime files and the log."""
        return Path(self._home.name)

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> JupyterServer:
        folders = {name: self.home / name.lower() for name in ("CONFIG", "DATA", "RUNTIME")}
        environment = {
            **os.environ,
            **{f"JUPYTER_{name}_DIR": str(folder) for name, folder in folders.items()},
            "IPYTHONDIR": str(self.home / "ipython"),
            "JUPYTER_TOKEN": self.token,  # not on the command line, where every user of the machine could read it
        }
        with open(self.home / "log", "wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "jupyter_server"),
                    *(f"--ServerApp.root_dir={self.root}", "--ServerApp.port=0", "--no-browser", "--allow-root"),
                    *self._options,
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self.url = self._wait_for_url(folders["RUNTIME"] / f"jpserver-{self._process.pid}.json")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._home.cleanup()

    def log(self) -> str:
        """What the server has said so far."""
        return (self.home / "log").read_text(errors="replace")

    def call(self, verb: str, path: str, body: Any = None) -> Any:
        """Call the server's REST API; returns what the JSON answer says, None for an empty one."""
        response = self._http.request(verb, self.url + path, json=body)
        if response.is_error:
            raise DriverError(f"{verb} {path}: {response.status_code} {response.text}")
        return response.json() if response.content else None

    def _wait_for_url(self, info: Path, timeout: float = 60) -> str:
        """The server writes `info` when it listens; its answer to a first call says that it is ready."""
        assert self._process is not None
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise DriverError(f"The Jupyter Server ended with status {self._process.returncode}:\n{self.log()}")
            try:
                url: str = json.loads(info.read_text())["url"]
                self._http.get(f"{url}api/status").raise_for_status()
                return url
            except (OSError, ValueError, httpx.HTTPError):
                time.sleep(0.05)
        raise DriverError(f"The Jupyter Server did not answer within {timeout:.0f} s:\n{self.log()}")


class Kernel:
    """A kernel of a `JupyterServer`, started for a notebook as JupyterLab does it; a context manager that ends it."""

    def __init__(self, server: JupyterServer, notebook: str) -> None:
        self._server = server
        session = server.call(
            "POST",
            "api/sessions",
            {"path": notebook, "name": notebook, "type": "notebook", "kernel": {"name": "python3"}},
        )
        self._session = session["id"]
        self._id = session["kernel"]["id"]
        self._socket = websocket.create_connection(
            f"ws{server.url.removeprefix('http')}api/kernels/{self._id}/channels?session_id={self._session}",
            header=[f"Authorization: token {server.token}"],
            http_no_proxy=["*"],
        )

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()
        self._server.call("DELETE", f"api/sessions/{self._session}")

    def execute(self, code: str, timeout: float) -> tuple[list[NotebookNode], int | None]:
        """Run code; returns the outputs as nbformat has them and the execution count. An error is one of the outputs.

        Raises DriverError if the kernel takes longer than `timeout` seconds; it is interrupted then.
        """
        message_id = uuid.uuid4().hex
        self._send(message_id, "execute_request", {"code": code, "allow_stdin": False, "stop_on_error": True})
        cell = _Outputs()
        count: int | None = None
        replied = idle = False
        end = time.monotonic() + timeout
        while not (replied and idle):
            message = self._receive(end - time.monotonic())
            if message is None:
                self._server.call("POST", f"api/kernels/{self._id}/interrupt")
                raise DriverError(f"The cell took longer than {timeout:.0f} s:\n{code}")
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "execute_reply":
                replied, count = True, content.get("execution_count")
            elif kind == "status":
                idle = content["execution_state"] == "idle"
            else:
                cell.add(kind, content, message)
        return cell.outputs, count

    def _send(self, message_id: str, kind: str, content: dict[str, Any]) -> None:
        header = {"msg_id": message_id, "msg_type": kind, "username": "", "session": self._session, "version": "5.3"}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self._socket.send(json.dumps(message))

    def _receive(self, timeout: float) -> dict[str, Any] | None:
        """The next message; None when none comes in time."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                message = self._socket.recv()
            except websocket.WebSocketTimeoutException:
                return None
            except (websocket.WebSocketException, OSError) as error:
                raise DriverError(f"The connection to the kernel broke: {error}\n{self._server.log()}") from error
            if isinstance(message, str):  # messages with binary buffers belong to widgets
                received: dict[str, Any] = json.loads(message)
                return received
        return None


class _Outputs:
    """What a cell has said, kept as a front end keeps it: streams run together, displays are updated in place."""

    def __init__(self) -> None:
        self.outputs: list[NotebookNode] = []
        self._displays: dict[str, NotebookNode] = {}
        self._clear_before_next = False

    def add(self, kind: str, content: dict[str, Any], message: dict[str, Any]) -> None:
        if kind == "clear_output":
            self._clear_before_next = True
            if not content["wait"]:
                self._clear()
        elif kind == "stream":
            self._clear()
            last = self.outputs[-1] if self.outputs else None
            if last is not None and last.output_type == "stream" and last.name == content["name"]:
                last.text += content["text"]
            else:
                self.outputs.append(nbformat.v4.output_from_msg(message))
        elif kind in ("display_data", "execute_result", "error"):
            self._clear()
            output = nbformat.v4.output_from_msg(message)
            self.outputs.append(output)
            display = content.get("transient", {}).get("display_id")
            if display:
                self._displays[display] = output
        elif kind == "update_display_data":
            shown = self._displays.get(content.get("transient", {}).get("display_id"))
            if shown is not None:
                shown.update(data=content["data"], metadata=content["metadata"])

    def _clear(self) -> None:
        if self._clear_before_next:
            self._clear_before_next = False
            self.outputs.clear()
            self._displays.clear()


def execute(
    server: JupyterServer,
    notebook: str,
    timeout: float = 180,
    progress: Callable[[str, float], None] = lambda cell, seconds: None,
) -> NotebookNode:
    """Run a notebook of the server's root folder from its first to its last cell, and write it back with its outputs.

    `timeout` is for each cell, in seconds. `progress` hears each cell's first line and how long it took.
    Raises DriverError with the kernel's traceback if a cell fails; the notebook then ends with that cell's output.
    """
    path = server.root / notebook
    document: NotebookNode = nbformat.read(path, as_version=4)
    with Kernel(server, notebook) as kernel:
        for cell in document.cells:
            if cell.cell_type != "code":
                continue
            began = time.monotonic()
            cell.outputs, cell.execution_count = kernel.execute(cell.source, timeout)
            nbformat.write(document, path)
            failed = next((output for output in cell.outputs if output.output_type == "error"), None)
            if failed:
                raise DriverError("\n".join(failed.traceback))
            progress(cell.source.partition("\n")[0], time.monotonic() - began)
    return document

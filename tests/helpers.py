"""What the tests of several wings share: real model servers, real clients, waiting for conditions."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jupyter_tfserve.client import Client

ROOT = Path(__file__).parents[1]

#: Seconds that anything may take on a machine that has much else to do; a test that passes does not wait for it.
PATIENCE = 60.0

T = TypeVar("T")


def wait_for(what: str, condition: Callable[[], T], timeout: float = PATIENCE) -> T:
    """The first true value of `condition()`; fails with `what` was waited for."""
    end = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited {timeout:g} s in vain: {what}"
        time.sleep(0.01)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def publish(source: Path, base_path: Path, version: int) -> Path:
    """Copy a SavedModel and rename it into place as a version, as our magic does."""
    base_path.mkdir(parents=True, exist_ok=True)
    staged = base_path / f".staged-{version}"
    shutil.copytree(source, staged)
    return staged.rename(base_path / str(version))


class Answer:
    """An HTTP reply."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:500]!r}>"


def call(
    port: int, verb: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = PATIENCE
) -> Answer:
    """One HTTP request on a connection of its own; a body that is no bytes is sent as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(verb, path, data, headers or {})
        reply = connection.getresponse()
        return Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
    finally:
        connection.close()


class Tfserve:
    """A `tfserve` process. Ports, where they are asked for, are free ones; the log is a file."""

    def __init__(
        self,
        folder: Path,
        *flags: str,
        ports: bool = True,
        owned: bool = False,
        variables: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        command = [sys.executable, "-m", "jupyter_tfserve.model_server", *flags]
        if ports:
            grpc_port, rest_port = free_ports(2)
            command += [f"--port={grpc_port}", f"--rest_api_port={rest_port}", "--find_free_ports"]
        self._ready, told = os.pipe()
        owner, self.owner_pipe = os.pipe()
        passed = [told]
        command.append(f"--ready_fd={told}")
        if owned:
            command.append(f"--owner_fd={owner}")
            passed.append(owner)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**environment(), **(variables or {})},
                pass_fds=passed,
            )
        os.close(told)
        os.close(owner)
        self.grpc_port = self.rest_port = 0
        self.notices: list[str] = []

    def wait_until_ready(self) -> Tfserve:
        """Wait for the word on the pipe; fails with the log if the process ends instead."""
        line = b""
        end = time.monotonic() + PATIENCE
        while not line.endswith(b"\n"):
            assert select.select([self._ready], [], [], max(0.0, end - time.monotonic()))[0], self.said()
            part = os.read(self._ready, 4096)
            assert part, f"tfserve ended:\n{self.said()}"
            line += part
        ready = json.loads(line)
        self.grpc_port, self.rest_port, self.notices = ready["grpc_port"], ready["rest_port"], ready["notices"]
        return self

    def said(self) -> str:
        """The log."""
        return self.log.read_text(errors="replace")

    def call(self, verb: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """One request to the REST port."""
        return call(self.rest_port, verb, path, body, headers)

    def predict(self, model: str, instances: list[Any], where: str = "") -> list[Any]:
        """REST predict, row format; fails unless it is answered with 200. `where`: "/versions/1"."""
        answer = self.call("POST", f"/v1/models/{model}{where}:predict", {"instances": instances})
        assert answer.status == 200, answer
        predictions: list[Any] = answer.json["predictions"]
        return predictions

    def states(self, model: str) -> dict[int, str]:
        """The state of each version, as the REST API tells it; {} for an unknown model."""
        answer = self.call("GET", f"/v1/models/{model}")
        if answer.status == 404:
            return {}
        return {int(v["version"]): v["state"] for v in answer.json["model_version_status"]}

    def wait_available(self, model: str, *versions: int) -> None:
        """Wait until just these versions answer."""

        def available() -> bool:
            return {n for n, state in self.states(model).items() if state == "AVAILABLE"} == set(versions)

        wait_for(f"versions {versions} of {model} to be available", available)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal the process and wait; returns its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End the process however it is."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for fd in (self._ready, self.owner_pipe):
            with contextlib.suppress(OSError):
                os.close(fd)


class StoreServer(Tfserve):
    """A `tfserve` process on a store, with the management API on a Unix socket."""

    def __init__(self, folder: Path, *flags: str, store: Path | None = None, **more: Any) -> None:
        self.store = store or folder / "store"
        self.socket = folder / "socket"
        super().__init__(folder, f"--store={self.store}", f"--management_socket={self.socket}", *flags, **more)

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """The management client."""
        client = Client(socket=self.socket)
        try:
            yield client
        finally:
            client.close()

    def register(self, source: Path, name: str, version: int, **request: Any) -> None:
        """Publish a SavedModel into the store and wait until it answers."""
        publish(source, self.store / name, version)
        with self.client() as client:
            client.register(name, request)  # type: ignore[arg-type]
            status = client.model(name, wait=version, timeout=PATIENCE)
        states = {v["version"]: (v["state"], v["error_message"]) for v in status["versions"]}
        assert states[version] == ("AVAILABLE", ""), states


def environment() -> dict[str, str]:
    """For processes under test: nothing of the Jupyter of who runs the tests, and no GPU."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY", "TFSERVE"))}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}


def converse(port: int, data: bytes, timeout: float = PATIENCE) -> bytes:
    """Send raw bytes, then read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(data)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def replies(data: bytes, methods: Sequence[str]) -> list[Answer]:
    """Parse the replies that came one after the other on a connection, to requests of these methods."""

    class Source:
        def __init__(self) -> None:
            import io

            self.file = io.BytesIO(data)

        def makefile(self, mode: str) -> Any:
            return self

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def close(self) -> None:
            """The next reply is read from here as well."""

    source: Any = Source()
    answers = []
    for method in methods:
        reply = http.client.HTTPResponse(source, method=method)
        reply.begin()
        answers.append(Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()))
    assert source.read() == b""
    return answers

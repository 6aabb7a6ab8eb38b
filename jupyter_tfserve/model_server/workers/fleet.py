"""The worker processes of a front: started when a version needs one, ended when they hold nothing. It restarts none:
who loses versions with one that ends (`front.py`) decides where they go.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ... import api
from ...devices import Device
from ...process import ModelServerProcess
from .. import metrics
from ..errors import Code, ServingError
from .channel import Channel

log = logging.getLogger(__name__)

#: A Unix socket's path must fit in 108 bytes.
_SOCKET_PATH_LIMIT = 100

#: Seconds before a worker's end for which a request that was lost with it counts as under suspicion.
_SUSPECT_SECONDS = 5.0

_FOLDER = re.compile(r"tfserve-workers-(\d+)-.*")

#: A version: its model and number.
Key = tuple[str, int]


class Worker:
    """One process. Made by `Fleet.hold`."""

    def __init__(self, name: str, device: Device, process: ModelServerProcess, channel: Channel) -> None:
        self.name = name  #: "gpu:0", "gpu:0/digits"
        self.device = device.id
        self.process = process
        self.channel = channel  #: to be used in the event loop's thread
        self.state: api.ServerState = "starting"
        self.holds: set[Key] = set()  #: versions that are loaded there, or loading
        self.loading: set[Key] = set()
        self.started = threading.Event()  #: or failed to
        self.accounted = threading.Event()  #: what led to its end is known to whoever asks
        self.report: dict[str, Any] = {}  #: its metrics as last told
        self._lost: dict[Key, float] = {}

    def lost(self, key: Key) -> None:
        """A request for a version lost its connection here."""
        self._lost[key] = time.monotonic()

    def suspects(self) -> set[Key]:
        """When it has ended: the versions that were loading, or had requests in flight, when it did."""
        since = time.monotonic() - _SUSPECT_SECONDS
        return self.loading | {key for key, when in self._lost.items() if when > since}

    def call(self, method: str, *path: str, content: Any = None, timeout: float | None = None) -> Any:
        """Ask it for something under ``/worker``; waits. Raises ServingError: its own, or UNAVAILABLE where it is gone,
        DEADLINE_EXCEEDED after `timeout` seconds.
        """
        connection = _UnixConnection(self.process.socket, timeout)
        target = "/".join(["/worker", *(quote(part, safe="") for part in path)])
        try:
            connection.request(method, target, json.dumps(content))
            response = connection.getresponse()
            answer = json.loads(response.read())
        except TimeoutError:
            raise ServingError(
                Code.DEADLINE_EXCEEDED, f"The worker {self.name} took more than {timeout:g} s."
            ) from None
        except (OSError, http.client.HTTPException, ValueError):
            raise ServingError(Code.UNAVAILABLE, f"The worker {self.name} is gone.") from None
        finally:
            connection.close()
        if response.status != 200:
            raise ServingError(Code(answer["code"]), answer["message"], answer["remedy"])
        return answer


class Fleet:
    """All workers. Methods may be called from any thread but the event loop's, where they may wait."""

    def __init__(
        self,
        flags: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        folder: Path | None,
        drain_seconds: float,
        hang_seconds: float,
        on_end: Callable[[Worker], None],
        on_change: Callable[[Worker], None],
    ) -> None:
        """`flags` are those of each worker, `folder` is for sockets and logs (None: one of its own). `on_end` is told
        of a worker that has ended unasked, in a thread of its own; `on_change` of a change of state.
        """
        self._flags = flags
        self._loop = loop
        self._drain_seconds = drain_seconds
        self._hang_seconds = hang_seconds
        self._on_end = on_end
        self._on_change = on_change
        self._workers: dict[str, Worker] = {}
        self._ended: dict[str, Path] = {}  # logs of those that are gone
        self._gone: list[dict[str, Any]] = []  # what those that are gone have counted
        self._restarts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closed = False
        self._number = 0
        self._own_folder = folder is None or len(str(folder / "workers" / "9999")) > _SOCKET_PATH_LIMIT
        if self._own_folder:
            _sweep()
            self.folder = Path(tempfile.mkdtemp(prefix=f"tfserve-workers-{os.getpid()}-"))
        else:
            assert folder is not None
            self.folder = folder / "workers"
            shutil.rmtree(self.folder, ignore_errors=True)  # of a front that was killed
            self.folder.mkdir(mode=0o700)

    def hold(self, name: str, device: Device, key: Key, more: Sequence[str] = ()) -> Worker:
        """The worker of that name, which will not end while it holds `key`; it is started, with `more` flags, if there
        is none. Waits until it answers. Raises ServingError if it does not.
        """
        with self._lock:
            if self._closed:
                raise ServingError(Code.UNAVAILABLE, "The server is shutting down.")
            worker = self._workers.get(name)
            is_new = worker is None
            if worker is None:
                worker = self._workers[name] = self._make(name, device, more)
            worker.holds.add(key)
            worker.loading.add(key)
        if is_new:
            self._start(worker)
        worker.started.wait()
        if worker.state != "running":
            self.let_go(worker, key)
            raise ServingError(
                Code.UNAVAILABLE,
                f"The worker {name} {worker.process.how_it_ended()}.",
                f"The end of its log:\n{worker.process.log_tail(15)}",
            )
        return worker

    def let_go(self, worker: Worker, key: Key) -> None:
        """It does not hold a version any more; with the last one it ends. Does not wait."""
        with self._lock:
            worker.holds.discard(key)
            worker.loading.discard(key)
            if worker.holds or self._workers.get(worker.name) is not worker:
                return
            del self._workers[worker.name]
            self._ended[worker.name] = worker.process.log
            self._set(worker, "stopped")
        threading.Thread(target=self._stop, args=(worker,), name="worker-stop").start()

    def workers(self) -> list[Worker]:
        """Those that run or start."""
        with self._lock:
            return list(self._workers.values())

    def processes(self) -> list[api.Process]:
        """As the management API tells of them."""
        return [
            api.Process(
                id=worker.name,
                pid=worker.process.pid,
                device=worker.device,
                state=worker.state,
                restarts=self._restarts[worker.name],
                memory=worker.process.memory(),
                models=sorted({model for model, _ in list(worker.holds)}),
            )
            for worker in self.workers()
        ]

    def reports(self) -> list[dict[str, Any]]:
        """The metrics of all workers; those that are gone count with what they last told."""
        for worker in self.workers():
            if worker.state == "running":
                self._ask_report(worker)
        with self._lock:
            return [*self._gone, *(worker.report for worker in self._workers.values())]

    def _ask_report(self, worker: Worker) -> None:
        with contextlib.suppress(ServingError):
            worker.report = worker.call("GET", timeout=5.0)["metrics"]

    def log(self, name: str) -> Path | None:
        """The log of a worker, also of one that has ended; None for an unknown one."""
        with self._lock:
            worker = self._workers.get(name)
            return worker.process.log if worker else self._ended.get(name)

    def close(self) -> None:
        """End all workers; waits."""
        with self._lock:
            self._closed = True
            workers, self._workers = list(self._workers.values()), {}
        stopping = [threading.Thread(target=self._stop, args=(worker,)) for worker in workers]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make(self, name: str, device: Device, more: Sequence[str]) -> Worker:
        """With the lock held."""
        self._number += 1
        socket_path = self.folder / str(self._number)
        command = [
            sys.executable,
            "-m",
            "jupyter_tfserve.model_server",
            "--worker",
            f"--management_socket={socket_path}",
            *self._flags,
            *more,
        ]
        process = ModelServerProcess(
            command,
            self.folder / f"{name.replace('/', '-')}.log",
            socket_path,
            hang_timeout=self._hang_seconds,
            cwd=self.folder,  # python -m looks for modules here first: never in the user's folder
            environment={**os.environ, **device.environment()},
        )
        return Worker(name, device, process, Channel(str(socket_path), self._loop))

    def _start(self, worker: Worker) -> None:
        self._on_change(worker)
        log.info("Starting the worker %s", worker.name)
        ready = None
        try:
            ready = worker.process.start()
        except OSError as error:
            log.error("The worker %s could not be started: %s", worker.name, error)
        with self._lock:
            if ready is not None:
                self._set(worker, "running")
            elif self._workers.get(worker.name) is worker:
                del self._workers[worker.name]
                self._ended[worker.name] = worker.process.log
                self._set(worker, "failed")
        worker.started.set()
        if ready is not None:
            threading.Thread(target=self._follow, args=(worker,), name="worker-follow", daemon=True).start()

    def _follow(self, worker: Worker) -> None:
        """Wait for its end; if nobody asked for it, say so."""
        worker.process.wait()
        self._close_channel(worker)
        with self._lock:
            asked = self._workers.get(worker.name) is not worker
            if worker.report:
                self._gone = [metrics.added([*self._gone, worker.report])]
            if not asked:
                del self._workers[worker.name]
                self._ended[worker.name] = worker.process.log
                self._restarts[worker.name] += 1
                self._set(worker, "failed")
        if not asked:
            log.error("The worker %s %s", worker.name, worker.process.how_it_ended())
            self._on_end(worker)

    def _stop(self, worker: Worker) -> None:
        log.info("Ending the worker %s", worker.name)
        self._ask_report(worker)
        worker.process.stop(self._drain_seconds)

    def _set(self, worker: Worker, state: api.ServerState) -> None:
        worker.state = state
        self._on_change(worker)

    def _close_channel(self, worker: Worker) -> None:
        """And wait until it is known which requests are lost with it."""
        with contextlib.suppress(RuntimeError, TimeoutError):  # the loop is closed, or is about to be
            asyncio.run_coroutine_threadsafe(worker.channel.close(), self._loop).result(5.0)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("worker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _left_behind() -> Iterator[Path]:
    """Folders of fronts that are gone."""
    for entry in os.scandir(tempfile.gettempdir()):
        match = _FOLDER.fullmatch(entry.name)
        if match and not Path(f"/proc/{match[1]}").exists() and Path("/proc/self").exists():
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    yield Path(entry.path)


def _sweep() -> None:
    for folder in _left_behind():
        shutil.rmtree(folder, ignore_errors=True)

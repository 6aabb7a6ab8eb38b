"""Keeps a model server running: starts it, starts it again when it ends unasked, drains it. The extension and, where
there is no Jupyter Server, the kernel own one `Supervisor` each; it works in threads of its own and needs no event
loop. `process.py` has what there is to a single process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .api import Event, LastExit, ServerInfo, ServerState
from .cgroup import memory_limit
from .interpreters import LAST_USED, StartError, choose
from .process import ModelServerProcess, log_tail
from .store import Store, StoreError, write_atomically

#: Of the log, lines that tell of a crash: its stack, which may be deep, and the line above that says what it was.
_CRASH_LINES = 120

#: A Unix socket's path must fit in 108 bytes.
_SOCKET_PATH_LIMIT = 100


@dataclass(frozen=True)
class Tls:
    """PEM files for the direct ports; they are read at each start."""

    certificate: Path
    key: Path
    client_ca: Path | None = None  #: clients must show a certificate that is signed with one of these


@dataclass(frozen=True)
class Settings:
    """What a model server is started with."""

    store: Store
    runtime_dir: Path  #: private to the owner: socket, log and token live here
    host: str = "127.0.0.1"
    grpc_port: int = 8500  #: the next free one is taken where it is not free
    rest_port: int = 8501
    bearers: tuple[str, ...] = ()  #: tokens that the direct ports accept, beside the one in `token_file`
    open_ports: bool = False  #: the direct ports ask for no bearer
    knows_callers: bool = False  #: whoever starts it answers at `Supervisor.callers_socket` whose other bearers are
    tls: Tls | None = None  #: of the direct ports
    flags: tuple[str, ...] = ()  #: more flags of `tfserve`
    start_timeout: float = 120.0  #: seconds; importing TensorFlow on a slow disk takes tens of them
    hang_timeout: float = 30.0  #: seconds without a heartbeat after which it is killed and started again; 0: never
    drain_timeout: float = 30.0  #: seconds that requests in flight get to finish
    backoff: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0, 5.0)  #: seconds before each restart in a row; then it gives up
    stable_after: float = 60.0  #: a process that lived this long starts a new count
    isolate: tuple[str, ...] = ()  #: flags that give models processes of their own, for when the one keeps crashing
    isolate_after: int = 3  #: ends in a row after which they are used


class Supervisor:
    """Owns at most one model server process. All methods may be called from any thread; those that wait say so."""

    def __init__(self, settings: Settings, on_event: Callable[[Event], None] = lambda event: None) -> None:
        self.settings = settings
        self._on_event = on_event
        self._changed = threading.Condition()
        self._ordering = threading.Lock()  # of starts and stops: a start waits until what was stopped is gone
        self._state: ServerState = "stopped"
        self._wanted = False
        self._process: ModelServerProcess | None = None
        self._watcher: threading.Thread | None = None
        self._python = ""
        self._ports: tuple[int | None, int | None] = (None, None)
        self._started_at: float | None = None
        self._restarts = 0
        self._last_exit: LastExit | None = None
        self._notices: list[str] = []  # of the process
        self._warnings: dict[str, None] = {}  # ours, since somebody asked for a start; each once
        self._isolated = False
        self._error = ("", "")
        settings.runtime_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._socket_dir: Path | None = None
        self.socket = settings.runtime_dir / "model_server.sock"
        if len(str(self.socket)) > _SOCKET_PATH_LIMIT:
            self._socket_dir = Path(tempfile.mkdtemp(prefix="tfserve-"))
            self.socket = self._socket_dir / "s"
        self.callers_socket = self.socket.with_name("callers.sock")
        self.log = settings.runtime_dir / "model_server.log"
        self.token_file = settings.runtime_dir / "token"
        self._token = secrets.token_urlsafe(32)
        write_atomically(self.token_file, self._token)
        self._hash_file = settings.runtime_dir / "bearer_hashes"
        self._writing = threading.Lock()  # of the file of bearers
        self.set_grants(())

    @property
    def token(self) -> str:
        """The bearer that the direct ports always accept; it is in `token_file` (0600) for programs of the same
        user.
        """
        return self._token

    @property
    def running(self) -> bool:
        """Whether requests can be sent to `socket` now."""
        return self._state == "running"

    def set_grants(self, lines: Sequence[str]) -> None:
        """Let others use the direct ports too: `lines` as `model_server/auth.py` reads them. Holds at once."""
        hashes = [hashlib.sha256(bearer.encode()).hexdigest() for bearer in (self._token, *self.settings.bearers)]
        with self._writing:
            write_atomically(self._hash_file, "\n".join([*hashes, *lines]))

    def info(self) -> ServerInfo:
        """A snapshot; never waits."""
        with self._changed:
            process = self._process
            return ServerInfo(
                state=self._state,
                pid=process.pid if process and self._state != "stopped" else None,
                python=self._python,
                store=str(self.settings.store.root),
                store_id=self.settings.store.id,
                rest_port=self._ports[1],
                grpc_port=self._ports[0],
                host=self.settings.host,
                socket=str(self.socket),
                started_at=self._started_at,
                restarts=self._restarts,
                last_exit=self._last_exit,
                notices=[*self._warnings, *self._notices],
                error=self._error[0],
                remedy=self._error[1],
                token_file=str(self.token_file),
            )

    def ensure_started(self, python: str = "") -> ServerInfo:
        """Start the model server unless it runs; waits until it answers or raises StartError.

        `python` is the interpreter to use where this process's own has no TensorFlow.
        """
        with self._ordering:
            if not self._wanted:
                self._begin(python)
        with self._changed:
            self._changed.wait_for(lambda: self._state in ("running", "failed", "stopped"), self.settings.start_timeout)
            if self._state != "running":
                if self._state == "stopped":
                    raise StartError("The model server was stopped while it started.", "`%tfserve start` starts it.")
                raise StartError(
                    self._error[0] or f"The model server did not answer within {self.settings.start_timeout:.0f} s.",
                    self._error[1] or f"Its log says more: {self.log}",
                )
        return self.info()

    def _begin(self, python: str) -> None:
        """With `_ordering` held, and not wanted: choose the interpreter, then leave the rest to a watcher."""
        try:
            chosen = choose(python, self.settings.store.root / LAST_USED)
        except StartError as error:
            with self._changed:
                self._error = (error.message, error.remedy)
                self._set_state("failed", error.message)
            raise
        with self._changed:
            self._python = chosen
            self._wanted = True
            self._isolated = False
            self._warnings.clear()
            self._error = ("", "")
            self._set_state("starting")
            self._watcher = threading.Thread(target=self._watch, name="tfserve-supervisor", daemon=True)
            self._watcher.start()

    def stop(self) -> None:
        """Drain and end the process; waits until it is gone."""
        with self._ordering:
            self._stop()

    def _stop(self) -> None:
        """With `_ordering` held."""
        with self._changed:
            self._wanted = False
            self._changed.notify_all()
            process, watcher = self._process, self._watcher
        if process is not None:
            process.stop(self.settings.drain_timeout)
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join()
        with self._changed:
            self._watcher = None

    def restart(self, python: str = "") -> ServerInfo:
        """Stop, then start; waits for both."""
        self.stop()
        return self.ensure_started(python or self._python)

    def close(self) -> None:
        """Stop for good and take away what was left on the disk."""
        self.stop()
        shutil.rmtree(self.settings.runtime_dir, ignore_errors=True)
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)

    def log_tail(self, lines: int = 200) -> str:
        """The end of the model server's log."""
        return log_tail(self.log, lines)

    # What follows runs in the watcher's thread.

    def _watch(self) -> None:
        """Start the process again and again, as long as it is wanted and does not fail too often in a row."""
        failures = 0
        answered = False
        while True:
            began = time.monotonic()
            try:
                ready = self._spawn()
            except (OSError, StoreError) as error:
                ready = False
                if isinstance(error, StoreError):
                    self._error = (error.message, error.remedy)
                else:
                    self._error = (f"{self._python} could not be started: {error}.", "")
            if ready and self._process is not None:
                answered = True
                self._process.wait()
            asked = not self._wanted
            process = self._end_process()
            if asked:
                with self._changed:
                    self._set_state("stopped")
                return
            if time.monotonic() - began > self.settings.stable_after:
                failures = 0
            reason = process.how_it_ended() if process is not None else "did not start"
            out_of_memory = _out_of_memory() if process is not None and process.was_out_of_memory else ""
            if ready:
                self._last_exit = LastExit(reason=reason, time=time.time(), log_tail=self.log_tail(_CRASH_LINES))
            if out_of_memory:
                self._warnings[out_of_memory] = None
            failures += 1
            if not answered or failures > len(self.settings.backoff):
                self._give_up(reason, failures, out_of_memory)
                return
            if self.settings.isolate and failures >= self.settings.isolate_after and not self._isolated:
                self._isolated = True
                self._warnings[
                    f"The model server ended {failures} times in a row, the last time it {reason}. Models now have "
                    "processes of their own, so that only the one at fault fails; a restart goes back to one process."
                ] = None
                failures = 1
            with self._changed:
                self._restarts += 1
                self._set_state("restarting", f"The model server {reason}; it is started again.")
                self._changed.wait_for(lambda: not self._wanted, self.settings.backoff[failures - 1])
                if not self._wanted:
                    self._set_state("stopped")
                    return

    def _give_up(self, reason: str, failures: int, remedy: str) -> None:
        """It does not start, or ended too often in a row."""
        message = f"The model server {reason}."
        if failures > 1:
            message = f"The model server ended {failures} times in a row; the last time it {reason}."
            remedy = remedy or "Stop serving what makes it end (its log may say), then `%tfserve start`."
        remedy = "\n".join(filter(None, [remedy, f"The end of its log:\n{self.log_tail(_CRASH_LINES)}"]))
        with self._changed:
            self._error = (self._error[0] or message, self._error[1] or remedy)
            self._wanted = False
            self._set_state("failed", reason)

    def _spawn(self) -> bool:
        """Start one process and wait until it says that it answers; False if it ended or took too long."""
        settings = self.settings
        settings.store.create()
        command = [
            self._python,
            "-m",
            "jupyter_tfserve.model_server",
            f"--host={settings.host}",
            f"--port={settings.grpc_port}",
            f"--rest_api_port={settings.rest_port}",
            "--find_free_ports",
            f"--store={settings.store.root}",
            f"--management_socket={self.socket}",
            *self._bearer_flags(),
            *self._tls_flags(),
            "--max_num_load_retries=0",  # what cannot be loaded is told at once; a new registration tries again
            "--auto_batching",
            f"--drain_timeout_seconds={settings.drain_timeout}",
            *settings.flags,
            *(settings.isolate if self._isolated else ()),
        ]
        process = ModelServerProcess(
            command,
            self.log,
            self.socket,
            settings.start_timeout,
            settings.hang_timeout,
            cwd=settings.runtime_dir,  # python -m looks for modules here first: never in the user's folder
        )
        with self._changed:
            if not self._wanted:
                return False
            self._process = process
        ready = process.start()
        if ready is None:
            return False
        with self._changed:
            self._ports = ready["grpc_port"], ready["rest_port"]
            self._notices = ready["notices"]
            self._started_at = time.time()
            self._error = ("", "")
            if self._wanted:
                self._set_state("running")
        with contextlib.suppress(OSError):  # a full disk: it is only asked where this process has no TensorFlow
            write_atomically(settings.store.root / LAST_USED, self._python)
        return True

    def _bearer_flags(self) -> list[str]:
        if self.settings.open_ports:
            return []
        asked = [f"--callers_socket={self.callers_socket}"] if self.settings.knows_callers else []
        return [f"--bearer_hashes_file={self._hash_file}", *asked]

    def _tls_flags(self) -> list[str]:
        """TF Serving's SSLConfig holds the PEM texts themselves; the file is 0600."""
        tls = self.settings.tls
        if tls is None:
            return []
        texts = {"server_key": tls.key, "server_cert": tls.certificate}
        if tls.client_ca is not None:
            texts["custom_ca"] = tls.client_ca
        try:
            # A JSON string in ASCII is a string of a text proto.
            lines = [f"{name}: {json.dumps(path.read_text(encoding='ascii'))}" for name, path in texts.items()]
        except (OSError, ValueError) as error:
            raise StoreError(
                f"The certificate of the direct ports cannot be read: {error}.",
                "See TFServe.certfile, TFServe.keyfile and TFServe.client_ca: PEM files.",
            ) from error
        file = self.settings.runtime_dir / "ssl_config"
        write_atomically(file, "\n".join([*lines, f"client_verify: {str(tls.client_ca is not None).lower()}"]))
        return [f"--ssl_config_file={file}"]

    def _end_process(self) -> ModelServerProcess | None:
        """Forget the process, which has ended; returns it, None if there was none."""
        with self._changed:
            process, self._process = self._process, None
            self._started_at = None
            self._ports = (None, None)
        return process

    def _set_state(self, state: ServerState, reason: str = "") -> None:
        """With `_changed` held."""
        self._state = state
        self._changed.notify_all()
        self._on_event(Event(type="server", time=time.time(), state=state, reason=reason))


def _out_of_memory() -> str:
    """What the user is told when the system killed a model server for want of memory."""
    return (
        f"The system killed the model server because memory ran out (limit {memory_limit() / 2**30:.1f} GiB, all "
        "programs together). Stop serving a model, serve a smaller one, or give this machine or container more memory; "
        "the flag --memory_budget_mb makes loads that do not fit be refused instead."
    )

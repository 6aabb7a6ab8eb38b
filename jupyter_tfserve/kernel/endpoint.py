"""The endpoint that `%tfserve` and `jupyter_tfserve.connect()` talk to: the kernel's Jupyter Server, or, where there is
none, a model server that the kernel owns.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import threading
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir, jupyter_runtime_dir

from ..api import DeviceList, ServerInfo, ServerRequest, State
from ..client import Client, EventStream, LogStream
from ..devices import Devices
from ..log_tail import LocalLog
from ..store import Store
from ..supervisor import Settings, Supervisor
from .base import Endpoint
from .errors import KernelError, plain_errors
from .finding import Found, find, is_alive, is_loopback, make_client
from .outcomes import outside

__all__ = ["Endpoint", "JupyterEndpoint", "OwnedEndpoint", "connect"]

#: Seconds that requests in flight get when the kernel ends: Jupyter kills a kernel that takes longer than 5.
_DRAIN = 2.0


class JupyterEndpoint(Endpoint):
    """Through a Jupyter Server that has our extension."""

    kind = "jupyter-server"

    def __init__(self, found: Found) -> None:
        super().__init__()
        self._found = found
        self._client = make_client(found.url, found.token, found.pid)
        self._shared: tuple[bool, Store] | None = (
            None  #: whether this kernel reads the server's store; None: not asked yet
        )
        self.why = (
            f"Models are served by the Jupyter Server at {found.url.removesuffix('/tfserve')}/, because {found.why}."
        )

    @property
    def client(self) -> Client:
        """The Jupyter Server's API."""
        return self._client

    @property
    def url(self) -> str:
        """The server's address as others reach it."""
        return outside(self._found.url)

    @property
    def alive(self) -> bool:
        """False once the Jupyter Server's process is gone."""
        return self._found.pid is None or is_alive(self._found.pid)

    def state(self) -> State:
        """What the Jupyter Server says."""
        return self._client.state()

    def info(self) -> ServerInfo:
        """The model server as the Jupyter Server sees it."""
        info = self._client.state()["server"]
        if info is None:
            raise KernelError(
                f"{self._found.url} is a model server, not a Jupyter Server.", "Give the Jupyter Server's address."
            )
        return info

    def store(self) -> Store | None:
        """The server's store; None where a word that it keeps there cannot be read here."""
        if self._shared is None:
            info = self.info()
            store = Store(info["store"])
            if not info["store_id"] and is_loopback(self._found.url):
                with plain_errors(store.root):  # nobody has used it yet; where both sides see the new id, they share it
                    store.create()
                info = self.info()
            self._shared = bool(info["store_id"]) and store.id == info["store_id"], store
        shared, store = self._shared
        return store if shared else None

    def start(self) -> ServerInfo:
        """Ask the Jupyter Server."""
        return self._client.server(ServerRequest(action="start", python=sys.executable))

    def stop(self) -> ServerInfo:
        """Ask the Jupyter Server."""
        return self._client.server(ServerRequest(action="stop"))

    def restart(self) -> ServerInfo:
        """Ask the Jupyter Server."""
        return self._client.server(ServerRequest(action="restart", python=sys.executable))

    def logs(self, lines: int = 200) -> str:
        """What the Jupyter Server kept."""
        return self._client.logs(lines)

    def listen(self, stats: bool = False) -> EventStream:
        """What the Jupyter Server tells, also while no model server runs."""
        return self._client.listen(stats)

    def follow_log(self, lines: int = 200) -> LogStream:
        """Through the Jupyter Server."""
        return self._client.follow_log(lines)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def _jupyter(self) -> str:
        return self.url


class OwnedEndpoint(Endpoint):
    """A model server that this kernel owns: it ends with the kernel, however the kernel ends."""

    kind = "kernel"

    def __init__(self, why: str, store: Path | None = None, runtime: Path | None = None) -> None:
        super().__init__()
        self.why = (
            f"Models are served by a model server that this kernel owns (it ends with the kernel), because {why}."
        )
        self._store = Store(store or os.environ.get("JUPYTER_TFSERVE_STORE") or Path(jupyter_data_dir()) / "tfserve")
        self._runtime = runtime or Path(jupyter_runtime_dir()) / f"tfserve-kernel-{os.getpid()}"
        _sweep(self._runtime.parent)
        with plain_errors(self._runtime):
            self._supervisor = Supervisor(
                Settings(
                    store=self._store,
                    runtime_dir=self._runtime,
                    drain_timeout=_DRAIN,
                    flags=("--isolation=device",),
                    isolate=("--workers=always",),
                )
            )
        self._client = Client(socket=self._supervisor.socket)
        self._stopped = False
        self._owner = os.getpid()
        atexit.register(self.close)

    @property
    def client(self) -> Client:
        """The model server's own API, on its socket; starts it, unless the user has stopped it."""
        if self._stopped:
            raise KernelError(
                "The model server is stopped.", "`%tfserve start` starts it; what it served is served again."
            )
        with plain_errors(self._store.root):
            self._supervisor.ensure_started(sys.executable)
        return self._client

    @property
    def url(self) -> str:
        """The model server's own REST port."""
        port = self._supervisor.info()["rest_port"]
        return f"http://{self._supervisor.settings.host}:{port}" if port else ""

    @property
    def alive(self) -> bool:
        """It lives as long as the kernel."""
        return True

    def state(self) -> State:
        """What the model server says; while it does not run, what the store holds."""
        if not self._stopped and (self._supervisor.running or self._store.has_models):
            return State({**self.client.state(), "server": self.info()})
        return State(server=self.info(), versions={}, models=[], processes=[], stored=self._store.names())

    def _device_list(self) -> DeviceList:
        if self._supervisor.running:
            return self._client.devices()
        return Devices().message()  # a list of devices starts nothing

    def info(self) -> ServerInfo:
        """What the supervisor knows."""
        return self._supervisor.info()

    def store(self) -> Store | None:
        """The kernel's store."""
        with plain_errors(self._store.root):
            return self._store.create()

    def start(self) -> ServerInfo:
        """Start the model server in this kernel's environment."""
        self._stopped = False
        with plain_errors(self._store.root):
            return self._supervisor.ensure_started(sys.executable)

    def stop(self) -> ServerInfo:
        """Stop it until `start`."""
        self._stopped = True
        self._supervisor.stop()
        return self.info()

    def restart(self) -> ServerInfo:
        """Stop, then start."""
        self._stopped = False
        with plain_errors(self._store.root):
            return self._supervisor.restart(sys.executable)

    def logs(self, lines: int = 200) -> str:
        """The end of its log."""
        return self._supervisor.log_tail(lines)

    def listen(self, stats: bool = False) -> EventStream:
        """What the model server tells, while it runs; asking does not start it."""
        if not self._supervisor.running:
            raise KernelError("The model server does not run.", "`%tfserve start` starts it.")
        return self._client.listen(stats)

    def follow_log(self, lines: int = 200) -> LocalLog:
        """From the file."""
        return LocalLog(self._supervisor.log, lines)

    def close(self) -> None:
        """End the model server and take away its runtime folder. Also called when the kernel ends."""
        atexit.unregister(self.close)
        if os.getpid() != self._owner:  # a fork of the kernel: the model server is not its own
            return
        self._client.close()
        self._supervisor.close()


_lock = threading.Lock()
_endpoints: dict[tuple[str, ...], Endpoint] = {}


def connect(url: str = "", token: str = "") -> Endpoint:
    """This kernel's endpoint: the Jupyter Server named by `url` and `token` or by JUPYTER_TFSERVE_URL, else the one
    that started the kernel, else a model server of the kernel's own. Asked again it is the same, as long as it lives.
    """
    named = (os.environ.get("JUPYTER_TFSERVE_URL", ""), os.environ.get("JUPYTER_TOKEN", ""))
    key = (str(os.getpid()), url, token, *named)  # a fork of the kernel looks for itself
    with _lock:
        endpoint = _endpoints.get(key)
        if endpoint is None or not endpoint.alive:
            found = find(url, token)
            endpoint = JupyterEndpoint(found) if isinstance(found, Found) else OwnedEndpoint(found.why)
            _endpoints[key] = endpoint
        return endpoint


def _sweep(folder: Path) -> None:
    """Remove the runtime folders of kernels that were killed."""
    with contextlib.suppress(OSError):
        for left in folder.glob("tfserve-kernel-*"):
            pid = left.name.rpartition("-")[2]
            if pid.isdigit() and not is_alive(int(pid)):
                shutil.rmtree(left, ignore_errors=True)

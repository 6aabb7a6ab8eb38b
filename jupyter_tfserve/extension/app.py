"""The extension's life inside Jupyter Server: what can be configured, start, stop, activity, what is told to whom."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote

from jupyter_core.paths import jupyter_data_dir
from jupyter_events import EventLogger
from jupyter_server._tz import utcnow
from jupyter_server.extension.application import ExtensionApp
from jupyter_server.serverapp import ServerApp
from prometheus_client import REGISTRY
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.netutil import bind_unix_socket
from traitlets import Bool, Enum, Float, Int, List, TraitError, Unicode, default

from ..api import DeviceList, Event
from ..devices import Devices
from ..interpreters import StartError
from ..store import Store, StoreError, write_atomically
from ..supervisor import Settings, Supervisor, Tls
from . import metrics
from .broadcast import Broadcast, Follower
from .callers import Callers
from .forward import Forwarder
from .hub import Hub
from .inference import InferenceHandler
from .log_stream import LogFollowers
from .management import default_handlers
from .management_handler import Refuse
from .saved_models import SavedModelsHandler
from .shares import Shares
from .sharing import ShareHandler, SharesHandler, revoke
from .tunnel import TunnelHandler
from .uploads import Uploads

#: What tells the kernels of this server where we are: the path of the endpoint file.
ENDPOINT = "JUPYTER_TFSERVE_ENDPOINT"

_SCHEMAS = Path(__file__).parent / "events"
_SCHEMA_ID = "https://events.jupyter.org/jupyter_tfserve/{}/v1"


class TFServe(ExtensionApp):
    """TensorFlow Serving's API under <base_url>/tfserve, served by a model server process of its own."""

    name = "jupyter_tfserve"

    store = Unicode(
        help="""Folder that holds the models: model version folders and models.config, as TensorFlow Serving reads them.
        Default: the environment variable JUPYTER_TFSERVE_STORE, else "tfserve" in Jupyter's data folder."""
    ).tag(config=True)

    host = Unicode(
        "127.0.0.1",
        help="""Address on which the model server's own REST and gRPC ports are opened. They ask for a token (Jupyter's,
        or the one in the file that `%tfserve` names) on every address.""",
    ).tag(config=True)

    grpc_port = Int(8500, help="gRPC port of the model server; where it is taken, the next free one. 0: none.").tag(
        config=True
    )

    rest_port = Int(
        8501,
        help="""REST port of the model server, beside the REST API under Jupyter's own URL; where it is taken, the next
        free one. 0: none.""",
    ).tag(config=True)

    allow_access_keys = Bool(
        help="""Whether the owner may make access keys, which let whoever has one predict with named models. Default:
        yes; on a JupyterHub no, because a key works without the Hub, whose policy it would bypass."""
    ).tag(config=True)

    allow_unauthenticated_loopback = Bool(
        False,
        help="""Let the model server's own ports answer without a token. Every user and every program of this machine
        can call them then; only for a `host` that is the loopback.""",
    ).tag(config=True)

    certfile = Unicode(
        help="""Certificate (PEM) with which the model server's own ports speak TLS. Default: the Jupyter Server's where
        `host` is not the loopback."""
    ).tag(config=True)

    keyfile = Unicode(help="The private key of `certfile` (PEM). Default: as for it.").tag(config=True)

    client_ca = Unicode(
        help="""Certificates (PEM) that those of clients are signed with: then the model server's own ports talk only to
        clients that show one. Needs `certfile`."""
    ).tag(config=True)

    model_server_flags = List(
        Unicode(),
        help="""More flags for the model server, as tensorflow_model_server takes them (`tfserve --help`): for example
        ["--enable_batching", "--tensorflow_intra_op_parallelism=4"].""",
    ).tag(config=True)

    isolation = Enum(
        ["none", "device", "model", "version"],
        "device",
        help="""What has a model server process of its own: each device in use, each model on it, or each version of it.
        Where the CPU is the only device, "device" is one process. "none" is always one process.""",
    ).tag(config=True)

    workers = Enum(
        ["auto", "always"],
        "auto",
        help="""Whether models are in processes of their own, apart from the one with the ports, also where the CPU is
        the only device: "always" costs some speed; a model that crashes then takes down only what shares its
        process.""",
    ).tag(config=True)

    start_timeout = Float(
        120.0, help="Seconds that the model server gets to start; importing TensorFlow from a slow disk takes long."
    ).tag(config=True)

    hang_timeout = Float(
        30.0,
        help="""Seconds that the model server may leave its heartbeat unanswered; then it is killed as hung and started
        again. 0: it is not asked.""",
    ).tag(config=True)

    drain_timeout = Float(
        30.0, help="Seconds that requests in flight get to finish when the model server is stopped."
    ).tag(config=True)

    activity_limit = Float(
        24 * 3600.0,
        help="""Predictions count as activity, so that a server at work is not culled as idle, but only for this many
        seconds after the last other activity (kernels, editor, terminals). 0: predictions never count.""",
    ).tag(config=True)

    max_body_size = Int(
        2**31 - 1,
        help="""Bytes that one request for a prediction may have. Bodies are streamed: this is not memory of Jupyter
        Server, but of the model server.""",
    ).tag(config=True)

    max_upload_size = Int(
        0, help="Bytes that a version may have that a kernel on another machine uploads. 0: what the disk holds."
    ).tag(config=True)

    allowed_ops = List(
        Unicode(),
        help="""Ops that an uploaded model may have although they touch files, the network or Python, by TensorFlow's
        names: ["InitializeTableFromTextFileV2"] for vocabularies in files. What is registered on this machine is not
        looked at: its owner's rights are needed for that.""",
    ).tag(config=True)

    @default("store")
    def _default_store(self) -> str:
        return os.environ.get("JUPYTER_TFSERVE_STORE") or os.path.join(jupyter_data_dir(), "tfserve")

    @default("allow_access_keys")
    def _default_allow_access_keys(self) -> bool:
        return Hub.of(self.server.identity_provider) is None

    @default("certfile")
    def _default_certfile(self) -> str:
        return "" if self._is_loopback else self.server.certfile

    @default("keyfile")
    def _default_keyfile(self) -> str:
        return "" if self._is_loopback else self.server.keyfile

    @property
    def _is_loopback(self) -> bool:
        return self.host == "localhost" or self.host == "::1" or self.host.startswith("127.")

    @property
    def server(self) -> ServerApp:
        """The Jupyter Server that we are in."""
        assert self.serverapp is not None
        return self.serverapp

    @property
    def _event_logger(self) -> EventLogger:
        return cast(EventLogger, self.server.event_logger)

    def initialize_settings(self) -> None:
        """Make the parts. Nothing is started yet."""
        runtime = Path(self.server.runtime_dir)
        _sweep(runtime)
        folder, self._lock = _claim(runtime)
        self.models = Store(self.store)
        self.hub = Hub.of(self.server.identity_provider)
        self.shares = Shares(self.models, self.hub.server if self.hub else "")
        token = self.server.identity_provider.token
        self._check_ports()
        self.supervisor = Supervisor(
            Settings(
                store=self.models,
                runtime_dir=folder,
                host=self.host,
                grpc_port=self.grpc_port,
                rest_port=self.rest_port,
                bearers=(token,) if token else (),
                open_ports=self.allow_unauthenticated_loopback,
                knows_callers=self.hub is not None,
                tls=self._tls(),
                flags=(f"--isolation={self.isolation}", f"--workers={self.workers}", *self.model_server_flags),
                isolate=("--workers=always",),
                start_timeout=self.start_timeout,
                hang_timeout=self.hang_timeout,
                drain_timeout=self.drain_timeout,
            ),
            self._on_supervisor,
        )
        self._devices = Devices()
        self.forwarder = Forwarder(self.supervisor.socket)
        # Of its own, so that calls that wait for a model to load take no predictions' places.
        self.management_forwarder = Forwarder(self.supervisor.socket)
        self.broadcast = Broadcast(self._want_stats)
        self.log_followers = LogFollowers()
        self.stats_follower = Follower(self.management_forwarder, self.broadcast.publish, stats=True)
        self.follower = Follower(self.management_forwarder, self._on_model_server)
        self._callers = Callers(self)
        self._collector = metrics.ModelServerCollector(self.supervisor.socket, lambda: self.supervisor.running)
        self.uploads = Uploads(self.models, self.max_upload_size, self.allowed_ops)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._following: asyncio.Task[None] | None = None
        self._for_kernels: HTTPServer | None = None
        self._kernels_socket = self.supervisor.socket.with_name("k")
        self._endpoint = runtime / f"jupyter_{folder.name}.json"
        for schema in sorted(_SCHEMAS.glob("*.yaml")):
            self._event_logger.register_event_schema(schema)

    def initialize_handlers(self) -> None:
        """Our two groups of URLs."""
        self.handlers.extend(default_handlers)
        self.handlers.append((r"/tfserve/api/saved_models", SavedModelsHandler))
        self.handlers.append((r"/tfserve/api/shares", SharesHandler))
        self.handlers.append((r"/tfserve/api/shares/([0-9a-z]+)", ShareHandler))
        self.handlers.append((r"/tfserve/grpc-tunnel", TunnelHandler))
        self.handlers.append((r"/tfserve(/(?:(?i:v1)|grpc-web)(?:/.*)?)", InferenceHandler))

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """The event loop runs: tell the kernels where we are, and serve again what was served."""
        self._loop = asyncio.get_running_loop()
        self.follower.start()
        REGISTRY.register(self._collector)
        self.tell_grants()
        self._following = asyncio.create_task(self._follow_shares(), name="tfserve-shares")
        if self.hub is not None:
            await self._callers.start(self.supervisor.callers_socket)
        if self.server.client_ca:
            # As with the internal TLS of a JupyterHub: who has no certificate of the right kind gets no connection, and
            # a kernel has none.
            self._for_kernels = HTTPServer(self.server.web_app)
            self._for_kernels.add_socket(bind_unix_socket(str(self._kernels_socket), 0o600))
        write_atomically(
            self._endpoint,
            json.dumps({"url": self._url_for_kernels(), "token": self.supervisor.token, "pid": os.getpid()}),
        )
        os.environ[ENDPOINT] = str(self._endpoint)
        if self.models.has_models:
            threading.Thread(target=self._restore, name="tfserve-restore", daemon=True).start()

    def _url_for_kernels(self) -> str:
        if self._for_kernels is None:
            return local_url(self.server)
        return f"http+unix://{quote(str(self._kernels_socket), safe='')}{self.server.base_url}tfserve"

    async def stop_extension(self) -> None:
        """Drain and end the model server, take away what we left."""
        if os.environ.get(ENDPOINT) == str(self._endpoint):
            del os.environ[ENDPOINT]
        self._endpoint.unlink(missing_ok=True)
        with contextlib.suppress(KeyError):  # Jupyter Server did not come as far as to start us
            REGISTRY.unregister(self._collector)
        self.broadcast.close()
        self.log_followers.close()
        if self._for_kernels is not None:
            self._for_kernels.stop()
        if self._following is not None:
            self._following.cancel()
        self._callers.stop()
        await self.follower.stop()
        with contextlib.suppress(OSError, StoreError):
            await asyncio.to_thread(self.shares.note_use)
        await asyncio.to_thread(self.supervisor.close)
        self.forwarder.close()
        self.management_forwarder.close()
        self._lock.close()

    def current_activity(self) -> dict[str, Any] | None:
        """Predictions in flight, which keep the server from shutting itself down; None for nothing."""
        in_flight = self.forwarder.in_flight
        return {"in_flight": in_flight} if in_flight and self._activity_counts() else None

    def note_activity(self) -> None:
        """A prediction was asked for. Management calls and polling do not count."""
        if self._activity_counts():
            self.server.web_app.settings["last_activity_times"][self.name] = utcnow()

    def device_list(self) -> DeviceList:
        """The devices of this machine while no model server could tell; waits."""
        python = self.supervisor.info()["python"] or sys.executable
        if python != self._devices.python:  # it is that one's TensorFlow that matters
            self._devices = Devices(python)
        return self._devices.message()

    def _activity_counts(self) -> bool:
        settings = self.server.web_app.settings
        others: list[datetime] = [settings["started"], settings["kernel_manager"].last_kernel_activity]
        others += [when for key, when in settings.items() if key.endswith("_last_activity")]
        others += [when for name, when in settings["last_activity_times"].items() if name != self.name]
        return utcnow() - max(others) < timedelta(seconds=self.activity_limit)

    def _restore(self) -> None:
        """In a thread: Jupyter's own start waits for nothing."""
        try:
            self.supervisor.ensure_started()
        except (StartError, StoreError) as error:
            self.log.error("What was served before is not served: %s %s", error.message, error.remedy)

    # Who may call.

    def tell_grants(self) -> None:
        """Let the model server's own ports know the access keys as they are now."""
        self.supervisor.set_grants(self.shares.grants() if self.allow_access_keys else ())

    async def _follow_shares(self) -> None:
        """Another Jupyter Server on the same store may revoke, too; what has expired is to be revoked at the Hub."""
        tried: dict[str, float] = {}
        while True:
            await asyncio.sleep(0.5)
            try:
                if await asyncio.to_thread(self.shares.refresh):
                    self.tell_grants()
            except (OSError, ValueError, TypeError, StoreError) as error:
                self.log.error("The shares cannot be read, those known hold on: %s", error)
                await asyncio.sleep(10)
            if self.hub is None:
                continue
            for record in self.shares:
                due = record.kind != "key" and record.server == self.hub.server and record.expired
                if due and asyncio.get_running_loop().time() > tried.get(record.id, 0.0):
                    tried[record.id] = asyncio.get_running_loop().time() + 60
                    try:
                        await revoke(self, record)
                    except (Refuse, OSError, StoreError) as error:
                        self.log.warning("Share %s has expired here; %s", record.id, error)

    def audit(self, **data: Any) -> None:
        """Tell whoever audits; see `events/access.yaml`."""
        self._emit("access", data)

    def audit_refusal(self, request: HTTPServerRequest, status: int, who: str) -> None:
        """A caller was refused."""
        self.audit(
            action="refused",
            who=who,
            status=status,
            method=request.method or "",
            path=request.path,
            remote=request.remote_ip or "",
        )

    def _audit_refusal_on_port(self, event: Event) -> None:
        """The model server refused a caller on a port of its own."""
        grant = event["grant"]
        self.audit(
            action="refused",
            who=grant.removeprefix("hub ") if grant.startswith("hub ") or not grant else f"key {grant}",
            status=event["status"],
            port=event["port"],
            models=[event["model"]] if event["model"] else [],
            count=event["count"],
        )

    def _check_ports(self) -> None:
        if self.allow_unauthenticated_loopback and not self._is_loopback:
            raise TraitError(f"TFServe.allow_unauthenticated_loopback is for the loopback, not for host {self.host!r}.")
        if bool(self.certfile) != bool(self.keyfile) or (self.client_ca and not self.certfile):
            raise TraitError("TFServe.certfile and TFServe.keyfile belong together; TFServe.client_ca needs both.")

    def _tls(self) -> Tls | None:
        if not self.certfile:
            return None
        return Tls(Path(self.certfile), Path(self.keyfile), Path(self.client_ca) if self.client_ca else None)

    # What happens to the model server.

    def _on_supervisor(self, event: Event) -> None:
        """From the supervisor's thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                self._loop.call_soon_threadsafe(self._on_server_state, event)

    def _want_stats(self, wanted: bool) -> None:
        """The model server is asked for samples only while somebody listens, and once for all of them."""
        if wanted:
            self.stats_follower.start()
        else:
            self.stats_follower.cancel()

    def _on_server_state(self, event: Event) -> None:
        state, reason = event["state"], event.get("reason", "")
        self.follower.set_running(state == "running")
        self.stats_follower.set_running(state == "running")
        if state == "running":
            info = self.supervisor.info()
            self.log.info(
                "The model server answers (process %s, REST port %s, gRPC port %s).",
                info["pid"],
                info["rest_port"],
                info["grpc_port"],
            )
            for notice in info["notices"]:
                self.log.warning(notice)
        elif state == "restarting":
            metrics.RESTARTS.inc()
            self.log.warning(reason)
        elif state == "failed":
            info = self.supervisor.info()
            self.log.error("The model server is given up: %s %s", info["error"], info["remedy"])
        self.broadcast.publish(event)
        self._emit("server_state", {"state": state, "reason": reason})

    def _on_model_server(self, event: Event) -> None:
        """An event of the model server's own."""
        if event["type"] == "refusal":
            self._audit_refusal_on_port(event)
            return
        self.broadcast.publish(event)
        if event["type"] == "version":
            if event.get("error"):
                self.log.warning("Model %s version %s: %s", event["model"], event["version"], event["error"])
            keys = ("model", "version", "state", "error")
            self._emit("version_state", {key: value for key, value in event.items() if key in keys})

    def _emit(self, schema: str, data: dict[str, Any]) -> None:
        self._event_logger.emit(schema_id=_SCHEMA_ID.format(schema), data=data)


def local_url(server: ServerApp) -> str:
    """What stands before ``/v1`` and ``/api`` for a kernel on this machine; ``http+unix://`` with the quoted path as
    host, as Jupyter Server writes it, where it listens on a Unix socket.
    """
    if server.sock:
        return f"http+unix://{quote(server.sock, safe='')}{server.base_url}tfserve"
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.ip, server.ip)
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if server.certfile else 'http'}://{host}:{server.port}{server.base_url}tfserve"


def _claim(runtime: Path) -> tuple[Path, IO[str]]:
    """A runtime folder of our own, with a lock held as long as this process lives: who can take it knows that we are
    gone. In a shared home another container's server may have our process number; then the folder has a longer name.
    """
    for name in (f"tfserve-{os.getpid()}", f"tfserve-{os.getpid()}-{secrets.token_hex(4)}"):
        folder = runtime / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = open(folder / "lock", "w")  # noqa: SIM115 (held until the extension stops)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return folder, file
        file.close()
    raise RuntimeError(f"No runtime folder could be locked in {runtime}.")


def _sweep(runtime: Path) -> None:
    """Remove the runtime folders and endpoint files of servers that were killed. Their process numbers say nothing:
    they may be used again, or count in another container.
    """
    for folder in _abandoned(runtime):
        shutil.rmtree(folder, ignore_errors=True)
        (runtime / f"jupyter_{folder.name}.json").unlink(missing_ok=True)


def _abandoned(runtime: Path) -> Iterator[Path]:
    for folder in runtime.glob("tfserve-*"):
        with contextlib.suppress(OSError), open(folder / "lock", "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder

"""The `tfserve` program: builds the parts from the flags, runs them, drains."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf
import uvloop
from watchfiles import awatch

from .. import __version__
from ..grants import GRANT_HEADER, Grant
from ..store import Store, StoreError
from . import config as model_config
from . import config_protos, metrics
from .auth import Bearers
from .batching_settings import BatchingSettings
from .codecs.json_numbers import quiet_numpy
from .config import Config, ConfigStore
from .core.batching import Batcher
from .core.manager import RetryPolicy, Version
from .core.servable import Servable
from .core.server_core import CoreOptions, ServerCore
from .errors import ServingError
from .flags import PORTS_TRIED, Flags, cpus
from .frontends.admission import Admission, RestPort
from .frontends.grpc import GrpcOptions, GrpcServer
from .frontends.grpc_web import PREFIX as GRPC_WEB
from .frontends.grpc_web import GrpcWeb
from .frontends.http import Exchange, HttpServer
from .frontends.management import EventBus, ManagementApi, model_event, version_event
from .frontends.profiler import ProfilerService
from .frontends.rest import RestApi, RestOptions
from .frontends.services import Services, not_available
from .memory import forget_start_up
from .platforms import lite, saved_model
from .platforms.session_config import session_config
from .platforms.warmup import warm_up
from .request_log import RequestLogs
from .stats import Sampler, load_of
from .tls import Tls

log = logging.getLogger("tfserve")

METRICS_PATH = "/monitoring/prometheus/metrics"

_Bind = Callable[[int], int]


class StartFailed(Exception):
    """The server cannot start; the message says why and what to do."""


def run(flags: Flags) -> int:
    """The program; returns its exit status."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    tf.get_logger().setLevel(logging.ERROR)  # its own handler would say everything twice
    if flags.version:
        sys.stdout.write(
            f"TensorFlow ModelServer: {__version__}+jupyter_tfserve\nTensorFlow Library: {tf.__version__}\n"
        )
        return 0
    for line in flags.ineffective():
        log.warning("Flag without effect: %s", line)
    try:
        return uvloop.run(_Program(flags).run())
    except (StartFailed, StoreError, ServingError) as error:
        sys.stderr.write(f"Failed to start server. Error: {error}\n")
        return 1


class _Program:
    """One run of the server. Its parts are made in `run`, inside the event loop."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._notices: list[str] = []
        self._ready = False
        self._refused = ""  # why the polled config file was refused at the last poll
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        flags = self._flags
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._events = EventBus(loop)
        self._store = Store(flags.store).create() if flags.store else None
        self._management_pool = ThreadPoolExecutor(16, "management")
        self._logs = RequestLogs()
        self._batching = BatchingSettings(flags, self._store)
        self._core = self._make_core()
        self._configs = ConfigStore(self._core, self._store)
        try:
            self._bearers = Bearers(flags.bearer_hashes_file, flags.callers_socket)
        except (OSError, ValueError, KeyError, TypeError) as error:  # rather no server than one without its bearers
            raise StartFailed(f"--bearer_hashes_file cannot be read: {error}") from None
        self._admission = Admission(self._bearers)
        self._sampler = Sampler(lambda: load_of(self._core), self._events.publish)
        quiet_numpy()
        rest_pool = ThreadPoolExecutor(flags.rest_api_num_threads, "rest", quiet_numpy)
        self._rest = RestApi(
            self._core,
            rest_pool,
            RestOptions(
                flags.rest_api_timeout_in_ms,
                flags.rest_api_enable_cors_support,
                flags.max_body_bytes,
                flags.enable_signature_method_name_check,
                self._metrics_path(),
            ),
            self._logs,
            self._readiness,
        )
        services = Services(
            self._core,
            flags.enable_serialization_as_tensor_content,
            flags.enable_signature_method_name_check,
            self._logs,
            self._configs.apply,
            ProfilerService() if flags.enable_profiler else None,
        )
        self._grpc_web = GrpcWeb(services.methods(), self._admission, rest_pool)
        self._grpc = GrpcServer(
            services,
            self._bearers,
            GrpcOptions(
                flags.grpc_max_threads,
                _channel_arguments(flags.grpc_channel_arguments),
                flags.enable_grpc_healthcheck_service or self._store is not None,
                flags.grpc_transport,
                flags.reuse_port,
            ),
        )
        # TensorFlow's modules are 270,000 objects, which every full collection would walk through.
        gc.collect()
        gc.freeze()
        self._core.start()
        servers: list[tuple[HttpServer, asyncio.AbstractServer]] = []
        sweeps: list[asyncio.Task[None]] = []
        try:
            if flags.management_socket:
                self._sampler.start()
                servers.append(await self._listen_unix(flags.management_socket))
            await self._load_or_stop()
            if self._stopping.is_set():
                return 0
            grpc_port, rest_port = await self._open_ports(servers)
            sweeps = [asyncio.create_task(server.sweep()) for server, _ in servers]
            sweeps.append(asyncio.create_task(self._bearers.follow()))
            sweeps.append(asyncio.create_task(self._bearers.refusals.tell(self._events.publish)))
            watching = asyncio.create_task(self._follow_config())
            forget_start_up()
            self._set_ready(grpc_port, rest_port)
            await self._stopping.wait()
            log.info("Draining")
            self._ready = False
            watching.cancel()
        finally:
            await self._drain(servers, sweeps)
        log.info("Ended")
        return 0

    def _make_core(self) -> ServerCore:
        flags = self._flags
        options = saved_model.SavedModelOptions(tuple(flags.saved_model_tags.split(",")), session_config(flags))
        return ServerCore(
            lambda name, number, path: self._load(name, number, path, options),
            CoreOptions(
                flags.file_system_poll_wait_seconds,
                RetryPolicy(flags.max_num_load_retries, flags.load_retry_interval_micros / 1e6),
                flags.num_load_threads or min(4, cpus()),
                flags.num_unload_threads or 1,
                flags.allow_version_labels_for_unavailable_models,
                keep_labelled=self._store is not None,
            ),
            self._on_change,
            lambda name, change: self._events.publish(model_event(name, change)),
        )

    def _load(self, name: str, number: int, path: Path, options: saved_model.SavedModelOptions) -> Batcher:
        """Load and warm up a version; in one of the manager's threads."""
        flags = self._flags
        servable: Servable
        if flags.prefer_tflite_model and lite.found(path):
            servable = lite.load(path, flags.num_tflite_pools * flags.num_tflite_interpreters_per_pool)
        else:
            servable = saved_model.load(path, options)
        try:
            batcher = self._batching.batcher(servable, path, name, number)
            if flags.enable_model_warmup:
                warm_up(batcher, path, flags.num_request_iterations_for_warmup)
        except BaseException:
            servable.close()
            raise
        return batcher

    def _metrics_path(self) -> str:
        """Where the metrics page is: as the monitoring config says; in a store always."""
        if self._flags.monitoring_config_file:
            monitoring = config_protos.read("MonitoringConfig", Path(self._flags.monitoring_config_file))
            if monitoring.prometheus_config.enable:
                return str(monitoring.prometheus_config.path) or METRICS_PATH
            return ""
        return METRICS_PATH if self._store is not None else ""

    def _on_change(self, version: Version) -> None:
        """From the manager, whose lock is held."""
        self._events.publish(version_event(version))
        if version.state == "AVAILABLE" and version.load_seconds is not None:
            metrics.LOADS.add(version.model, str(version.number), "OK")
            metrics.LOAD_SECONDS.observe(version.load_seconds, version.model)
        elif version.state == "END" and version.error is not None:
            metrics.LOADS.add(version.model, str(version.number), version.error.code.name)
        if self._store is not None and version.state == "END":
            with contextlib.suppress(RuntimeError):  # the pool is shut down: the next start prunes
                self._management_pool.submit(self._configs.prune, version.model)

    def _load_models(self) -> None:
        """What the flags or the store say; by hand (without a store) waits for the first version of each model."""
        flags = self._flags
        try:
            if self._store is not None:
                for name, why in self._configs.load().items():
                    log.error("Model %s: %s", name, why)
                return
            if flags.model_config_file:
                config = model_config.read(Path(flags.model_config_file))
            elif flags.model_base_path:
                config = Config()
                config.model_config_list.config.add(
                    name=flags.model_name,
                    base_path=os.path.abspath(flags.model_base_path),
                    model_platform="tensorflow",
                )
            elif flags.management_socket:
                return
            else:
                raise StartFailed("Nothing to serve: set --model_base_path, --model_config_file or --store.")
            models = model_config.to_models(config)
            self._core.reload(models, starting=True)
            self._configs.set_memory(config)
        except ServingError as error:
            raise StartFailed(error.message) from None
        failures = self._core.wait([model.name for model in models])
        for name, why in failures.items():
            log.error("Model %s is not served: %s", name, why)
        if models and len(failures) == len(models):
            raise StartFailed(f"{len(failures)} servable(s) did not become available: {not_available(failures)}")

    async def _load_or_stop(self) -> None:
        """`_load_models`, unless a signal comes first."""
        loading = asyncio.ensure_future(asyncio.to_thread(self._load_models))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._stopping.is_set():
            self._core.manager.interrupt()
            with contextlib.suppress(StartFailed):  # it was not given the time
                await loading
        else:
            await loading

    # Ports.

    async def _listen_unix(self, path: str) -> tuple[HttpServer, asyncio.AbstractServer]:
        """REST and management for the owner: the socket is 0600, and asks for no bearer."""
        management = ManagementApi(
            self._core,
            self._configs,
            self._batching,
            self._events,
            self._management_pool,
            {"tensorflow": tf.__version__, "jupyter_tfserve": __version__},
            self._store,
            self._sampler,
        )

        def answer(request: Exchange) -> None:
            forwarded = request.headers.get(GRANT_HEADER.lower())
            grant = Grant.from_json(json.loads(forwarded)) if forwarded else None
            if request.target.startswith(f"{GRPC_WEB}/"):
                self._grpc_web(request, grant)
            elif grant is not None:
                self._admission.rest(grant, request, self._rest)
            elif request.target.startswith("/api/"):
                management(request)
            else:
                self._rest(request)

        server = HttpServer(answer, self._flags.max_body_bytes)
        before = os.umask(0o177)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            listening = await asyncio.get_running_loop().create_unix_server(server.protocol, path)
        finally:
            os.umask(before)
        return server, listening

    async def _open_ports(
        self, servers: list[tuple[HttpServer, asyncio.AbstractServer]]
    ) -> tuple[int | None, int | None]:
        """Open what the flags say; returns the gRPC and the REST port."""
        flags = self._flags
        grpc_port = rest_port = None
        tls = Tls.read(Path(flags.ssl_config_file)) if flags.ssl_config_file else None
        if flags.port:
            grpc_port = self._first_free(
                "gRPC", flags.port, lambda port: self._grpc.bind(_address(flags.host, port), tls)
            )
        if flags.grpc_socket_path:
            self._grpc.bind(f"unix:{flags.grpc_socket_path}")
        self._grpc.start()
        if flags.rest_api_port:
            sockets: list[socket.socket] = []
            rest_port = self._first_free("REST", flags.rest_api_port, lambda port: self._bind_tcp(port, sockets))
            guarded = RestPort(self._bearers, self._admission, self._rest) if self._bearers else self._rest
            server = HttpServer(guarded, flags.max_body_bytes)
            listening = await asyncio.get_running_loop().create_server(
                server.protocol, sock=sockets[0], backlog=1024, ssl=tls.for_rest() if tls else None
            )
            servers.append((server, listening))
        return grpc_port, rest_port

    def _bind_tcp(self, port: int, sockets: list[socket.socket]) -> int:
        family = socket.AF_INET6 if ":" in self._flags.host else socket.AF_INET
        tcp = socket.socket(family, socket.SOCK_STREAM)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._flags.reuse_port:
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            tcp.bind((self._flags.host, port))
            tcp.listen(1024)
        except OSError:
            tcp.close()
            raise
        sockets.append(tcp)
        return port

    def _first_free(self, what: str, port: int, bind: _Bind) -> int:
        """Bind the port, or with --find_free_ports the first free one after it; a change is said aloud."""
        last = port + PORTS_TRIED if self._flags.find_free_ports else port
        failed: OSError | None = None
        for candidate in range(port, min(last, 65535) + 1):
            try:
                bind(candidate)
            except OSError as taken:
                failed = taken
                continue
            if candidate != port:
                self._notices.append(f"Port {port} was taken: {what} answers on {candidate}.")
                log.warning(self._notices[-1])
            log.info("%s on %s:%d", what, self._flags.host, candidate)
            return candidate
        raise StartFailed(f"{what} cannot listen on {self._flags.host}:{port}: {failed}. Choose another port.")

    def _readiness(self) -> str:
        """Why the server should not be sent requests now, "" if it may be."""
        waiting = [name for name in self._core.models if not self._core.manager.available(name)]
        if waiting:
            return f"no version is available of: {', '.join(sorted(waiting))}"
        return "" if self._ready else "starting or draining"

    def _set_ready(self, grpc_port: int | None, rest_port: int | None) -> None:
        self._ready = True
        self._grpc.set_serving(True)
        if self._flags.ready_fd >= 0:
            line = json.dumps({"grpc_port": grpc_port, "rest_port": rest_port, "notices": self._notices}) + "\n"
            os.write(self._flags.ready_fd, line.encode())
            os.close(self._flags.ready_fd)
        log.info("Ready")

    # Changes from outside, and the end.

    async def _follow_config(self) -> None:
        """Serve what models.config says whenever it changes: at once in a store, at each poll where the flag says
        so.
        """
        if self._store is not None:
            await self._follow_store(self._store)
        seconds = self._flags.model_config_file_poll_wait_seconds
        if not self._flags.model_config_file or seconds <= 0:
            return
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self._read_config_again)

    async def _follow_store(self, store: Store) -> None:
        """A look whenever the folder changes, and each second: what changed before the watch began, or on a network
        file system, is told by nobody.
        """
        seen: tuple[int, ...] = ()
        while True:
            with contextlib.suppress(OSError, RuntimeError):  # the folder went away, or there is no watch to be had
                async for _ in awatch(
                    store.root, recursive=False, debounce=50, step=10, rust_timeout=1000, yield_on_timeout=True
                ):
                    found = _stamp(store.config)
                    if found != seen:
                        seen = found
                        await asyncio.to_thread(self._configs.follow)
            await asyncio.sleep(1)

    def _read_config_again(self) -> None:
        refused = ""
        try:
            self._configs.apply(model_config.read(Path(self._flags.model_config_file)))
        except ServingError as error:
            refused = str(error)
            if refused != self._refused:  # once, not at each poll
                log.error("%s is refused, what was served goes on: %s", self._flags.model_config_file, error)
        self._refused = refused

    async def _drain(
        self, servers: list[tuple[HttpServer, asyncio.AbstractServer]], sweeps: list[asyncio.Task[None]]
    ) -> None:
        """Stop accepting, answer what is in flight, unload."""
        self._core.manager.interrupt()
        timeout = self._flags.drain_timeout_seconds
        for _, listening in servers:
            listening.close()
        await asyncio.gather(
            asyncio.to_thread(self._grpc.stop, timeout), *(server.drain(timeout) for server, _ in servers)
        )
        self._sampler.stop()
        for sweep in sweeps:
            sweep.cancel()
        await asyncio.to_thread(self._core.close, 5.0)
        await asyncio.to_thread(self._logs.close)
        self._management_pool.shutdown(wait=False, cancel_futures=True)
        if self._flags.management_socket:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._flags.management_socket)


def _stamp(file: Path) -> tuple[int, ...]:
    """What differs between two contents of a file that is replaced by renaming; () if there is none."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _address(host: str, port: int) -> str:
    """Host and port as gRPC takes them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _channel_arguments(text: str) -> list[tuple[str, str | int]]:
    """``key=value,key=value`` as gRPC takes them: numbers as numbers."""
    arguments: list[tuple[str, str | int]] = []
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        arguments.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return arguments

"""The `tfserve` program: builds the parts from the flags, runs them, drains."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib.metadata
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import uvloop

from .. import __version__
from ..devices import Devices
from ..grants import GRANT_HEADER, Grant
from ..store import Store, StoreError
from . import config as model_config
from . import config_protos, metrics
from .auth import Bearers
from .codecs.json_numbers import quiet_numpy
from .config import Config, ConfigStore
from .config_following import follow_store, poll_file
from .core.batching import Batcher
from .core.manager import Loader, RetryPolicy, Version
from .core.memory_budget import Loaded, MemoryBudget
from .core.pools import ModelPools
from .core.server_core import CoreOptions, ServerCore
from .errors import ServingError, StartFailed
from .flags import Flags, cpus
from .frontends.admission import Admission, RestPort
from .frontends.grpc import GrpcOptions, GrpcServer
from .frontends.grpc_web import PREFIX as GRPC_WEB
from .frontends.grpc_web import GrpcWeb
from .frontends.http import Exchange
from .frontends.http_server import HttpServer
from .frontends.management import EventBus, ManagementApi, model_event, version_event
from .frontends.rest import RestApi, RestOptions
from .frontends.services import Services, not_available
from .memory import forget_start_up
from .ports import Ports
from .request_log import RequestLogs
from .stats import Sampler, load_of
from .tls import Tls
from .workers.assigned import PREFIX as ASSIGNED
from .workers.assigned import Assigned
from .workers.one_process import OneProcess
from .workers.places import Places

log = logging.getLogger("tfserve")

METRICS_PATH = "/monitoring/prometheus/metrics"


def run(flags: Flags) -> int:
    """The program, with the models in this process; returns its exit status."""
    return run_program(flags, Program)


def run_program(flags: Flags, program: type[Program]) -> int:
    """Run the program of that kind; what keeps it from starting is said in plain words."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    if flags.version:
        sys.stdout.write(
            f"TensorFlow ModelServer: {__version__}+jupyter_tfserve\nTensorFlow Library: {_tensorflow_version()}\n"
        )
        return 0
    for line in flags.ineffective():
        log.warning("Flag without effect: %s", line)
    try:
        return uvloop.run(program(flags).run())
    except (StartFailed, StoreError, ServingError) as error:
        sys.stderr.write(f"Failed to start server. Error: {error}\n")
        return 1


class Program:
    """One run of the server. Its parts are made in `run`, inside the event loop; front_app.py has another kind."""

    _loads_here = True  #: versions are loaded into this process

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._ports = Ports(flags.host, flags.find_free_ports, flags.reuse_port)
        self._ready = False
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """From the start to the end of the drain; returns the exit status. Raises StartFailed."""
        flags = self._flags
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._events = EventBus(loop)
        self._store = Store(flags.store).create() if flags.store else None
        self._management_pool = ThreadPoolExecutor(16, "management")
        self._logs = RequestLogs()
        self._budget = MemoryBudget(flags.memory_budget_mb, self._in_memory)
        self._prepare(loop)
        self._core = self._make_core()
        self._configs = ConfigStore(self._core, self._store)
        try:
            self._bearers = Bearers(flags.bearer_hashes_file, flags.callers_socket)
        except (OSError, ValueError, KeyError, TypeError) as error:  # rather no server than one without its bearers
            raise StartFailed(f"--bearer_hashes_file cannot be read: {error}") from None
        self._admission = Admission(self._bearers)
        self._sampler = Sampler(lambda: load_of(self._core), on_sample=self._events.publish)
        quiet_numpy()
        rest_pools = ModelPools(flags.rest_api_num_threads, lambda name: name in self._core.models, "rest", quiet_numpy)
        self._rest = RestApi(
            self._core,
            rest_pools,
            RestOptions(
                flags.rest_api_timeout_in_ms,
                flags.rest_api_enable_cors_support,
                flags.max_body_bytes,
                flags.enable_signature_method_name_check,
                self._metrics_path(),
                tell_codes=flags.worker,
            ),
            self._logs,
            self._readiness,
        )
        services = self._make_services()
        self._grpc_web = GrpcWeb(services, self._admission, rest_pools)
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
            ModelPools(flags.grpc_max_threads, lambda name: name in self._core.models, "grpc"),
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
            sweeps += self._begin()
            await self._load_or_stop()
            if self._stopping.is_set():
                return 0
            grpc_port, rest_port = await self._open_ports(servers)
            sweeps += [asyncio.create_task(server.sweep()) for server, _ in servers]
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

    # What a front does otherwise.

    def _prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make what loads versions."""
        from .local import Local, sees

        local = self._local = Local(
            self._flags, self._store, self._budget, lambda model: self._on_model(model, "changed")
        )
        self._batching = local.batching
        self._loader: Loader = local.load
        self._heartbeat: Callable[[], Future[None]] = local.heartbeat
        self._processes: Places = OneProcess(self._store, Devices(ask=sees))

    def _make_services(self) -> Services:
        return Services(*self._service_options(), self._local.profiler)

    def _begin(self) -> list[asyncio.Task[None]]:
        """Before the first version is loaded."""
        return []

    def _close_backend(self) -> None:
        """After the last one is unloaded."""
        self._local.close()

    # Parts.

    def _service_options(self) -> tuple[ServerCore, bool, bool, RequestLogs, Callable[[Config], object]]:
        flags = self._flags
        return (
            self._core,
            flags.enable_serialization_as_tensor_content,
            flags.enable_signature_method_name_check,
            self._logs,
            self._configs.apply,
        )

    def _make_core(self) -> ServerCore:
        flags = self._flags
        return ServerCore(
            self._load,
            CoreOptions(
                flags.file_system_poll_wait_seconds,
                RetryPolicy(flags.max_num_load_retries, flags.load_retry_interval_micros / 1e6),
                flags.load_timeout_seconds,
                flags.num_load_threads or min(4, cpus()),
                flags.num_unload_threads or 1,
                flags.allow_version_labels_for_unavailable_models,
                keep_labelled=self._store is not None,
            ),
            self._on_change,
            self._on_model,
        )

    def _load(self, name: str, number: int, path: Path) -> Batcher:
        """Load and warm up a version, if there is room for it; in one of the manager's threads."""
        with self._budget.reserve(name, number, path, self._loads_here) as reservation:
            batcher = self._loader(name, number, path)
        if self._loads_here:
            batcher.memory = reservation.size
        return batcher

    def _on_model(self, name: str, change: str) -> None:
        self._events.publish(model_event(name, change))

    def _make_assigned(self) -> Assigned:
        from .platforms.probe import probe

        assigned = Assigned(self._core, self._management_pool, probe)
        self._local.batcher = assigned.batcher
        self._loader = functools.partial(assigned.load, self._local.load)
        return assigned

    def _in_memory(self) -> list[Loaded]:
        """What the memory budget counts."""
        return [
            Loaded(version.model, version.number, 0 if servable.is_idle else servable.memory or 0)
            for name in self._core.manager.names()
            for version in self._core.manager.versions(name)
            if (servable := version.servable) is not None
        ]

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
            {"tensorflow": _tensorflow_version(), "jupyter_tfserve": __version__},
            self._store,
            self._sampler,
            self._heartbeat,
            self._processes,
        )
        assigned = self._make_assigned() if self._flags.worker else None

        def answer(request: Exchange) -> None:
            forwarded = request.headers.get(GRANT_HEADER.lower())
            grant = Grant.from_json(json.loads(forwarded)) if forwarded else None
            if request.target.startswith(f"{GRPC_WEB}/"):
                self._grpc_web(request, grant)
            elif grant is not None:
                self._admission.rest(grant, request, self._rest)
            elif assigned is not None and request.target.startswith(ASSIGNED):
                assigned(request)
            elif request.target.startswith("/api/"):
                management(request)
            else:
                self._rest(request)

        # A worker's front has its own limit, and closes a connection only when it wants no answer.
        server = (
            HttpServer(answer, 2**62, 0.0) if self._flags.worker else HttpServer(answer, self._flags.max_body_bytes)
        )
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
            grpc_port, _ = self._ports.first_free(
                "gRPC", flags.port, lambda port: self._grpc.bind(self._ports.address(port), tls)
            )
        if flags.grpc_socket_path:
            self._grpc.bind(f"unix:{flags.grpc_socket_path}")
        self._grpc.start()
        if flags.rest_api_port:
            rest_port, listening_socket = self._ports.tcp("REST", flags.rest_api_port)
            guarded = RestPort(self._bearers, self._admission, self._rest) if self._bearers else self._rest
            server = HttpServer(guarded, flags.max_body_bytes)
            listening = await asyncio.get_running_loop().create_server(
                server.protocol, sock=listening_socket, backlog=1024, ssl=tls.for_rest() if tls else None
            )
            servers.append((server, listening))
        return grpc_port, rest_port

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
            line = json.dumps({"grpc_port": grpc_port, "rest_port": rest_port, "notices": self._ports.notices}) + "\n"
            os.write(self._flags.ready_fd, line.encode())
            os.close(self._flags.ready_fd)
        log.info("Ready")

    # Changes from outside, and the end.

    async def _follow_config(self) -> None:
        flags = self._flags
        if self._store is not None:
            await follow_store(self._store, self._configs)
        elif flags.model_config_file and flags.model_config_file_poll_wait_seconds > 0:
            await poll_file(Path(flags.model_config_file), flags.model_config_file_poll_wait_seconds, self._configs)

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
        await asyncio.to_thread(self._close_backend)
        await asyncio.to_thread(self._logs.close)
        self._management_pool.shutdown(wait=False, cancel_futures=True)
        if self._flags.management_socket:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._flags.management_socket)


def _tensorflow_version() -> str:
    """Without importing it; the package may have another name (tensorflow-cpu)."""
    for name in importlib.metadata.packages_distributions().get("tensorflow", ()):
        return importlib.metadata.version(name)
    return "unknown"


def _channel_arguments(text: str) -> list[tuple[str, str | int]]:
    """``key=value,key=value`` as gRPC takes them: numbers as numbers."""
    arguments: list[tuple[str, str | int]] = []
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        arguments.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return arguments

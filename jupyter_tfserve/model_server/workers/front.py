"""The front: what loads versions, in a server that has workers. `app.py` gives it to the manager as its loader; what it
returns knows the workers that have the version.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from ... import api
from ...devices import Devices
from ...store import Store
from ..batching_settings import BatchingSettings
from ..core.batching import Batcher
from ..core.manager import Version
from ..core.server_core import ServerCore
from ..errors import Code, ServingError
from ..flags import Flags
from . import messages
from .crashes import Crashes
from .fleet import Fleet, Key, Worker
from .here import this_process
from .moves import Moves
from .placement import Placements, Wanted, choose, needed
from .replicas import RemoteVersion, Replica
from .slots import Slot, slots

log = logging.getLogger(__name__)

#: Flags that are the front's own: a worker has none of them.
_OWN_FLAGS = set(
    "port grpc_socket_path rest_api_port host find_free_ports reuse_port instances model_config_file "
    "model_config_file_poll_wait_seconds model_name model_base_path store management_socket bearer_hashes_file "
    "callers_socket ssl_config_file grpc_channel_arguments owner_fd ready_fd isolation workers worker "
    "monitoring_config_file version batching_parameters_file enable_batching auto_batching "
    "enable_per_model_batching_parameters max_num_load_retries load_retry_interval_micros "
    "file_system_poll_wait_seconds num_load_threads rest_api_enable_cors_support enable_grpc_healthcheck_service "
    "enable_profiler load_timeout_seconds hang_timeout_seconds gpu_memory_limit_mb max_body_bytes "
    "memory_budget_mb".split()
)


class Front:
    """Loads versions into workers, moves them, and loads them again where a worker has ended."""

    def __init__(
        self,
        flags: Flags,
        store: Store | None,
        loop: asyncio.AbstractEventLoop,
        on_process: Callable[[], None],
        on_move: Callable[[str, str, str, str], None],
    ) -> None:
        """`on_move(model, device, state, error)` is told how a move goes on, `on_process()` that a worker's state has
        changed. Both are called from any thread and must not wait.
        """
        self._flags = flags
        self._isolation = flags.isolation if flags.isolation != "none" else "device"
        folder = Path(flags.management_socket).parent if flags.management_socket else None
        self.fleet = Fleet(
            list(worker_flags(flags)),
            loop,
            folder,
            flags.drain_timeout_seconds,
            flags.hang_timeout_seconds,
            self._ended,
            lambda worker: on_process(),
        )
        self.devices = Devices()
        self.placements = Placements(store)
        self.batching = BatchingSettings(flags, store, None)
        self.moves = Moves(self, on_move, flags.drain_timeout_seconds)
        self.core: ServerCore | None = None  #: as soon as there is one
        self._crashes = Crashes()
        self._versions: dict[Key, RemoteVersion] = {}
        self._placing: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._spreading = ThreadPoolExecutor(16, "replica")
        self._closed = threading.Event()

    # Loading.

    def load(self, model: str, number: int, path: Path) -> Batcher:
        """The manager's loader; in one of its threads. Tries again where a worker ends over it."""
        key = model, number
        while True:
            wait = self._crashes.wait(key)
            if wait is None:
                error = self._given_up(key)
                self._crashes.forget(key)
                raise error
            if self._closed.wait(wait):
                raise ServingError(Code.UNAVAILABLE, "The server is shutting down.")
            with self.placing(model):
                crashed = self._crashes.count(key)
                try:
                    remote = self.load_on(self.slots(model, number, path), model, number, path)
                except ServingError as refused:
                    if refused.code is Code.UNAVAILABLE and self._crashes.count(key) > crashed:
                        continue
                    raise
                self._versions[key] = remote
            self._crashes.loaded(key)
            # As far as anyone asks more of it than a run, it is one.
            batcher = cast(Batcher, remote)
            self.batching.follow(batcher, model, path)
            return batcher

    def placing(self, model: str) -> threading.RLock:
        """To be held while a model's versions are loaded or moved: each sees what the others did."""
        return self._placing[model]

    def slots(self, model: str, number: int, path: Path, wanted: Wanted | None = None) -> list[Slot]:
        """Where a version is to be loaded; `wanted` instead of what is remembered. Raises ServingError where it cannot
        be.
        """
        wanted = wanted or self.placements.of(model)
        devices = choose(self.devices.read(), wanted, needed(path))
        alone = self._crashes.is_alone((model, number))
        return slots(self._isolation, devices, model, number, alone, wanted.memory_limit)

    def load_on(self, places: Sequence[Slot], model: str, number: int, path: Path) -> RemoteVersion:
        """Load a version in each of these places, at the same time; raises ServingError, and it is loaded in none, if
        one cannot.
        """
        assert self.core is not None
        batching = self.batching.of(model, path)
        assignment = messages.Assignment(
            path=str(path),
            batching=messages.batching_message(batching),
            logging=messages.logging_message(self.core.logging(model)),
        )
        futures = [self._spreading.submit(self._assign, slot, (model, number), assignment) for slot in places]
        found: list[tuple[Worker, messages.Loaded]] = []
        failed: BaseException | None = None
        for future in futures:
            try:
                found.append(future.result())
            except BaseException as error:
                failed = failed or error
        if failed is not None:
            for worker, _ in found:
                self._take_away(worker, (model, number))
            raise failed
        replicas = [Replica(worker) for worker, _ in found]
        return RemoteVersion(model, number, path, found[0][1], batching, replicas, self._close)

    def _assign(self, slot: Slot, key: Key, assignment: messages.Assignment) -> tuple[Worker, messages.Loaded]:
        worker = self.fleet.hold(slot.name, slot.device, key, slot.flags)
        try:
            loaded = worker.call(
                "PUT", key[0], str(key[1]), content=assignment, timeout=self._flags.load_timeout_seconds or None
            )
        except BaseException as error:
            code = error.code if isinstance(error, ServingError) else Code.INTERNAL
            if code is Code.UNAVAILABLE:
                self._wait_for_end(worker)  # so that its crash is counted before it is tried again
            if code is Code.DEADLINE_EXCEEDED:  # it goes on, and can be taken away when it is over
                threading.Thread(target=self._take_away, args=(worker, key), name="take-away", daemon=True).start()
            else:
                self._take_away(worker, key)
            raise
        worker.loading.discard(key)
        return worker, loaded

    @staticmethod
    def _wait_for_end(worker: Worker) -> None:
        worker.process.wait(1.0)
        worker.accounted.wait(1.0)

    # Unloading.

    def _close(self, remote: RemoteVersion) -> None:
        """The manager unloads a version in which nothing runs."""
        key = remote.model, remote.number
        with self.placing(remote.model):
            if self._versions.get(key) is remote:
                del self._versions[key]
            self._crashes.forget(key)
            self.take_away(remote)

    def take_away(self, remote: RemoteVersion) -> None:
        """Unload it wherever it is."""
        for replica in remote.replicas:
            self.take_away_from(remote, replica)

    def take_away_from(self, remote: RemoteVersion, replica: Replica) -> None:
        """Unload it in one place, where nothing runs any more."""
        self._take_away(replica.worker, (remote.model, remote.number))

    def _take_away(self, worker: Worker, key: Key) -> None:
        # One that holds nothing else ends, and unloads with it.
        if worker.holds - {key}:
            try:
                worker.call("DELETE", key[0], str(key[1]))
            except ServingError as error:
                log.warning("Version %s of %s in the worker %s: %s", key[1], key[0], worker.name, error.message)
        self.fleet.let_go(worker, key)

    # A worker has ended unasked; in a thread of its own.

    def _ended(self, worker: Worker) -> None:
        lost: list[Key] = []
        process = worker.process
        self._crashes.crashed(worker.holds, worker.suspects(), process.how_it_ended(), process.log_tail(15))
        worker.accounted.set()
        for key, remote in list(self._versions.items()):
            if not remote.without(worker):
                continue
            if remote.replicas:
                threading.Thread(target=self._replace, args=(key, remote), name="replace", daemon=True).start()
            else:
                lost.append(key)
        assert self.core is not None
        for key in lost:
            remote = self._versions.pop(key)
            self.core.manager.lost(key[0], key[1], cast(Batcher, remote))

    def _replace(self, key: Key, remote: RemoteVersion) -> None:
        """Load a replica again where one was lost, while the others serve."""
        model, number = key
        version = self._version(key)
        wait = self._crashes.wait(key)
        if version is None or self._closed.wait(0.0 if wait is None else wait):
            return
        with self.placing(model):
            if self._versions.get(key) is not remote or not remote.replicas:
                return
            if wait is None:  # it took down one after the other: the rest goes the same way, and then it is given up
                return
            there = {replica.worker.name for replica in remote.replicas}
            try:
                missing = [slot for slot in self.slots(model, number, version.path) if slot.name not in there]
                more = self.load_on(missing, model, number, version.path) if missing else None
            except ServingError as error:
                log.error("A replica of %s %s cannot be loaded again: %s", model, number, error.message)
                if self._crashes.wait(key) is not None and error.code is Code.UNAVAILABLE:
                    threading.Thread(target=self._replace, args=(key, remote), name="replace", daemon=True).start()
                return
            if more is not None:
                remote.replicas = (*remote.replicas, *more.replicas)
                self._crashes.loaded(key)

    def _version(self, key: Key) -> Version | None:
        assert self.core is not None
        return self.core.manager.available(key[0]).get(key[1])

    def _given_up(self, key: Key) -> ServingError:
        how, log_tail = self._crashes.last(key)
        return ServingError(
            Code.INTERNAL,
            f"Version {key[1]} of {key[0]} keeps taking its process down, which {how} at last. The end of its log:\n"
            f"{log_tail}",
            "Mend the version and register it anew; the log says more.",
        )

    def versions(self, model: str) -> list[RemoteVersion]:
        """The loaded versions of a model."""
        return [remote for (name, _), remote in list(self._versions.items()) if name == model]

    # What the management API asks (`places.py`).

    def device_list(self, models: Sequence[str]) -> api.DeviceList:
        """The devices, and what is served on each."""
        found: dict[str, set[str]] = {}
        for (model, _), remote in list(self._versions.items()):
            for device in remote.devices:
                found.setdefault(device, set()).add(model)
        return self.devices.message(found)

    def placement(self, model: str) -> api.Placement:
        """Where a model is to be, and whether it is on its way."""
        return self.moves.status(model)

    def check(self, model: str, request: Mapping[str, Any]) -> None:
        """Raise ServingError where a `PlacementRequest` cannot be."""
        self.moves.check(model, request)

    def place(self, model: str, request: Mapping[str, Any]) -> None:
        """Where a model's versions are to be loaded from now on; those that are loaded begin to move there."""
        self.moves.ask(model, request)

    def wait(self, model: str, timeout: float) -> None:
        """Until a model is not on its way any more, or so many seconds have passed."""
        self.moves.wait(model, timeout)

    def devices_of(self, servable: Batcher) -> list[str]:
        """Where a loaded version is."""
        return cast(RemoteVersion, servable).devices

    def processes(self, models: Sequence[str]) -> list[api.Process]:
        """This process and its workers."""
        return [this_process("", ()), *self.fleet.processes()]

    def log(self, process: str) -> Path | None:
        """The log of a worker; None for an unknown one."""
        return self.fleet.log(process)

    # What the program asks.

    def reports(self) -> list[dict[str, Any]]:
        """What each worker has counted; one that is gone counts with what it last said."""
        return self.fleet.reports()

    def set_logging(self, model: str) -> None:
        """The model's configuration may have changed: tell the workers how its requests are logged."""
        assert self.core is not None
        message = messages.logging_message(self.core.logging(model))
        for worker in {replica.worker for remote in self.versions(model) for replica in remote.replicas}:
            try:
                worker.call("PUT", model, "logging", content=message, timeout=10.0)
            except ServingError as error:
                log.warning("The worker %s: %s", worker.name, error.message)

    def close(self) -> None:
        """End the workers; waits."""
        self._closed.set()
        self.fleet.close()
        self._spreading.shutdown(wait=False, cancel_futures=True)


def worker_flags(flags: Flags) -> Iterable[str]:
    """The flags that a worker gets from the front's command line."""
    for name, value in vars(flags).items():
        if name not in _OWN_FLAGS:
            yield f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
    yield "--port=0"
    yield "--max_num_load_retries=0"  # the front's manager tries again
    yield "--file_system_poll_wait_seconds=-1"
    yield "--num_load_threads=4"
    yield "--load_timeout_seconds=0"  # the front's manager has a limit
    yield "--memory_budget_mb=-1"  # the front asks before it loads

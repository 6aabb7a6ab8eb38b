"""The management API on the model server's Unix socket: `api.py` is its vocabulary. Whoever can open the socket
(0600) may do all of it; the Jupyter Server asks its own users first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit
from weakref import WeakKeyDictionary

from ... import api
from ...process import log_tail
from ...store import Store, StoreError, check_name
from .. import origin
from ..batching_settings import BatchingSettings
from ..config import ConfigStore, policy_message
from ..core.batching import Batcher
from ..core.manager import Version
from ..core.policy import ModelConfig
from ..core.servable import TensorInfo
from ..core.server_core import ServerCore
from ..errors import Code, ServingError, invalid
from ..example import example
from ..stats import KEPT, Sampler
from ..workers.places import Places
from .http import Exchange, Response

log = logging.getLogger(__name__)

#: Seconds between two signs of life on an event stream that has nothing to say.
HEARTBEAT = 15.0

#: Events that a reader may lag behind; then it is cut off, and reads the state afresh when it comes back.
_MAX_LAG = 1000

_DTYPES = {"float": "float32", "double": "float64", "half": "float16"}


class EventBus:
    """Tells every listener of every change (TF Serving's EventBus). `publish` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queues: dict[asyncio.Queue[api.Event | None], bool] = {}  # each with whether it wants stats

    def publish(self, event: api.Event) -> None:
        """Hand an event to the listeners (one of type "stats" to those who want them); never waits."""
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:
            pass  # the loop is closed: nobody listens

    def _put(self, event: api.Event | None) -> None:
        for queue, wants_stats in list(self._queues.items()):
            if event is not None and event["type"] == "stats" and not wants_stats:
                continue
            late = queue.qsize() >= _MAX_LAG
            if late:
                self._queues.pop(queue, None)
            queue.put_nowait(None if late else event)

    async def listen(self, stats: bool = False) -> AsyncIterator[bytes]:
        """Events as server-sent events, with a comment now and then that shows that the line is alive."""
        queue: asyncio.Queue[api.Event | None] = asyncio.Queue()
        self._queues[queue] = stats
        try:
            yield b": connected\n\n"
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), HEARTBEAT)
                except asyncio.TimeoutError:
                    yield b": alive\n\n"
                    continue
                if event is None:
                    return
                yield b"data: " + json.dumps(event).encode() + b"\n\n"
        finally:
            self._queues.pop(queue, None)


class ManagementApi:
    """Answers under ``/api/``. What waits for files or loads runs in `pool`."""

    def __init__(
        self,
        core: ServerCore,
        configs: ConfigStore,
        batching: BatchingSettings,
        events: EventBus,
        pool: Executor,
        versions: dict[str, str],
        store: Store | None,
        sampler: Sampler,
        heartbeat: Callable[[], Future[None]],
        places: Places,
    ) -> None:
        """`heartbeat` begins what shows that this process works; its future fails with ServingError if it does not."""
        self._core = core
        self._configs = configs
        self._batching = batching
        self._events = events
        self._pool = pool
        self._versions = versions
        self._store = store
        self._sampler = sampler
        self._origins: WeakKeyDictionary[Version, api.Origin | None] = WeakKeyDictionary()
        self._heartbeat = heartbeat
        self._places = places

    def __call__(self, request: Exchange) -> None:
        """Answer a request."""
        parts = urlsplit(request.target)
        path = [unquote(part) for part in parts.path.split("/")[2:]]
        if path == ["heartbeat"] and request.method == "GET":
            request.respond_with(asyncio.create_task(self._beat()))
            return
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if path == ["events"] and request.method == "GET":
            events = self._events.listen(query.get("stats") == "true")
            request.respond(Response(200, content_type="text/event-stream", stream=events))
            return
        loop = asyncio.get_running_loop()
        request.respond_with(loop.run_in_executor(self._pool, self._answer, request, path, query))

    async def _beat(self) -> Response:
        try:
            await asyncio.wrap_future(self._heartbeat())
        except ServingError as error:
            return _json(api.Refusal(message=error.message, remedy=error.remedy), error.code.http)
        return Response(200, b"alive\n", "text/plain")

    def _answer(self, request: Exchange, path: list[str], query: dict[str, str]) -> Response:
        """In a thread of the pool."""
        try:
            return self._route(request, path, query)
        except ServingError as error:
            status = 409 if error.code is Code.FAILED_PRECONDITION else error.code.http
            return _json(api.Refusal(message=error.message, remedy=error.remedy), status)
        except StoreError as error:
            return _json(api.Refusal(message=error.message, remedy=error.remedy), 400)
        except (TypeError, ValueError) as error:  # protobuf's own checks of what came
            return _json(api.Refusal(message=f"The request is malformed: {error}", remedy=""), 400)

    def _route(self, request: Exchange, path: list[str], query: dict[str, str]) -> Response:
        match (request.method, *path):
            case ("GET", "state"):
                return _json(self.state())
            case ("GET", "stats"):
                return _json(self._sampler.stats(_seconds(query.get("seconds", str(KEPT)))))
            case ("GET", "models", name, "example"):
                return _json(self._example(name, query.get("signature", "")))
            case ("GET", "config"):
                return Response(200, self._configs.text().encode(), "text/plain; charset=utf-8")
            case ("PUT", "config"):
                self._configs.replace(request.body.decode("utf-8", "replace"))
                return _json(self.state())
            case ("GET", "devices"):
                return _json(self._places.device_list(list(self._core.models)))
            case ("GET", "logs"):
                return self._log(query)
            case ("GET", "models", name):
                if "wait" in query:
                    self._find(name)
                    self._wait(name, _number(query["wait"]), float(query.get("timeout") or 0))
                return _json(self.model(name))
            case ("PUT", "models", name):
                self._register(name, cast(api.ModelRequest, _object(request.body)))
                return _json(self.model(name))
            case ("DELETE", "models", name):
                self._configs.unregister(name, query.get("files") == "true")
                return Response(204)
            case ("PUT", "models", name, "policy"):
                self._configs.set_policy(name, cast(api.Policy, _object(request.body)))
                return _json(self.model(name))
            case ("PUT", "models", name, "batching"):
                self._find(name)
                self._batching.change(name, _object(request.body))
                self._events.publish(model_event(name, "changed"))
                return _json(self.model(name))
            case ("PUT", "models", name, "device"):
                self._find(name)
                self._places.place(name, _object(request.body))
                self._places.wait(name, float(query.get("timeout") or 0))
                self._events.publish(model_event(name, "changed"))
                return _json(self.model(name))
            case ("PATCH", "models", name, "labels"):
                self._configs.set_labels(name, _labels(_object(request.body)))
                return _json(self.model(name))
        raise ServingError(Code.NOT_FOUND, f"There is no {request.method} /api/{'/'.join(path)}.")

    def _register(self, name: str, message: api.ModelRequest) -> None:
        placement: Any = message.pop("placement", None)
        is_loaded = bool(self._core.manager.available(name))
        if placement is not None:
            self._places.check(name, placement)
            if not is_loaded:  # so that its first version is loaded there
                check_name(name)
                self._places.place(name, placement)
        self._configs.register(name, message)
        if placement is not None and is_loaded:
            self._places.place(name, placement)

    def _log(self, query: dict[str, str]) -> Response:
        """The end of a worker's log; that of this process is its owner's."""
        process = query.get("process", "")
        log = self._places.log(process)
        if log is None:
            there = ", ".join(one["id"] for one in self._places.processes(())[1:]) or "none"
            raise ServingError(Code.NOT_FOUND, f"There is no worker {process!r}.", f"There are: {there}.")
        lines = _number(query.get("lines") or "200")
        return Response(200, log_tail(log, lines).encode(), "text/plain; charset=utf-8")

    def _find(self, name: str) -> ModelConfig:
        config = self._core.models.get(name)
        if config is None:
            raise ServingError(
                Code.NOT_FOUND, f"There is no model {name!r}.", "`%tfserve` lists those that are served."
            )
        return config

    def _wait(self, name: str, number: int, timeout: float) -> None:
        """Until a version has loaded, failed or ended, or the model is no longer served."""
        manager = self._core.manager

        def done() -> bool:
            if name not in self._core.models:
                return True
            version = manager.life(name, number)
            return version is not None and (version.state not in ("START", "LOADING") or version.error is not None)

        manager.wait(done, min(timeout, 3600.0))

    def _example(self, name: str, signature: str) -> api.Example:
        self._find(name)
        with self._core.use(name) as version:
            return example(version.loaded.signatures, version.path, signature)

    def _origin(self, version: Version) -> api.Origin | None:
        """Read once: a version's files do not change."""
        if version not in self._origins:
            self._origins[version] = origin.read(version.path)
        return self._origins[version]

    def state(self) -> api.State:
        """Everything at a glance."""
        served = self._core.models  # one configuration: it may be replaced meanwhile
        models = [self._model(served[name]) for name in sorted(served)]
        stored = [name for name in self._store.names() if name not in served] if self._store else []
        processes = self._places.processes(sorted(served))
        return api.State(server=None, versions=self._versions, models=models, processes=processes, stored=stored)

    def model(self, name: str) -> api.ModelStatus:
        """One model. Raises NOT_FOUND."""
        return self._model(self._find(name))

    def _model(self, config: ModelConfig) -> api.ModelStatus:
        name = config.name
        manager = self._core.manager
        labels = manager.labels(name)
        available = manager.available(name)
        servable = available[max(available)].servable if available else None
        return api.ModelStatus(
            name=name,
            base_path=str(config.base_path),
            platform=config.platform,
            policy=policy_message(config.policy),
            labels=labels,
            keep_versions=self._store.keep_versions(name) if self._store else 0,
            versions=[self._version(version, labels) for version in manager.versions(name)],
            on_disk=list(self._core.on_disk(name)),
            signatures=_signatures(servable) if servable else {},
            batching=self._batching.status(name, servable),
            placement=self._places.placement(name),
            error=self._core.error(name),
        )

    def _version(self, version: Version, labels: dict[str, int]) -> api.VersionStatus:
        servable = version.servable
        is_there = version.state in ("AVAILABLE", "UNLOADING")
        return api.VersionStatus(
            version=version.number,
            state=version.state,
            error_code=version.error.code.name if version.error else "OK",
            error_message=version.error.message if version.error else "",
            error_remedy=version.error.remedy if version.error else "",
            labels=sorted(label for label, number in labels.items() if number == version.number),
            path=str(version.path),
            since=version.since,
            load_seconds=version.load_seconds,
            in_flight=version.in_flight,
            memory=servable.memory if servable is not None and is_there and not servable.is_idle else None,
            idle=servable is not None and servable.is_idle,
            devices=self._places.devices_of(servable) if servable is not None and is_there else [],
            origin=self._origin(version),
        )


def version_event(version: Version) -> api.Event:
    """A version's change of state."""
    return api.Event(
        type="version",
        time=time.time(),
        model=version.model,
        version=version.number,
        state=version.state,
        error=version.error.message if version.error else "",
    )


def model_event(name: str, change: str) -> api.Event:
    """A change of what is served: "served", "changed" or "removed"."""
    return api.Event(type="model", time=time.time(), model=name, state=change)


def _signatures(servable: Batcher) -> dict[str, api.Signature]:
    return {
        name: api.Signature(
            inputs={key: _tensor(info) for key, info in signature.inputs.items()},
            outputs={key: _tensor(info) for key, info in signature.outputs.items()},
            method_name=signature.method_name,
        )
        for name, signature in servable.signatures.items()
    }


def _tensor(info: TensorInfo) -> api.Tensor:
    return api.Tensor(dtype=_DTYPES.get(info.dtype, info.dtype), shape=None if info.shape is None else list(info.shape))


def _json(message: Any, status: int = 200) -> Response:
    return Response(status, json.dumps(message).encode())


def _object(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"The body is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise invalid("The body must be a JSON object.")
    return message


def _labels(message: dict[str, Any]) -> dict[str, int | None]:
    for label, number in message.items():
        if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
            raise invalid(f"Label {label!r} needs a version's number, or null, not {number!r}.")
    return message


def _seconds(text: str) -> int:
    seconds = _number(text)
    if not 1 <= seconds <= KEPT:
        raise invalid(f"'seconds' is a number from 1 to {KEPT}.")
    return seconds


def _number(text: str) -> int:
    if not text.isdigit():
        raise invalid(f"{text!r} is no version.")
    return int(text)

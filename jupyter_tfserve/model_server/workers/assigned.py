"""The worker's side: loads what its front tells it to, and nothing else. `app.py` has it answer under ``/worker`` on
the Unix socket of a process that was started with ``--worker``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from weakref import WeakSet

from .. import metrics
from ..core.batching import Batcher, Batching
from ..core.manager import Version
from ..core.policy import LoggingConfig, ModelConfig
from ..core.servable import Servable
from ..core.server_core import ServerCore
from ..errors import Code, ServingError
from ..frontends.http import Exchange, Response
from . import messages

log = logging.getLogger(__name__)

PREFIX = "/worker"


class Assigned:
    """The versions that the front has assigned to this worker. What waits for a load runs in `pool`."""

    def __init__(self, core: ServerCore, pool: Executor, probe: Callable[[Servable, Path], Mapping[str, str]]) -> None:
        """`probe` says of a servable's signatures why their requests are not to be merged."""
        self._core = core
        self._pool = pool
        self._probe = probe
        self._versions: dict[str, dict[int, Path]] = {}
        self._batching: dict[tuple[str, int], Batching] = {}
        self._logging: dict[str, LoggingConfig | None] = {}
        self._probed: WeakSet[Batcher] = WeakSet()
        self._changing = threading.Lock()

    def batcher(self, servable: Servable, path: Path, model: str, number: int) -> Batcher:
        """The batcher of a version that is being loaded."""
        batching = self._batching[model, number]
        batcher = Batcher(servable, batching, model, number)
        if batching.mode == "auto":
            batcher.dependent = self._probe(servable, path)
            self._probed.add(batcher)
            batcher.batching = batching
        return batcher

    def __call__(self, request: Exchange) -> None:
        """Answer a request."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._answer, request)
        request.respond_with(future)

    def _answer(self, request: Exchange) -> Response:
        try:
            content = json.loads(request.body) if request.body else None
            path = [unquote(part) for part in request.target.split("/")[2:]]
            return Response(200, json.dumps(self._route(request.method, path, content)).encode())
        except ServingError as error:
            message = {"code": error.code, "message": error.message, "remedy": error.remedy}
            return Response(error.code.http, json.dumps(message).encode())

    def _route(self, method: str, path: list[str], content: Any) -> Any:
        match (method, *path):
            case ("GET",):
                return messages.Report(metrics=metrics.counted())
            case ("PUT", model, "logging"):
                return self._set_logging(model, messages.logging_config(content))
            case ("PUT", model, number):
                return self._assign(model, int(number), content)
            case ("DELETE", model, number):
                return self._take_away(model, int(number))
            case ("PUT", model, number, "batching"):
                return self._set_batching(model, int(number), messages.batching(content))
        raise ServingError(Code.NOT_FOUND, f"There is no {method} {'/'.join(path)}.")

    def _assign(self, model: str, number: int, content: messages.Assignment) -> messages.Loaded:
        path = Path(content["path"])
        with self._changing:
            self._batching[model, number] = messages.batching(content["batching"])
            self._logging[model] = messages.logging_config(content["logging"])
            self._versions.setdefault(model, {})[number] = path
            self._serve(model)
        life = self._wait(model, number, lambda version: version.state not in ("START", "LOADING"))
        if life is None or life.state != "AVAILABLE":
            self._take_away(model, number)
            error = life.error if life is not None else None
            raise error or ServingError(Code.NOT_FOUND, f"Version {number} of {model} is not in {path.parent}.")
        return messages.loaded(life.loaded)

    def _take_away(self, model: str, number: int) -> None:
        with self._changing:
            self._versions.get(model, {}).pop(number, None)
            if not self._versions.get(model):
                self._versions.pop(model, None)
                self._logging.pop(model, None)
            self._serve(model)
        self._wait(model, number, lambda version: version.state == "END")
        self._batching.pop((model, number), None)

    def _set_batching(self, model: str, number: int, batching: Batching) -> messages.Loaded:
        self._batching[model, number] = batching
        with self._core.use(model, number) as version:
            batcher = version.loaded
            if batching.mode == "auto" and batcher not in self._probed:
                batcher.dependent = self._probe(batcher.servable, version.path)
                self._probed.add(batcher)
            batcher.batching = batching
            return messages.loaded(batcher)

    def _set_logging(self, model: str, config: LoggingConfig | None) -> None:
        with self._changing:
            if model in self._versions:
                self._logging[model] = config
                self._serve(model)

    def _serve(self, model: str) -> None:
        """Have the core aspire to what is assigned; with `_changing` held."""
        versions = self._versions.get(model, {})
        folder = next(iter(versions.values())).parent if versions else None
        config = ModelConfig(model, folder, logging=self._logging.get(model)) if folder else None
        self._core.assign(model, config, versions)

    def _wait(self, model: str, number: int, done: Callable[[Version], bool]) -> Version | None:
        manager = self._core.manager

        def settled() -> bool:
            life = manager.life(model, number)
            return life is None or done(life)

        manager.wait(settled, None)
        return next((version for version in manager.versions(model) if version.number == number), None)

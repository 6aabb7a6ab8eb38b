"""The management API under ``<base_url>/tfserve/api/...``, with Jupyter's authentication and Authorizer.

What only the owner of the model server knows is answered here; all else is the model server's own answer. `api.py` is
the vocabulary; every error is a `Refusal`.
"""

# mypy: disable-error-code="untyped-decorator"
# (jupyter_server's `authorized` has no type that mypy could follow)

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado import iostream, web

from .. import __version__
from ..api import State
from ..store import check_name
from . import models_config
from .management_handler import AUTH_RESOURCE, START_IT, ManagementHandler, Refuse

_MAX_LOG_LINES = 10_000


class StateHandler(ManagementHandler):
    """Everything at a glance, also while no model server runs."""

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self) -> None:
        """A `State`."""
        if self.tfserve.supervisor.running:
            with contextlib.suppress(Refuse):  # it ended this moment
                await self.hand_on(is_state=True)
                return
        self.set_status(200)
        stored = await self.in_thread(self.tfserve.models.names)
        state = State(
            server=await self.server_info(),
            versions={"jupyter_tfserve": __version__},
            models=[],
            processes=[],
            stored=stored,
        )
        self.finish(json.dumps(state))


class ModelHandler(ManagementHandler):
    """One served model."""

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self, name: str) -> None:
        """Its `ModelStatus`; ``?wait=VERSION&timeout=SECONDS`` waits at the model server."""
        if self.tfserve.supervisor.info()["state"] == "stopped":
            raise Refuse(404, f"There is no model {name!r}: the model server is stopped.", START_IT)
        await self.hand_on()

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def put(self, name: str) -> None:
        """Serve it, or change how; the model server is started where it does not run."""
        request = self.json_object()
        python = request.pop("python", "")
        if not isinstance(python, str):
            raise Refuse(400, "'python' is the path of an interpreter.")
        await self.in_thread(check_name, name)
        await self.started(python)
        await self.hand_on(json.dumps(request).encode())

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def delete(self, name: str) -> None:
        """Serve it no longer; ``?files=true`` deletes the store's copy too."""
        if self.tfserve.supervisor.info()["state"] in ("stopped", "failed"):
            # Without starting it: what is deleted may be what brings it down.
            await self.in_thread(check_name, name)
            files = self.get_query_argument("files", "") == "true"
            if not await self.in_thread(models_config.remove, self.tfserve.models, name, files):
                raise Refuse(404, f"There is no model {name!r}.", "`%tfserve` lists those that there are.")
            self.set_status(204)
            self.finish()
        else:
            await self.hand_on()


class PolicyHandler(ManagementHandler):
    """Which versions of a model are served."""

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def put(self, name: str) -> None:
        """A `Policy`."""
        await self.hand_on()


class BatchingHandler(ManagementHandler):
    """How the requests of a model are merged."""

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def put(self, name: str) -> None:
        """A `BatchingRequest`."""
        await self.hand_on()


class DeviceHandler(ManagementHandler):
    """Where a model is served."""

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def put(self, name: str) -> None:
        """A `PlacementRequest`."""
        await self.hand_on()


class DevicesHandler(ManagementHandler):
    """The devices, also while no model server runs."""

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self) -> None:
        """A `DeviceList`."""
        if self.tfserve.supervisor.running:
            with contextlib.suppress(Refuse):  # it ended this moment
                await self.hand_on()
                return
        self.set_status(200)
        self.finish(json.dumps(await self.in_thread(self.tfserve.device_list)))


class LabelsHandler(ManagementHandler):
    """The labels of a model."""

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def patch(self, name: str) -> None:
        """``{"label": version or null}``."""
        await self.hand_on()


class ConfigHandler(ManagementHandler):
    """The whole ModelServerConfig, as text proto."""

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self) -> None:
        """What is served, or will be after the next start."""
        if self.tfserve.supervisor.running:
            await self.hand_on()
        else:
            text = await self.in_thread(models_config.read, self.tfserve.models)
            self.finish(text, set_content_type="text/plain; charset=utf-8")

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def put(self) -> None:
        """Replace it all; the model server is started where it does not run."""
        await self.started()
        await self.hand_on(is_state=True)


class ExampleHandler(ManagementHandler):
    """A request to try a model with."""

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self, name: str) -> None:
        """An `Example`, of ``?signature=S``."""
        await self.hand_on()


class StatsHandler(ManagementHandler):
    """What the models did in the last seconds."""

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self) -> None:
        """A `Stats`."""
        await self.hand_on()


class StreamHandler(ManagementHandler):
    """An answer that comes in parts, until the caller goes or Jupyter Server stops."""

    def initialize(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Without compression, which would hold parts back."""
        super().initialize(name, *args, **kwargs)
        self.request.headers.pop("Accept-Encoding", None)
        self._end_stream: Callable[[], None] | None = None

    async def stream(self, parts: AsyncIterator[bytes], content_type: str, close: Callable[[], None]) -> None:
        """Send the parts; `close` is called when the caller is gone, and ends them."""
        self._end_stream = close
        self.set_header("Content-Type", content_type)
        self.set_header("X-Accel-Buffering", "no")  # nginx would collect the parts
        with contextlib.suppress(iostream.StreamClosedError):
            async for part in parts:
                self.write(part)
                await self.flush()
        self.finish(set_content_type=content_type)

    def on_connection_close(self) -> None:
        """The caller is gone: its stream ends."""
        super().on_connection_close()
        if self._end_stream is not None:
            self._end_stream()


class EventsHandler(StreamHandler):
    """Changes as they happen, as server-sent events."""

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self) -> None:
        """The stream; it also ends for a listener that lags too far behind. ``?stats=true`` adds the samples."""
        listener = self.tfserve.broadcast.listen(stats=self.get_query_argument("stats", "") == "true")
        await self.stream(listener.parts(), "text/event-stream", listener.close)


class ServerHandler(ManagementHandler):
    """Starts, stops and restarts the model server."""

    @web.authenticated
    @authorized("execute", AUTH_RESOURCE)
    async def post(self) -> None:
        """A `ServerRequest`; answers when it is done."""
        request = self.json_object()
        action, python = request.get("action"), request.get("python", "")
        if not isinstance(python, str):
            raise Refuse(400, "'python' is the path of an interpreter.")
        supervisor = self.tfserve.supervisor
        if action == "start":
            await self.started(python)
        elif action == "stop":
            await self.in_thread(supervisor.stop)
        elif action == "restart":
            await self.in_thread(supervisor.restart, python)
            await self.tfserve.follower.listening()
        else:
            raise Refuse(400, f"{action!r} is no action.", 'Say "start", "stop" or "restart".')
        self.finish(json.dumps(await self.server_info()))


class LogsHandler(StreamHandler):
    """The model server's log."""

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self) -> None:
        """The last ``?lines=N``; with ``?follow=true`` also what comes after them."""
        lines = self.get_query_argument("lines", "200")
        if not lines.isdigit() or not 0 < int(lines) <= _MAX_LOG_LINES:
            raise Refuse(400, f"'lines' is a number from 1 to {_MAX_LOG_LINES}.")
        if self.get_query_argument("process", ""):
            await self.hand_on()  # a worker's: its front knows where it is
            return
        if self.get_query_argument("follow", "") == "true":
            following = self.tfserve.log_followers.follow(self.tfserve.supervisor.log, int(lines))
            await self.stream(following.parts(), "text/plain; charset=utf-8", following.close)
            return
        tail = await self.in_thread(self.tfserve.supervisor.log_tail, int(lines))
        self.finish(tail, set_content_type="text/plain; charset=utf-8")


class MetricsHandler(ManagementHandler):
    """The model server's metrics page, at TF Serving's path. It names every model that was ever asked for: whoever may
    only predict does not see it.
    """

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self) -> None:
        """The page; a scraper does not count as activity."""
        await self.hand_on()

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def head(self) -> None:
        """Its head."""
        await self.hand_on()

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def post(self) -> None:
        """The page as well: TF Serving looks at no method there."""
        await self.hand_on(b"")


class UploadsHandler(ManagementHandler):
    """Begins uploads."""

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def post(self) -> None:
        """Announce an `UploadRequest`, or find the one that was announced before."""
        self.finish(json.dumps(await self.in_thread(self.tfserve.uploads.begin, self.json_object())))


class UploadHandler(ManagementHandler):
    """One upload on its way."""

    async def prepare(self) -> None:  # type: ignore[override]
        """Its many parts are no changes yet."""
        self.audited = self.request.method != "PUT"
        await super().prepare()

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def put(self, upload: str) -> None:
        """Bytes of one file."""
        offset = self.get_query_argument("offset", "")
        if not offset.isdigit():
            raise Refuse(400, "'offset' says where in the file the bytes begin.")
        path = self.get_query_argument("path", "", strip=False)
        part = self.request.body
        self.finish(json.dumps(await self.in_thread(self.tfserve.uploads.write, upload, path, int(offset), part)))

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def post(self, upload: str) -> None:
        """Check and publish."""
        self.finish(json.dumps(await self.in_thread(self.tfserve.uploads.finish, upload)))

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def delete(self, upload: str) -> None:
        """Give it up."""
        await self.in_thread(self.tfserve.uploads.abort, upload)
        self.finish("{}")


default_handlers: list[tuple[str, type[ManagementHandler]]] = [
    (r"/tfserve/api/state", StateHandler),
    (r"/tfserve/api/models/([^/]+)", ModelHandler),
    (r"/tfserve/api/models/([^/]+)/policy", PolicyHandler),
    (r"/tfserve/api/models/([^/]+)/batching", BatchingHandler),
    (r"/tfserve/api/models/([^/]+)/device", DeviceHandler),
    (r"/tfserve/api/models/([^/]+)/labels", LabelsHandler),
    (r"/tfserve/api/models/([^/]+)/example", ExampleHandler),
    (r"/tfserve/api/devices", DevicesHandler),
    (r"/tfserve/api/stats", StatsHandler),
    (r"/tfserve/api/config", ConfigHandler),
    (r"/tfserve/api/events", EventsHandler),
    (r"/tfserve/api/server", ServerHandler),
    (r"/tfserve/api/logs", LogsHandler),
    (r"/tfserve/api/uploads", UploadsHandler),
    (r"/tfserve/api/uploads/([0-9a-z]+)", UploadHandler),
    (r"/tfserve/monitoring/prometheus/metrics", MetricsHandler),
]

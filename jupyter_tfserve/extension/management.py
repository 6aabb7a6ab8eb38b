"""The management API under ``<base_url>/tfserve/api/...``, with Jupyter's authentication and Authorizer.

What only the owner of the model server knows is answered here; all else is the model server's own answer. `api.py` is
the vocabulary; every error is a `Refusal`.
"""

# mypy: disable-error-code="untyped-decorator"
# (jupyter_server's `authorized` has no type that mypy could follow)

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.extension.handler import ExtensionHandlerMixin
from tornado import iostream, web

from .. import __version__
from ..api import Refusal, ServerInfo, State
from ..interpreters import StartError
from ..store import StoreError, check_name
from . import models_config
from .access import MANAGEMENT, is_owner
from .forward import Unreachable
from .uploads import UploadRefused, is_disk_full

if TYPE_CHECKING:
    from .app import TFServe

AUTH_RESOURCE = MANAGEMENT

_STOPPED = "`%tfserve start` starts it, and it serves again what it served."
_MAX_LOG_LINES = 10_000

_Result = TypeVar("_Result")


class Refuse(web.HTTPError):
    """An error with its remedy."""

    def __init__(self, status: int, message: str, remedy: str = "") -> None:
        super().__init__(status, message)
        self.message = message
        self.remedy = remedy


class ManagementHandler(ExtensionHandlerMixin, APIHandler):
    """What the handlers have in common."""

    auth_resource = AUTH_RESOURCE
    audited = True  #: whether its changes are events

    @property
    def tfserve(self) -> TFServe:
        """The extension."""
        return cast("TFServe", self.extensionapp)

    def set_default_headers(self) -> None:
        """What is true now may not be a moment later."""
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    def compute_etag(self) -> None:
        """None: a hash of each answer to a poll would be work for nothing."""

    async def prepare(self) -> None:  # type: ignore[override]
        """The owner key opens the management API too; all else is as Jupyter does it."""
        self._track_activity = self.request.method != "GET"  # a panel that polls must not keep an idle server alive
        if not is_owner(self, self.tfserve.supervisor.token):
            await super().prepare()

    async def in_thread(self, work: Callable[..., _Result], *args: Any) -> _Result:
        """What waits for a disk or a process, off the event loop; its errors become refusals."""
        try:
            return await asyncio.to_thread(work, *args)
        except StartError as error:
            raise Refuse(503, error.message, error.remedy) from error
        except UploadRefused as error:
            raise Refuse(error.status, error.message, error.remedy) from error
        except StoreError as error:
            raise Refuse(400, error.message, error.remedy) from error
        except OSError as error:
            if is_disk_full(error):
                raise Refuse(
                    507, "The disk of the store is full.", f"Free some space: {self.tfserve.models.root}"
                ) from error
            raise Refuse(500, f"The store fails: {error}") from error

    async def started(self, python: str = "") -> None:
        """Start the model server unless it runs; from then on no event is missed."""
        if not self.tfserve.supervisor.running:
            await self.in_thread(self.tfserve.supervisor.ensure_started, python)
        await self.tfserve.follower.listening()

    async def hand_on(self, body: bytes | None = None, is_state: bool = False) -> None:
        """The model server's own answer; `body` where it is not the request's. To a `State` the owner adds its part."""
        await self.need_running()
        body = self.request.body if body is None else body
        target = (self.request.uri or "")[len(self.base_url) + len("tfserve") :]
        try:
            answer = await self.tfserve.management_forwarder.fetch(
                self.request.method or "GET", target, body, self.request.headers.get("Content-Type", "")
            )
        except Unreachable as error:
            raise Refuse(503, "The model server ended before it answered.", "Try again.") from error
        self.set_status(answer.status, answer.reason or None)
        if is_state and answer.status == 200:
            state = cast(State, json.loads(answer.body))
            self.finish(json.dumps({**state, "server": await self.server_info()}))
        elif answer.status == 204:
            self.finish()
        else:
            self.finish(answer.body, set_content_type=answer.content_type or "application/json")

    async def need_running(self) -> None:
        """Refuse what only a running model server can answer."""
        state = self.tfserve.supervisor.info()["state"]
        if state == "running":
            return
        if state == "stopped":
            raise Refuse(409, "The model server is stopped.", _STOPPED)
        info = await self.server_info()
        if state == "failed":
            raise Refuse(503, info["error"] or "The model server could not be started.", info["remedy"])
        raise Refuse(503, "The model server is starting.", "Try again in some seconds.")

    async def server_info(self) -> ServerInfo:
        """What the supervisor knows (and the store's id, from the disk)."""
        return await self.in_thread(self.tfserve.supervisor.info)

    def json_object(self) -> dict[str, Any]:
        """The request's body; {} for none."""
        try:
            message = json.loads(self.request.body or b"{}")
        except (ValueError, RecursionError) as error:
            raise Refuse(400, f"The body is not JSON: {error}") from error
        if not isinstance(message, dict):
            raise Refuse(400, "The body must be a JSON object.")
        return message

    def on_finish(self) -> None:
        """Changes and refusals are told to whoever audits."""
        super().on_finish()
        name = self.current_user.username if self.current_user else ""
        if self.get_status() in (401, 403):
            self.tfserve.audit_refusal(self.request, self.get_status(), name)
        elif self.get_status() < 400 and self.request.method != "GET" and self.audited:
            self.tfserve.audit(
                action="changed",
                who=name,
                method=self.request.method,
                path=self.request.path,
                remote=self.request.remote_ip,
            )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A `Refusal`, always."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        refusal = Refusal(message="The extension failed; Jupyter's log says more.", remedy="")
        if isinstance(error, Refuse):
            refusal = Refusal(message=error.message, remedy=error.remedy)
        elif status_code < 500:
            said = error.log_message if isinstance(error, web.HTTPError) else ""
            refusal["message"] = said or self._reason
            if status_code in (401, 403):
                refusal["remedy"] = "Send the header  Authorization: token <token>  of a user who may do this."
        if status_code == 503:
            self.set_header("Retry-After", "1")
        self.finish(json.dumps(refusal))


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
            raise Refuse(404, f"There is no model {name!r}: the model server is stopped.", _STOPPED)
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

"""What the handlers of the management API have in common: who may ask, how a refusal is told, what is handed on to the
model server. `management.py`, `sharing.py` and `saved_models.py` have the handlers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from jupyter_server.base.handlers import APIHandler
from jupyter_server.extension.handler import ExtensionHandlerMixin
from tornado import web

from ..api import Refusal, ServerInfo, State
from ..interpreters import StartError
from ..store import StoreError
from .access import MANAGEMENT, is_owner
from .forward import Unreachable
from .uploads import UploadRefused, is_disk_full

if TYPE_CHECKING:
    from .app import TFServe

AUTH_RESOURCE = MANAGEMENT

#: What to do about a model server that is stopped.
START_IT = "`%tfserve start` starts it, and it serves again what it served."

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
            raise Refuse(409, "The model server is stopped.", START_IT)
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

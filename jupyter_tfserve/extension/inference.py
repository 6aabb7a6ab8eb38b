"""TF Serving's REST API under ``<base_url>/tfserve/v1/...``, and its gRPC API as gRPC-Web under
``<base_url>/tfserve/grpc-web/...``: who calls is asked here, the bytes are the model server's.

Bodies stream through in both directions and are never parsed: what a caller with a grant may ask for, the model server
looks at, which is told the grant.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable
from http.client import responses
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.extension.handler import ExtensionHandlerMixin
from jupyter_server.prometheus.log_functions import prometheus_log_method
from tornado import iostream, web
from tornado.http1connection import HTTP1Connection

from ..grants import GRANT_HEADER, REFUSED_HEADER
from . import access, metrics
from .forward import Exchange, Unreachable

if TYPE_CHECKING:
    from .app import TFServe

#: The headers that the model server is told. All others stay here: cookies, credentials, what proxies add.
_HANDED_ON = (
    "Content-Type",
    "Content-Encoding",
    "User-Agent",
    "Origin",
    "Access-Control-Request-Method",
    "Access-Control-Request-Headers",
    "Traceparent",
    "Tracestate",
    "Grpc-Timeout",
)

#: The answer's headers that are Jupyter's own business.
_NOT_HANDED_BACK = frozenset(("date", "server", "set-cookie"))

#: A refused request's body is read up to here, so that its sender sees the refusal; behind a longer one we hang up.
_SWALLOWED = 16 * 1024 * 1024

#: Looked up once: a label costs as much as the counting.
_COUNTERS = {status: metrics.REQUESTS.labels(status) for status in ("1xx", "2xx", "3xx", "4xx", "5xx", "client gone")}

_MODEL = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/[^/:]+)?(:classify|:regress|:predict|/metadata)?")


@web.stream_request_body
class InferenceHandler(ExtensionHandlerMixin, JupyterHandler):
    """One request on its way through. Errors are TF Serving's ``{"error": "..."}``."""

    def initialize(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Tornado calls this before it decides on compression, which TF Serving does not do."""
        super().initialize(name, *args, **kwargs)
        self.request.headers.pop("Accept-Encoding", None)
        self._exchange: Exchange | None = None
        self._refusal: tuple[int, str] | None = None
        self._client_gone = False
        self._caller: access.Caller | None = None
        self._refused_as = 0  # the status of a refusal that is told inside an answer of status 200
        metrics.IN_FLIGHT.inc()
        self._counted = False

    @property
    def tfserve(self) -> TFServe:
        """The extension."""
        return cast("TFServe", self.extensionapp)

    async def prepare(self) -> None:  # type: ignore[override]
        """Ask who calls, then send the head on; the body follows as it comes."""
        if self.request.method == "OPTIONS" and "Access-Control-Request-Method" in self.request.headers:
            self._answer_preflight()
            return
        length = self.request.headers.get("Content-Length", "")
        limit = self.tfserve.max_body_size
        try:
            self._caller = await access.may_infer(self, self.tfserve)
        except access.Refused as refused:
            self._refusal = refused.status, refused.message
        else:
            if length.isdigit() and int(length) > limit:
                self._refusal = 413, f"The body has {length} bytes, {limit} are allowed (TFServe.max_body_size)."
            else:
                await self._begin(length)
        cast(HTTP1Connection, self.request.connection).set_max_body_size(_SWALLOWED if self._refusal else limit)
        if self._refusal and length.isdigit() and int(length) > _SWALLOWED:
            self._refuse()

    def _answer_preflight(self) -> None:
        """A browser asks, without credentials, whether a page may call: Jupyter's own CORS settings say it."""
        self.current_user = None
        self.set_cors_headers()
        self.set_header(
            "Access-Control-Allow-Headers",
            "authorization, content-type, x-xsrftoken, x-grpc-web, x-user-agent, grpc-timeout",
        )
        self.set_header("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
        self.clear_header("Content-Type")
        self.finish()

    async def _begin(self, length: str) -> None:
        self.tfserve.note_activity()
        headers = [(name, self.request.headers[name]) for name in _HANDED_ON if name in self.request.headers]
        if self._caller is not None and self._caller.grant is not None:
            headers.append((GRANT_HEADER, self._caller.grant.to_json()))
        in_chunks = "Transfer-Encoding" in self.request.headers
        try:
            if not self.tfserve.supervisor.running:
                raise Unreachable(self.tfserve.supervisor.info()["state"])
            self._exchange = await self.tfserve.forwarder.begin(
                self.request.method or "GET", self._target(), headers, None if in_chunks else int(length or 0)
            )
        except Unreachable:
            self._refusal = self._why_unreachable()
        if self._client_gone and self._exchange is not None:
            self._exchange.abort()

    def _target(self) -> str:
        """Path and query as the client wrote them, without what stands before ``/v1``."""
        uri = self.request.uri or ""
        return uri[len(self.base_url) + len("tfserve") :]

    def _why_unreachable(self) -> tuple[int, str]:
        state = self.tfserve.supervisor.info()["state"]
        if state == "stopped" and not self.tfserve.models.has_models:
            return _nothing_served(self.request.method or "GET", self._target())
        return 503, {
            "stopped": "The model server is stopped; its owner can start it.",
            "failed": "The model server could not be started; its owner sees the reason in Jupyter.",
            "starting": "The model server is starting; try again.",
        }.get(state, "The model server ended unexpectedly and is started again; try again.")

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """A part of the body; tornado reads on when the model server has taken it."""
        return None if self._exchange is None else self._exchange.write(chunk)

    @allow_unauthenticated  # `prepare` has asked who calls
    async def get(self, path: str) -> None:
        """Hand the answer back; every method is the model server's to judge."""
        if self._refusal or self._exchange is None:
            self._refuse()
            return
        try:
            head = await self._exchange.head()
            part = await self._exchange.read()  # before anything is sent: a crash until here is a clean 503
        except Unreachable:
            if self._client_gone:
                self.set_status(499, "Client Closed Request")  # for the log: nobody reads it
            else:
                self._refusal = self._why_unreachable()
                self._refuse()
            return
        self.set_status(head.status, head.reason or None)
        self.clear_header("Content-Type")
        for name, value in head.headers:
            if name.lower() == REFUSED_HEADER.lower():
                self._refused_as = int(value)
            elif name.lower() not in _NOT_HANDED_BACK:
                self.set_header(name, value)
        if self._exchange.complete:
            self.finish(part)
            return
        try:
            while part:
                self.write(part)
                await self.flush()
                part = await self._exchange.read()
        except iostream.StreamClosedError:
            self._exchange.abort()
        except Unreachable:
            # Half an answer is out: the client must see that it is cut off.
            cast(HTTP1Connection, self.request.connection).stream.close()

    head = post = put = delete = patch = options = get

    def _refuse(self) -> None:
        status, message = self._refusal or (503, "The model server is not there.")
        self._write_refusal(status, message)

    def _write_refusal(self, status: int, message: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        if status == 503:
            self.set_header("Retry-After", "1")
        if status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        self.finish(json.dumps({"error": message}))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """What tornado or Jupyter refuse: a method that HTTP does not know, or an error of ours (500)."""
        self._write_refusal(status_code, responses.get(status_code, "Unknown error"))

    def on_connection_close(self) -> None:
        """The client is gone: so is its request at the model server."""
        super().on_connection_close()
        self._client_gone = True
        if self._exchange is not None:
            self._exchange.abort()
        self._count("client gone")

    def on_finish(self) -> None:
        """The answer is out."""
        self._count(f"{self.get_status() // 100}xx")
        metrics.SECONDS.observe(self.request.request_time())
        status = self._refused_as or self.get_status()
        if status in (401, 403, 429):
            self.tfserve.audit_refusal(self.request, status, self._caller.name if self._caller else "")

    def _log(self) -> None:
        """What went well is a line for --debug only, and Jupyter would make it to throw it away."""
        app = self.serverapp
        if self.get_status() >= 400 or cast(int, app.log_level) <= logging.DEBUG:
            super()._log()
        elif app.record_http_request_metrics:
            prometheus_log_method(self)  # type: ignore[no-untyped-call]

    def _count(self, status: str) -> None:
        if not self._counted:
            self._counted = True
            metrics.IN_FLIGHT.dec()
            _COUNTERS[status].inc()

    def set_cors_headers(self) -> None:
        """Jupyter's, where a browser asks: it would answer scripts with an empty header."""
        if "Origin" in self.request.headers:
            super().set_cors_headers()

    def set_cookie(self, *args: Any, **kwargs: Any) -> None:
        """No cookie: Jupyter would log in whoever sends a token, and a prediction is no login."""

    def compute_etag(self) -> None:
        """None: TF Serving sends none."""


def _nothing_served(method: str, target: str) -> tuple[int, str]:
    """What TF Serving answers where no model of that name is served: no model server needs to run for that."""
    match = _MODEL.fullmatch(target)
    name, version, verb = (unquote(match[1]), match[2], match[3] or "") if match else ("", "", "")
    if name and (method, verb) == ("GET", ""):
        return 404, f"Could not find any versions of model {name}"
    if name and (method, verb == "/metadata") in (("GET", True), ("POST", False)) and verb:
        which = f"Specific({name}, {version})" if version else f"Latest({name})"
        return 404, f"Servable not found for request: {which}"
    return 400, f"Malformed request: {method} {target}"

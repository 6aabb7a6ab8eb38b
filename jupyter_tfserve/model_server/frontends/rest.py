"""TF Serving's REST API (`model_servers/http_rest_api_handler.cc`): paths and bodies in, bodies out.

`rest_predict.py` does predict; classify and regress are worked on in threads of the pool, the rest at once.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from .. import inference, metrics
from ..codecs import examples, json_reply, json_tensor, prediction_log, status_json
from ..core.pools import ModelPools
from ..core.server_core import ServerCore
from ..errors import RETRY_SECONDS, Code, ServingError, invalid
from ..request_log import RequestLogs
from .http import Exchange, Head, Response, html_error
from .rest_predict import PROTOBUF, Predictions, Spec, Target, inflated

if TYPE_CHECKING:
    from ..workers.rest import RestRelay

log = logging.getLogger(__name__)

#: From a worker to its front: the canonical code of an error, which HTTP's status does not tell.
CODE_HEADER = "Tfserve-Code"

#: ``/healthz``: the process answers; ``/readyz``: it can be sent requests. Open to all.
HEALTH_PATHS = ("/healthz", "/readyz")

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"/v1/models/(?P<model>[^/:]+){_VERSION}:(?P<verb>classify|regress|predict)", re.IGNORECASE)
_GET = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"https?://[^/]*", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")

_MAX_VERSION = 2**63 - 1

_CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)


@dataclass(frozen=True)
class RestOptions:
    """What the flags say."""

    timeout_ms: int = 30000  #: 0: none
    cors: bool = False
    max_body: int = 2**31 - 1  #: of an inflated body, too
    check_method_names: bool = False
    metrics_path: str = ""  #: "": no page
    tell_codes: bool = False  #: in a worker: a header names an error's code


#: What a request's line and headers ask for; it answers.
_Route = Callable[[Exchange], None]


class RestApi:
    """Answers requests; made in the event loop's thread."""

    def __init__(
        self,
        core: ServerCore,
        pools: ModelPools,
        options: RestOptions | None = None,
        logs: RequestLogs | None = None,
        readiness: Callable[[], str] = lambda: "",
    ) -> None:
        """`readiness` says why no requests should be sent now, "" if they may be."""
        self._core = core
        self._pools = pools
        self._options = options or RestOptions()
        self._readiness = readiness
        self._timeout = self._options.timeout_ms / 1000 if self._options.timeout_ms else None
        self._predictions = Predictions(
            core,
            pools,
            logs or RequestLogs(),
            self._timeout,
            self._options.max_body,
            self.reply if self._options.cors else None,
            self.refusal,
        )
        self.relay: RestRelay | None = None  #: in a front: where requests go whose versions workers have loaded
        self.counted_elsewhere: Callable[[], Sequence[metrics.Counted]] | None = None  #: by workers; it may wait
        self._loop = asyncio.get_running_loop()

    def __call__(self, request: Exchange) -> None:
        """Answer a request."""
        head = request.head
        route: _Route | None = head.route
        if route is None:
            route = head.route = self._route(head)
        route(request)

    def _route(self, head: Head) -> _Route:
        if head.target in HEALTH_PATHS and head.method in ("GET", "HEAD"):
            return lambda request: request.respond(self._health(request.target))
        target = _AUTHORITY.sub("", head.target, count=1) if head.target[:4].lower() == "http" else head.target
        if _BAD_ESCAPE.search(target):
            return _always(html_error(400))
        if self._options.metrics_path and target.split("?")[0] == self._options.metrics_path:
            return self._metrics
        if target[:4].lower() != "/v1/":
            return _always(html_error(404))
        if head.method == "OPTIONS":
            origin = head.headers.get("origin", "")
            allowed = "http://" in origin or "https://" in origin
            return _always(self.reply(Response(200 if allowed else 400)))
        if head.method == "POST" and (match := _POST.fullmatch(target)) and match["verb"].islower():
            return self._route_verb(head, match)
        if head.method == "GET" and (match := _GET.fullmatch(target)):
            return lambda request: request.respond(self._describe(match))
        malformed = invalid(f"Malformed request: {head.method} {target}")
        return lambda request: request.respond(self.refusal("", malformed))

    def _route_verb(self, head: Head, match: re.Match[str]) -> _Route:
        try:
            spec = _spec(match)
        except _BadVersion:
            return lambda request: request.respond(self._describe(match))
        route = self._route_here(match["verb"], spec, head)
        return route if self.relay is None else self.relay.route(match["verb"], spec, head, route)

    def _route_here(self, verb: str, spec: Spec, head: Head) -> _Route:
        gzip = "gzip" in head.headers.get("content-encoding", "").lower()
        if verb != "predict":
            return functools.partial(self._infer_examples, verb, spec, gzip)
        is_binary = head.headers.get("content-type", "").partition(";")[0].strip().lower() == PROTOBUF
        return self._target(spec, is_binary, gzip).take

    @functools.lru_cache(maxsize=1024)  # noqa: B019 - an API lives as long as its process
    def _target(self, spec: Spec, is_binary: bool, gzip: bool) -> Target:
        """One for all requests to a path: so those of a burst meet that differ in a header, or in their length."""
        return Target(self._predictions, spec, is_binary, gzip)

    # Classify and regress.

    def _infer_examples(self, verb: str, spec: Spec, gzip: bool, request: Exchange) -> None:
        began = time.monotonic()
        deadline = None if self._timeout is None else began + self._timeout

        def work() -> Response:
            if request.connection.is_abandoned:
                raise ServingError(Code.CANCELLED, "The client has gone.")
            body = inflated(request.body, self._options.max_body) if gzip else request.body
            return Response(200, self._run_examples(verb, *spec, body, deadline))

        def answer() -> None:
            self._predictions.send([request], [self._answer(spec[0], verb, work, began)])

        try:
            self._pools.of(spec[0]).submit(answer)
        except ServingError as error:
            request.respond(self.refusal(spec[0], error))

    def _run_examples(
        self, verb: str, model: str, number: int | None, label: str, body: bytes, deadline: float | None
    ) -> bytes:
        """In a thread of the pool."""
        parsed = json_tensor.parse(body, last_inside=True)
        name = json_tensor.signature_name(parsed)
        batch = examples.from_json(parsed)
        check = self._options.check_method_names
        with self._core.use(model, number, label) as version:
            metrics.count_examples(model, len(batch))
            spec = (model, version.number, name)
            if verb == "classify":
                classes = inference.classify(version.loaded, name, batch, check, _left(deadline))
                self._predictions.log(model, lambda rate: prediction_log.classify(spec, batch, classes, rate))
                return json_reply.encode_classes(classes)
            values = inference.regress(version.loaded, name, batch, check, _left(deadline))
            self._predictions.log(model, lambda rate: prediction_log.regress(spec, batch, values, rate))
            return json_reply.encode_values(values)

    # Status, metadata, metrics.

    def _describe(self, match: re.Match[str]) -> Response:
        return self._answer(_unquote(match["model"] or ""), "", lambda: self._description(match))

    def _description(self, match: re.Match[str]) -> Response:
        if match["model"] is None:
            if match["version"] or match["label"] or match["metadata"]:
                raise invalid("Missing model name in request.")
            listed = [{"name": name, **status_json.status(self._core, name)} for name in sorted(self._core.models)]
            return Response(200, json.dumps({"models": listed}, indent=1).encode() + b"\n")
        model, number, label = _spec(match)
        if match["metadata"] == "/metadata":
            with self._core.manager.use(model, number, label) as version:
                return Response(200, status_json.metadata(model, version.number, version.loaded.signature_def_map))
        return Response(200, json.dumps(status_json.status(self._core, model, number), indent=1).encode() + b"\n")

    def _health(self, target: str) -> Response:
        why = self._readiness() if target == "/readyz" else ""
        if not why:
            return Response(200, b"ok\n", "text/plain")
        return Response(503, f"{why}\n".encode(), "text/plain", (("Retry-After", "1"),))

    def _metrics(self, request: Exchange) -> None:
        if "?" in request.target:
            request.respond(html_error(400))
        elif self.counted_elsewhere is None:
            request.respond(self._metrics_page())
        else:
            request.respond_with(self._loop.run_in_executor(self._pools.common, self._metrics_page))

    def _metrics_page(self) -> Response:
        manager = self._core.manager
        in_flight = [
            (name, version.number, version.in_flight)
            for name in self._core.models
            for version in manager.available(name).values()
        ]
        others = self.counted_elsewhere() if self.counted_elsewhere is not None else ()
        return Response(200, metrics.page(in_flight, others).encode("utf-8", "replace"), "text/plain")

    # Answers.

    def _answer(self, model: str, api: str, answer: Callable[[], Response], began: float = 0.0) -> Response:
        """An answer, or the refusal that it ended with; counted. `began` is a `time.monotonic()`, for a verb."""
        try:
            reply = answer()
        except _BadVersion:
            metrics.REQUEST_COUNT.add(model, Code.INVALID_ARGUMENT.name)
            return self.reply(Response(400))
        except ServingError as error:
            return self.refusal(model, error)
        except Exception:
            log.exception("A request failed")
            return self.refusal(model, ServingError(Code.INTERNAL, "Internal error"))
        return self.success(model, api, reply, began)

    def success(self, model: str, api: str, response: Response, began: float) -> Response:
        """A response, counted."""
        if api:
            metrics.REQUEST_LATENCY.child(model, api, "REST").observe((time.monotonic() - began) * 1e6)
        metrics.REQUEST_COUNT.add(model, "OK")
        return self.reply(response)

    def refusal(self, model: str, error: ServingError) -> Response:
        """An error as a response, counted."""
        metrics.REQUEST_COUNT.add(model, error.code.name)
        body = '{\n    "error": ' + json.dumps(error.text, ensure_ascii=False) + "\n}"
        headers: tuple[tuple[str, str], ...] = ()
        if error.code is Code.UNAVAILABLE:
            headers = (("Retry-After", str(RETRY_SECONDS)),)
        if self._options.tell_codes:
            headers += ((CODE_HEADER, error.code.name),)
        return self.reply(Response(error.code.http, body.encode("utf-8", "surrogateescape"), headers=headers))

    def reply(self, response: Response) -> Response:
        """With CORS headers where they were asked for."""
        if self._options.cors:
            response.headers += _CORS
        return response


class _BadVersion(Exception):
    """A version number past int64: 400 with an empty body."""


def _always(response: Response) -> _Route:
    return lambda request: request.respond(response)


def _spec(match: re.Match[str]) -> Spec:
    """Model, version and label of a path, percent-decoded after it was matched."""
    number = int(match["version"]) if match["version"] and len(match["version"]) < 4000 else None
    if match["version"] and (number is None or number > _MAX_VERSION):
        raise _BadVersion
    return _unquote(match["model"]), number, _unquote(match["label"] or "")


def _unquote(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode("utf-8", "surrogateescape")


def _left(deadline: float | None) -> int:
    """Milliseconds until a deadline, 0 for none; raises DEADLINE_EXCEEDED when it has passed."""
    if deadline is None:
        return 0
    left = int((deadline - time.monotonic()) * 1000)
    if left <= 0:
        raise ServingError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
    return left

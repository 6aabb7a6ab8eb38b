"""TF Serving's REST API (`model_servers/http_rest_api_handler.cc`): paths and bodies in, bodies out.

Where answers happen: a predict request is decoded in the event loop's thread and run at the end of the burst that it
came in, or on a batch thread (`core/batching.py` says which). Large bodies, and what is not predict, are worked on in
threads of the pool.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import re
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from .. import inference, metrics
from ..codecs import examples, json_tensor, predict_message, prediction_log, status_json
from ..core.batching import Task, Turn, run_here
from ..core.manager import Version
from ..core.pools import ModelPools
from ..core.servable import Array, Signature
from ..core.server_core import ServerCore
from ..errors import RETRY_SECONDS, Code, ServingError, invalid
from ..request_log import RequestLogs
from .http import Exchange, Head, Response, html_error

if TYPE_CHECKING:
    from ..workers.rest import RestRelay

log = logging.getLogger(__name__)

#: From a worker to its front: the canonical code of an error, which HTTP's status does not tell.
CODE_HEADER = "Tfserve-Code"

#: The type of a body that holds a message instead of JSON.
PROTOBUF = "application/x-protobuf"

#: ``/healthz``: the process answers; ``/readyz``: it can be sent requests. Open to all.
HEALTH_PATHS = ("/healthz", "/readyz")

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"/v1/models/(?P<model>[^/:]+){_VERSION}:(?P<verb>classify|regress|predict)", re.IGNORECASE)
_GET = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"https?://[^/]*", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")

_MAX_VERSION = 2**63 - 1

#: Bytes of a body, and values of a reply, from which on they are worked on in a thread: a tenth of a millisecond or so.
_LARGE_BODY = 128 * 1024
_LARGE_REPLY = 16 * 1024

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


#: What a request's path asks for: model, version and label.
_Spec = tuple[str, int | None, str]

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
        self._logs = logs or RequestLogs()
        self._readiness = readiness
        self._timeout = self._options.timeout_ms / 1000 if self._options.timeout_ms else None
        self.release = core.manager.release
        self.logged = core.logged
        self.relay: RestRelay | None = None  #: in a front: where requests go whose versions workers have loaded
        self.counted_elsewhere: Callable[[], Sequence[metrics.Counted]] | None = None  #: by workers; it may wait
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

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

    def _route_here(self, verb: str, spec: _Spec, head: Head) -> _Route:
        gzip = "gzip" in head.headers.get("content-encoding", "").lower()
        if verb != "predict":
            return functools.partial(self._infer_examples, verb, spec, gzip)
        is_binary = head.headers.get("content-type", "").partition(";")[0].strip().lower() == PROTOBUF
        return functools.partial(self._predict, _Target(spec), _BinaryPrediction if is_binary else _Prediction, gzip)

    # Predict.

    def _predict(self, target: _Target, kind: type[_Prediction], gzip: bool, request: Exchange) -> None:
        began = time.monotonic()
        task = kind(self, request, target, began, None if self._timeout is None else began + self._timeout)
        if gzip or len(request.body) > _LARGE_BODY:
            try:
                self._pools.of(target.model).submit(run_here, functools.partial(self._start, task, gzip))
            except ServingError as error:
                task.failed(error)
        else:
            self._start(task, False, self._loop.call_soon, False)

    def _start(self, task: _Prediction, gzip: bool, turn: Turn, here: bool = True) -> None:
        """Decode a request and let it wait for its run; what goes wrong is its answer. In any thread."""
        request = task.request
        try:
            if here and task.is_cancelled():
                raise ServingError(Code.CANCELLED, "The client has gone.")
            body = self._inflated(request.body) if gzip else request.body
            request.body = b""  # a large one is not needed twice
            name = task.read(body)
            task.version = version = self._core.acquire(*task.target.spec)
            loaded = version.loaded
            task.signature = signature = inference.signature(loaded, name)
            task.inputs = task.decode(signature)
            # In a thread of the pool only what is quick is run: it would keep others' from their decoding.
            loaded.queue(signature, task.outputs).submit(task, turn)
        except ServingError as error:
            task.failed(error)
        except Exception:
            log.exception("A request failed")
            task.failed(ServingError(Code.INTERNAL, "Internal error"))

    def send(self, request: Exchange, response: Response) -> None:
        """Answer a request, from any thread."""
        if threading.get_ident() == self._thread:
            request.respond(response)
        else:
            try:
                self._loop.call_soon_threadsafe(request.respond, response)
            except RuntimeError:
                pass  # the loop is closed, and with it the connection

    def in_pool(self, model: str, work: Callable[..., None], *arguments: Any) -> bool:
        """Whether this is the event loop's thread, and the work was given to another one."""
        if threading.get_ident() != self._thread:
            return False
        try:
            self._pools.of(model).submit(work, *arguments)
        except ServingError:  # so many wait that it is better done at once
            return False
        return True

    # Classify and regress.

    def _infer_examples(self, verb: str, spec: _Spec, gzip: bool, request: Exchange) -> None:
        began = time.monotonic()
        deadline = None if self._timeout is None else began + self._timeout

        def work() -> Response:
            if request.connection.is_abandoned:
                raise ServingError(Code.CANCELLED, "The client has gone.")
            body = self._inflated(request.body) if gzip else request.body
            return Response(200, self._run_examples(verb, *spec, body, deadline))

        def answer() -> None:
            self.send(request, self._answer(spec[0], verb, work, began))

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
                self.log(model, lambda rate: prediction_log.classify(spec, batch, classes, rate))
                return json_tensor.encode_classes(classes)
            values = inference.regress(version.loaded, name, batch, check, _left(deadline))
            self.log(model, lambda rate: prediction_log.regress(spec, batch, values, rate))
            return json_tensor.encode_values(values)

    def log(self, model: str, record: Callable[[float], bytes]) -> None:
        """Offer a request to the model's log."""
        self._logs.offer(model, self._core.logging(model), record)

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

    def _inflated(self, body: bytes) -> bytes:
        """A body that says it is gzip; one that is not counts as empty, as in TF Serving."""
        inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            inflated = inflater.decompress(body, self._options.max_body + 1)
        except zlib.error:
            return b""
        if len(inflated) > self._options.max_body:
            raise invalid(f"The inflated body is larger than {self._options.max_body} bytes.")
        return inflated if inflater.eof else b""

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


class _Target:
    """What the requests to one path have in common."""

    __slots__ = ("latency", "model", "spec", "successes")

    def __init__(self, spec: _Spec) -> None:
        self.spec = spec
        self.model = model = spec[0]
        self.latency = metrics.REQUEST_LATENCY.child(model, "predict", "REST")
        self.successes = metrics.REQUEST_COUNT.child(model, "OK")


class _Prediction(Task):
    """A predict request in JSON, between its bytes and those of its answer."""

    __slots__ = ("_began", "_rest", "content", "outputs", "request", "row_format", "signature", "target", "version")

    api = "Predict"

    version: Version | None
    signature: Signature
    content: Any
    outputs: tuple[str, ...]
    row_format: bool

    def __init__(self, rest: RestApi, request: Exchange, target: _Target, began: float, deadline: float | None) -> None:
        self.inputs = ()
        self.deadline = deadline
        self.rows = 0
        self.shape = None
        self.request = request
        self._rest = rest
        self.target = target
        self._began = began
        self.version = None

    def read(self, body: bytes) -> str:
        """Read the body; returns the signature's name."""
        name, self.content = json_tensor.read(body)
        return name

    def decode(self, signature: Signature) -> list[Array]:
        """The inputs in the signature's order."""
        content, self.content = self.content, None
        self.outputs = signature.output_names
        inputs, self.row_format = json_tensor.decode(content, signature)
        return inputs

    def encode(self, outputs: list[Array]) -> Response:
        """The answer."""
        return Response(
            200, (json_tensor.encode_rows if self.row_format else json_tensor.encode_columns)(outputs, self.signature)
        )

    def done(self, outputs: list[Array]) -> None:
        """Answer; where writing it takes time, not in the event loop's thread."""
        for array in outputs:
            if array.size > _LARGE_REPLY and self._rest.in_pool(self.target.model, self.done, outputs):
                return
        rest, target = self._rest, self.target
        try:
            response = self.encode(outputs)
        except ServingError as error:
            self.failed(error)
            return
        except Exception:
            log.exception("A reply failed")
            self.failed(ServingError(Code.INTERNAL, "Internal error"))
            return
        if target.model in rest.logged:
            self._log(outputs)
        self._release()
        target.latency.observe((time.monotonic() - self._began) * 1e6)
        target.successes.add()
        rest.send(self.request, rest.reply(response))

    def _log(self, outputs: list[Array]) -> None:
        assert self.version is not None
        spec = (self.target.model, self.version.number, self.signature.name)
        inputs = dict(zip(self.signature.inputs, self.inputs, strict=True))
        found = dict(zip(self.outputs, outputs, strict=True))
        self._rest.log(self.target.model, lambda rate: prediction_log.predict(spec, inputs, found, rate))

    def failed(self, error: ServingError) -> None:
        """Answer with an error."""
        self.content = None
        if self.inputs:
            error = inference.explained(error, self.signature, self.inputs)
        self._release()
        self._rest.send(self.request, self._rest.refusal(self.target.model, error))

    def _release(self) -> None:
        version, self.version = self.version, None
        if version is not None:
            self._rest.release(version)

    def is_cancelled(self) -> bool:
        """Whether the client has gone away."""
        return self.request.connection.is_abandoned


class _BinaryPrediction(_Prediction):
    """A predict request as a PredictRequest, answered by a PredictResponse: for REST clients that want to do without
    JSON. The path says which model and version; its errors are JSON, as all are.
    """

    __slots__ = ()

    def read(self, body: bytes) -> str:
        self.content = predict_message.parse(body, Code.INVALID_ARGUMENT)
        return str(self.content.model_spec.signature_name)

    def decode(self, signature: Signature) -> list[Array]:
        content, self.content = self.content, None
        self.outputs = inference.filtered(signature, content.output_filter)
        inputs = inference.complete(signature, predict_message.inputs(content, signature))
        return [inputs[name] for name in signature.inputs]

    def encode(self, outputs: list[Array]) -> Response:
        assert self.version is not None
        spec = (self.target.model, self.version.number, self.signature.name)
        body = predict_message.response(spec, self.outputs, outputs, True)
        return Response(200, body, PROTOBUF)


class _BadVersion(Exception):
    """A version number past int64: 400 with an empty body."""


def _always(response: Response) -> _Route:
    return lambda request: request.respond(response)


def _spec(match: re.Match[str]) -> _Spec:
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

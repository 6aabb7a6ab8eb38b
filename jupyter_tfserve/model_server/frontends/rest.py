"""TF Serving's REST API (`model_servers/http_rest_api_handler.cc`): paths and bodies in, bodies out."""

from __future__ import annotations

import asyncio
import json
import re
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from .. import inference, metrics
from ..codecs import examples, json_tensor, prediction_log, status_json
from ..core.server_core import ServerCore
from ..errors import Code, ServingError, invalid
from ..request_log import RequestLogs
from .http import Request, Response, html_error

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"/v1/models/(?P<model>[^/:]+){_VERSION}:(?P<verb>classify|regress|predict)", re.IGNORECASE)
_GET = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"https?://[^/]*", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")

_MAX_VERSION = 2**63 - 1

#: Seconds that a request may have waited for a thread when its client has closed the connection; after that nobody is
#: taken to read the answer any more. (Who closes only one side, and reads on, is answered at once in general.)
_ABANDONED_SECONDS = 0.5

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


class RestApi:
    """Answers one request at a time; inference runs in `pool`."""

    def __init__(
        self, core: ServerCore, pool: Executor, options: RestOptions | None = None, logs: RequestLogs | None = None
    ) -> None:
        self._core = core
        self._pool = pool
        self._options = options or RestOptions()
        self._logs = logs or RequestLogs()

    def __call__(self, request: Request) -> Response | asyncio.Future[Response]:
        """The reply, or a future of it where a model runs."""
        target = _AUTHORITY.sub("", request.target, count=1) if request.target[:4].lower() == "http" else request.target
        if _BAD_ESCAPE.search(target):
            return html_error(400)
        if self._options.metrics_path and target.split("?")[0] == self._options.metrics_path:
            return self._metrics(target)
        if target[:4].lower() != "/v1/":
            return html_error(404)
        if request.method == "OPTIONS":
            origin = request.headers.get("origin", "")
            allowed = "http://" in origin or "https://" in origin
            return self._reply(Response(200 if allowed else 400))
        if request.method == "POST" and (match := _POST.fullmatch(target)) and match["verb"].islower():
            return self._infer(request, match)
        if request.method == "GET" and (match := _GET.fullmatch(target)):
            name = _unquote(match["model"] or "")
            return self._answer(name, "", lambda: self._describe(match))
        return self._answer("", "", lambda: _refuse(invalid(f"Malformed request: {request.method} {target}")))

    def _infer(self, request: Request, match: re.Match[str]) -> Response | asyncio.Future[Response]:
        deadline = time.monotonic() + self._options.timeout_ms / 1000 if self._options.timeout_ms else None
        began = time.perf_counter()
        return asyncio.get_running_loop().run_in_executor(
            self._pool,
            lambda: self._answer(
                _unquote(match["model"]), match["verb"], lambda: self._run(request, match, deadline, began), began
            ),
        )

    def _run(self, request: Request, match: re.Match[str], deadline: float | None, began: float) -> Response:
        """In a thread of the pool."""
        if request.abandoned and time.perf_counter() - began > _ABANDONED_SECONDS:
            raise ServingError(Code.CANCELLED, "The client has gone.")
        _left(deadline)
        model, number, label = _spec(match)
        body = self._inflated(request)
        if match["verb"] == "predict":
            return Response(200, self._predict(model, number, label, body, deadline))
        return Response(200, self._infer_examples(match["verb"], model, number, label, body, deadline))

    def _predict(self, model: str, number: int | None, label: str, body: bytes, deadline: float | None) -> bytes:
        parsed = json_tensor.parse(body)
        name = _signature_name(parsed)
        with self._core.use(model, number, label) as version:
            signature = inference.signature(version.loaded, name)
            inputs, row_format = json_tensor.decode(parsed, signature)
            del parsed
            with metrics.Run(model, version.number, signature.name, "Predict"):
                outputs = inference.predict(version.loaded, signature, inputs, timeout_ms=_left(deadline))
            spec = (model, version.number, signature.name)
            self._log(model, lambda rate: prediction_log.predict(spec, inputs, outputs, rate))
            return (json_tensor.encode_rows if row_format else json_tensor.encode_columns)(outputs, signature)

    def _infer_examples(
        self, verb: str, model: str, number: int | None, label: str, body: bytes, deadline: float | None
    ) -> bytes:
        """Classify and regress."""
        parsed = json_tensor.parse(body, last_inside=True)
        name = _signature_name(parsed)
        batch = examples.from_json(parsed)
        check = self._options.check_method_names
        with self._core.use(model, number, label) as version:
            metrics.count_examples(model, len(batch))
            spec = (model, version.number, name)
            if verb == "classify":
                with metrics.Run(model, version.number, name, "Classify"):
                    classes = inference.classify(version.loaded, name, batch, check, _left(deadline))
                self._log(model, lambda rate: prediction_log.classify(spec, batch, classes, rate))
                return json_tensor.encode_classes(classes)
            with metrics.Run(model, version.number, name, "Regress"):
                values = inference.regress(version.loaded, name, batch, check, _left(deadline))
            self._log(model, lambda rate: prediction_log.regress(spec, batch, values, rate))
            return json_tensor.encode_values(values)

    def _log(self, model: str, record: Callable[[float], bytes]) -> None:
        self._logs.offer(model, self._core.logging(model), record)

    def _describe(self, match: re.Match[str]) -> Response:
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

    def _inflated(self, request: Request) -> bytes:
        """The body, inflated if its encoding says gzip; one that cannot be counts as empty, as in TF Serving."""
        if "gzip" not in request.headers.get("content-encoding", "").lower():
            return request.body
        inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            body = inflater.decompress(request.body, self._options.max_body + 1)
        except zlib.error:
            return b""
        if len(body) > self._options.max_body:
            raise invalid(f"The inflated body is larger than {self._options.max_body} bytes.")
        return body if inflater.eof else b""

    def _metrics(self, target: str) -> Response:
        if "?" in target:
            return html_error(400)
        manager = self._core.manager
        in_flight = [
            (name, version.number, version.in_flight)
            for name in self._core.models
            for version in manager.available(name).values()
        ]
        return Response(200, metrics.page(in_flight).encode("utf-8", "surrogateescape"), "text/plain")

    def _answer(self, model: str, api: str, answer: Callable[[], Response], began: float = 0.0) -> Response:
        """An answer, or the refusal that it ended with; counted. `began` is a `time.perf_counter()`, for a verb."""
        code = Code.OK
        try:
            reply = answer()
            if api:
                metrics.REQUEST_LATENCY.observe((time.perf_counter() - began) * 1e6, model, api, "REST")
        except _BadVersion:
            code, reply = Code.INVALID_ARGUMENT, Response(400)
        except ServingError as error:
            code, reply = error.code, self._error(error)
        metrics.REQUEST_COUNT.add(model, code.name)
        return self._reply(reply)

    def _error(self, error: ServingError) -> Response:
        body = '{\n    "error": ' + json.dumps(error.text, ensure_ascii=False) + "\n}"
        retry = (("Retry-After", "1"),) if error.code is Code.UNAVAILABLE else ()
        return Response(error.code.http, body.encode("utf-8", "surrogateescape"), headers=retry)

    def _reply(self, response: Response) -> Response:
        if self._options.cors:
            response.headers += _CORS
        return response


class _BadVersion(Exception):
    """A version number past int64: 400 with an empty body."""


def _spec(match: re.Match[str]) -> tuple[str, int | None, str]:
    """Model, version and label of a path, percent-decoded after it was matched."""
    number = int(match["version"]) if match["version"] and len(match["version"]) < 4000 else None
    if match["version"] and (number is None or number > _MAX_VERSION):
        raise _BadVersion
    return _unquote(match["model"]), number, _unquote(match["label"] or "")


def _refuse(error: ServingError) -> Response:
    raise error


def _signature_name(parsed: Mapping[str, Any]) -> str:
    name = parsed.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("'signature_name' key must be a string value.")
    return name


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

"""REST requests to workers: the body as it came, to the version that answers; and the worker's answer as it is."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from urllib.parse import quote

from .. import metrics
from ..core.manager import Version
from ..errors import Code, ServingError
from ..frontends.http import Exchange, Head, Response
from ..frontends.rest import CODE_HEADER, RestApi
from .relay import Relay, Relayed

#: What a request to a model asks for: model, version and label.
_Spec = tuple[str, int | None, str]

_CODE = f"\r\n{CODE_HEADER}: ".encode()
_RETRY = b"\r\nRetry-After: "
_TYPE = b"\r\nContent-Type: "


class RestRelay:
    """`RestApi` asks it for the routes of predict, classify and regress."""

    def __init__(self, relay: Relay, rest: RestApi, timeout: float | None) -> None:
        """`timeout` is a request's, in seconds."""
        self._relay = relay
        self.rest = rest
        self._timeout = timeout

    def route(
        self, verb: str, spec: _Spec, head: Head, local: Callable[[Exchange], None]
    ) -> Callable[[Exchange], None]:
        """`local` answers requests that no version answers: it finds what is wrong in the order that it always does."""
        return functools.partial(self._forward, _Target(verb, spec, head), local)

    def _forward(self, target: _Target, local: Callable[[Exchange], None], request: Exchange) -> None:
        began = time.monotonic()
        try:
            version = self._relay.core.acquire(*target.spec)
        except ServingError:
            local(request)
            return
        deadline = None if self._timeout is None else began + self._timeout
        self._relay.send(_RelayedRest(self, self._relay, target, request, version, began, deadline))


class _Target:
    """What the requests with one line and headers have in common."""

    def __init__(self, verb: str, spec: _Spec, head: Head) -> None:
        self.verb = verb
        self.spec = spec
        self.model = model = spec[0]
        self.latency = metrics.REQUEST_LATENCY.child(model, verb, "REST")
        self.successes = metrics.REQUEST_COUNT.child(model, "OK")
        self._headers = "".join(
            f"{name}: {head.headers[name]}\r\n" for name in ("content-type", "content-encoding") if name in head.headers
        )
        self._known: dict[tuple[int, int], bytes] = {}

    def head(self, number: int, size: int) -> bytes:
        """Of a request to a version, with a body of so many bytes."""
        found = self._known.get((number, size))
        if found is None:
            model = quote(self.model.encode("utf-8", "surrogateescape"), safe="")
            line = f"POST /v1/models/{model}/versions/{number}:{self.verb} HTTP/1.1\r\nHost: worker\r\n"
            found = f"{line}{self._headers}Content-Length: {size}\r\n\r\n".encode("latin-1")
            if len(self._known) > 1000:
                self._known.clear()
            self._known[number, size] = found
        return found


class _RelayedRest(Relayed):
    __slots__ = ("_began", "_request", "_rest", "_target")

    def __init__(
        self,
        rest: RestRelay,
        relay: Relay,
        target: _Target,
        request: Exchange,
        version: Version,
        began: float,
        deadline: float | None,
    ) -> None:
        super().__init__(relay, version, deadline)
        self._rest = rest.rest
        self._target = target
        self._request = request
        self._began = began
        self.head = target.head(version.number, len(request.body))
        self.body = (request.body,)

    def done(self, head: bytes, body: bytes) -> None:
        status = int(head[9:12])
        content_type = _value(head, _TYPE).decode("latin-1")
        if status == 200:
            self._target.latency.observe((time.monotonic() - self._began) * 1e6)
            self._target.successes.add()
            self._request.respond(self._rest.reply(Response(200, body, content_type)))
            return
        code = _value(head, _CODE).decode() or Code.UNKNOWN.name
        metrics.REQUEST_COUNT.add(self._target.model, code)
        retry = _value(head, _RETRY).decode()
        headers = (("Retry-After", retry),) if retry else ()
        self._request.respond(self._rest.reply(Response(status, body, content_type, headers)))

    def failed(self, error: ServingError) -> None:
        self._request.respond(self._rest.refusal(self._target.model, error))

    def is_cancelled(self) -> bool:
        return self._request.connection.is_abandoned


def _value(head: bytes, start: bytes) -> bytes:
    """Of a header; b"" without it."""
    at = head.find(start)
    if at < 0:
        return b""
    at += len(start)
    end = head.find(b"\r\n", at)
    return head[at:] if end < 0 else head[at:end]

"""An HTTP/1.1 server on asyncio: requests in, replies out, in order. It knows no paths; `rest.py` and `management.py`
answer.

Keep-alive, pipelining, chunked bodies, ``Expect: 100-continue``, HEAD, limits on headers and bodies, slow clients,
back-pressure both ways, streams, graceful close.
"""

from __future__ import annotations

import asyncio
import email.utils
import http
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

log = logging.getLogger(__name__)

#: Bytes of a request's line and headers.
MAX_HEADER = 64 * 1024

#: Requests of one connection that may wait for their turn; then nothing more is read from it.
MAX_PIPELINED = 32

#: Seconds without a byte, in the middle of a request or between two.
IDLE_SECONDS = 300.0
STALLED_SECONDS = 60.0

#: Seconds that a refused client may go on sending, unread: a close at once would take the refusal away from it.
LINGER_SECONDS = 5.0

_METHODS = {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"}


@dataclass(slots=True)
class Request:
    """One request, whole."""

    method: str
    target: str  #: path and query as they came, byte for byte (latin-1)
    headers: dict[str, str]  #: names in lower case; of equal ones the last
    body: bytes
    abandoned: bool = False  #: its client has closed its side since


@dataclass(slots=True)
class Response:
    """One reply. With `stream`, its parts are sent as they come, and `body` is not looked at."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False
    stream: AsyncIterator[bytes] | None = None


Handler = Callable[[Request], Response | Awaitable[Response]]


def html_error(status: int, text: str = "") -> Response:
    """What TF Serving's HTTP library says by itself: a small page, and the connection is closed."""
    phrase = _phrase(status)
    page = f"<HTML><HEAD>\n<TITLE>{status} {phrase}</TITLE>\n</HEAD><BODY>\n<H1>{text or phrase}</H1>\n</BODY></HTML>\n"
    return Response(status, page.encode(), "text/html", close=True)


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Client Closed Request" if status == 499 else "Error"


class _Date:
    """The Date header's value, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def __bytes__(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second, self._text = now, email.utils.formatdate(now, usegmt=True).encode()
        return self._text


_DATE = _Date()


@dataclass
class HttpServer:
    """The connections of one frontend, on any number of listening sockets."""

    handler: Handler
    max_body: int = 2**31 - 1
    connections: set[_Connection] = field(default_factory=set)
    draining: bool = False

    def protocol(self) -> asyncio.Protocol:
        """For `loop.create_server` and `loop.create_unix_server`."""
        return _Connection(self)

    async def sweep(self) -> None:
        """Close the connections of slow and silent clients; runs until cancelled."""
        while True:
            await asyncio.sleep(5)
            now = time.monotonic()
            for connection in list(self.connections):
                connection.close_if_idle(now)

    async def drain(self, timeout: float) -> None:
        """No more requests: those in flight are answered, or cut off after `timeout` seconds."""
        self.draining = True
        for connection in list(self.connections):
            connection.finish()
        end = time.monotonic() + timeout
        while self.connections and time.monotonic() < end:
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()


class _Connection(asyncio.Protocol):
    """One client. Requests wait in `_waiting` while one is being answered: replies keep their order."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._busy = False
        self._current: Request | None = None
        self._streaming = False
        self._closing = False
        self._refusal: Response | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._last = time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self._in_headers = False
        self._unparsed = 0
        self._target = b""
        self._headers: dict[str, str] = {}
        self._header_size = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._in_request = False

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        self._server.connections.add(self)
        if self._server.draining:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._closing = True
        self._waiting.clear()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._last = time.monotonic()
        if self._closing:
            return
        try:
            self._feed(data)
        except httptools.HttpParserInvalidMethodError:
            self._refuse(501)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _TooLarge):
                self._refuse(error.__context__.status)
            else:
                log.error("HTTP parser", exc_info=error)
                self._refuse(400)
        except httptools.HttpParserError:
            self._refuse(400)

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                # Nothing is offered here that could be upgraded to: the connection goes on as it was.
                self._parser = httptools.HttpRequestParser(self)
                data = data[offer.args[0] :]
                continue
            break
        if self._in_headers:  # a header without an end is gathered by the parser, which sets no limit
            self._unparsed += len(data)
            if self._unparsed > 2 * MAX_HEADER:
                self._refuse(431)

    def eof_received(self) -> bool:
        # A client that only closed its side still reads: what it asked for is answered, unless it has to wait for long.
        self._closing = True
        if self._current is not None:
            self._current.abandoned = True
        return bool(self._busy or self._waiting)

    # The parser calls these.

    def on_message_begin(self) -> None:
        self._reset()
        self._in_request = self._in_headers = True

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header(len(name) + len(value))
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def _count_header(self, size: int) -> None:
        self._header_size += size
        if self._header_size > MAX_HEADER:
            raise _TooLarge(431)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        length = self._headers.get("content-length", "")
        if length.isdigit() and int(length) > self._server.max_body:
            raise _TooLarge(413)
        if self._headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        self._body_size += len(part)
        if self._body_size > self._server.max_body:
            raise _TooLarge(413)
        self._body.append(part)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode("latin-1")
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = Request(method, self._target.decode("latin-1"), self._headers, body)
        # An HTTP/1.0 client that wants the connection kept needs to be told that it is; closing is always right.
        keep = self._parser.should_keep_alive() and self._parser.get_http_version() != "1.0"
        self._reset()
        self._waiting.append((request, keep))
        if len(self._waiting) >= MAX_PIPELINED and self._transport is not None:
            self._transport.pause_reading()
        if not self._busy:
            self._next()

    # Answers.

    def _next(self) -> None:
        """Answer what waits: at once where the handler can, in a task where it takes time."""
        while self._waiting and self._transport is not None and not self._transport.is_closing():
            request, keep = self._waiting.popleft()
            self._busy, self._current = True, request
            try:
                answer = self._server.handler(request) if request.method in _METHODS else html_error(501)
            except Exception:
                log.exception("A request failed")
                answer = Response(500, b'{"error": "Internal error"}')
            if not isinstance(answer, Response) or answer.stream is not None or not self._writable.is_set():
                self._task = asyncio.ensure_future(self._later(request, keep, answer))
                return
            self._write(request, keep, answer)
            self._busy = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            if self._refusal is not None:
                self._send_refusal(self._refusal)
            elif self._closing:
                self._transport.close()

    async def _later(self, request: Request, keep: bool, answer: Response | Awaitable[Response]) -> None:
        try:
            response = answer if isinstance(answer, Response) else await answer
            await self._writable.wait()
            if response.stream is not None:
                await self._write_stream(response)
                return
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("A request failed")
            response = Response(500, b'{"error": "Internal error"}')
        self._task = None
        self._write(request, keep, response)
        self._busy = False
        self._next()

    def _write(self, request: Request, keep: bool, response: Response) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        last = self._server.draining and not self._waiting and not self._in_request
        keep = keep and not response.close and not last
        head = self._head(response, b"Content-Length: %d\r\n" % len(response.body), keep)
        if request.method == "HEAD":
            self._transport.write(head)
        elif len(response.body) < 65536:
            self._transport.write(head + response.body)
        else:
            self._transport.write(head)
            self._transport.write(response.body)
        self._last = time.monotonic()
        if not keep:
            self._closing = True
            self._waiting.clear()
            self._transport.close()

    async def _write_stream(self, response: Response) -> None:
        """A stream ends the connection when it ends: its length is not known."""
        assert response.stream is not None and self._transport is not None
        self._streaming = True
        self._transport.write(self._head(response, b"Cache-Control: no-cache\r\n", False))
        try:
            async for part in response.stream:
                self._last = time.monotonic()
                self._transport.write(part)
                await self._writable.wait()
                if self._transport.is_closing():
                    break
        finally:
            closing = getattr(response.stream, "aclose", None)
            if closing is not None:
                await closing()
            self._transport.close()

    @staticmethod
    def _head(response: Response, length: bytes, keep: bool) -> bytes:
        head = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nDate: %b\r\n%b" % (
            response.status,
            _phrase(response.status).encode(),
            response.content_type.encode(),
            bytes(_DATE),
            length,
        )
        for name, value in response.headers:
            head += f"{name}: {value}\r\n".encode("latin-1")
        return head + (b"\r\n" if keep else b"Connection: close\r\n\r\n")

    def _refuse(self, status: int) -> None:
        """What came is not to be read on: answer what came before it, then this, then close."""
        self._closing = True
        self._in_request = False
        self._refusal = html_error(status)
        if not self._busy:
            self._send_refusal(self._refusal)

    def _send_refusal(self, response: Response) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._refusal = None
        self._transport.write(
            self._head(response, b"Content-Length: %d\r\n" % len(response.body), False) + response.body
        )
        # Half-closed: the refusal arrives, even where the client is still sending.
        self._transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.close)

    # The server calls these.

    def finish(self) -> None:
        """Close now if nothing is under way; else the last reply closes."""
        if not self._busy and not self._waiting and not self._in_request and self._transport is not None:
            self._transport.close()
        elif self._streaming and self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def close_if_idle(self, now: float) -> None:
        """Close a connection on which nothing happens."""
        limit = STALLED_SECONDS if self._in_request else IDLE_SECONDS
        if not self._busy and not self._waiting and now - self._last > limit and self._transport is not None:
            self._transport.close()
        elif not self._writable.is_set() and now - self._last > IDLE_SECONDS and self._transport is not None:
            self._transport.abort()  # it does not read what it asked for


class _TooLarge(Exception):
    """A limit of ours is passed; `status` says which."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

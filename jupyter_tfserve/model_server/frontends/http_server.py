"""An HTTP/1.1 server on asyncio: requests in, replies out, in order. It knows no paths; `rest.py` and `management.py`
answer.

Keep-alive, pipelining, chunked bodies, ``Expect: 100-continue``, HEAD, limits on headers and bodies, slow clients,
back-pressure both ways, streams, graceful close.

Clients send the same request line and headers again and again, byte for byte. They are parsed once, by httptools;
where they come again with their whole body, a look into a dictionary is all that is needed (`_Connection._known`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import httptools

from .http import INTERNAL_ERROR, Exchange, Handler, Head, Response, head_start, html_error, reply_head

log = logging.getLogger(__name__)

#: Bytes of a request's line and headers.
MAX_HEADER = 64 * 1024

#: Requests of one connection that may wait for their turn; then nothing more is read from it.
MAX_PIPELINED = 32

#: Seconds without a byte, in the middle of a request or between two.
IDLE_SECONDS = 300.0
STALLED_SECONDS = 60.0

#: Seconds that a request's line and headers may take, however busily they come.
HEAD_SECONDS = 60.0

#: Seconds that a refused client may go on sending, unread: a close at once would take the refusal away from it.
LINGER_SECONDS = 5.0

#: Seconds that a request may wait for its turn when its client has closed the connection; after that nobody is taken to
#: read the answer any more. (Who closes only one side, and reads on, is answered at once in general.)
ABANDONED_SECONDS = 0.5

#: Seconds between two looks for connections on which nothing happens, and the grain of the times above.
_SWEEP_SECONDS = 5.0

#: Requests up to so many bytes of line and headers are remembered as parsed, and so many of them.
_MAX_KNOWN_SIZE = 4096
_MAX_KNOWN = 1024

#: Bytes of a body up to which it is sent in one piece with its head.
_MAX_JOINED = 64 * 1024

_METHODS = {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"}


@dataclass
class HttpServer:
    """The connections of one frontend, on any number of listening sockets."""

    handler: Handler
    max_body: int = 2**31 - 1
    abandoned_seconds: float = ABANDONED_SECONDS  #: 0 where clients are known never to close only one side
    connections: set[_Connection] = field(default_factory=set)
    known: dict[bytes, Head] = field(default_factory=dict)
    draining: bool = False
    now: float = field(default_factory=time.monotonic)  #: as of the last sweep
    plain_start: bytes = b""  #: of the head of a reply in JSON, up to its length; it holds for a second

    def protocol(self) -> asyncio.Protocol:
        """For `loop.create_server` and `loop.create_unix_server`."""
        return _Connection(self)

    async def sweep(self) -> None:
        """Close the connections of slow and silent clients; runs until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.now = time.monotonic()
            for connection in list(self.connections):
                connection.close_if_idle(self.now)

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

    def make_plain_start(self) -> bytes:
        """A new `plain_start`."""
        now = time.time()
        self.plain_start = head_start(200, "application/json", int(now)) + b"Content-Length: "
        asyncio.get_running_loop().call_later(1.0 - now % 1.0, self._end_plain_start)
        return self.plain_start

    def _end_plain_start(self) -> None:
        self.plain_start = b""

    def remember(self, text: bytes, head: Head) -> None:
        """A head in the bytes that it came in."""
        if len(self.known) >= _MAX_KNOWN:
            self.known.clear()
        self.known[text] = head


class _Connection(asyncio.Protocol):
    """One client. Its requests are handed on as they come; the replies keep their order."""

    _transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[Exchange] = deque()  # not answered yet, or not sent
        self._stream: asyncio.Task[None] | None = None
        self._is_lost = False
        self.is_abandoned = False  # nobody will read the answers
        self._closing = False  # nothing more is read
        self._refusal: Response | None = None
        self._paused = False
        self._may_write = True
        self._last = self._head_since = server.now
        self._candidate = b""
        self._reset()

    def _reset(self) -> None:
        self._in_request = self._in_headers = self._waits_for_us = False
        self._unparsed = 0  # bytes since the parser last told of some
        self._target = b""
        self._headers: dict[str, str] = {}
        self._header_count = 0
        self._header_size = 0
        self._head: Head | None = None
        self._body: list[bytes] = []
        self._body_size = 0

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        self._server.connections.add(self)
        if self._server.draining:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._closing = self._is_lost = self.is_abandoned = True
        self._exchanges.clear()
        if self._stream is not None:
            self._stream.cancel()

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._last = self._server.now
        if self._closing:
            return
        if not self._in_request:
            data = self._known(data)
            if not data or self._closing:
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

    def _known(self, data: bytes) -> bytes:
        """Take the requests whose heads came before, byte for byte, and whose bodies are here; returns what is left,
        for the parser.
        """
        known, at, end = self._server.known, 0, len(data)
        while at < end:
            body = data.find(b"\r\n\r\n", at) + 4
            if body < 4:
                break
            text = data[at:body]
            head = known.get(text)
            if head is None:
                # What is not a head from its first letter on is none for the parser either.
                self._candidate = text if len(text) <= _MAX_KNOWN_SIZE and text[:1].isupper() else b""
                break
            if body + head.length > end:
                break
            at = body + head.length
            self._handle(head, data[body:at])
            if self._closing:
                return b""
        return data[at:] if at else data

    def _feed(self, data: bytes) -> None:
        self._unparsed += len(data)
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self._parser.get_method() == b"CONNECT":
                    self._refuse(501)
                    return
                # Nothing is offered here that could be upgraded to: the request is read again without the offer, since
                # the parser takes none of its body for it.
                head, self._candidate = self._head_without_offer(), b""
                self._parser = httptools.HttpRequestParser(self)
                data = head + data[offer.args[0] :]
                continue
            break
        # A header or trailer without an end is gathered by the parser, which sets no limit.
        if self._in_request and self._unparsed > 2 * MAX_HEADER:
            self._refuse(431)

    def _head_without_offer(self) -> bytes:
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        kept = "".join(f"{name}: {value}\r\n" for name, value in self._headers.items() if name != "upgrade")
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self._target, version, kept.encode("latin-1"))

    def eof_received(self) -> bool:
        # A client that only closed its side still reads: what it asked for is answered, unless it has to wait for long.
        self._closing = True
        if self._exchanges:
            asyncio.get_running_loop().call_later(self._server.abandoned_seconds, self._abandon)
        return bool(self._exchanges)

    def _abandon(self) -> None:
        self.is_abandoned = True

    # The parser calls these.

    def on_message_begin(self) -> None:
        self._reset()
        self._in_request = self._in_headers = True
        self._head_since = self._server.now

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._count_header(len(name) + len(value))
        if not self._in_headers:
            return  # a trailer: what a header says is settled by then
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def _count_header(self, size: int) -> None:
        self._unparsed = 0
        self._header_size += size
        if self._header_size > MAX_HEADER:
            raise _TooLarge(431)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        if self._parser.should_upgrade():
            return
        headers = self._headers
        length = headers.get("content-length", "").strip()
        if length.isdigit() and int(length) > self._server.max_body:
            raise _TooLarge(413)
        self._waits_for_us = headers.get("expect", "").lower() == "100-continue"
        # An HTTP/1.0 client that wants the connection kept needs to be told that it is; closing is always right.
        keep = self._parser.should_keep_alive() and self._parser.get_http_version() != "1.0"
        method = self._parser.get_method().decode("latin-1")
        self._head = Head(method, self._target.decode("latin-1"), headers, keep)
        plain = not self._waits_for_us and "transfer-encoding" not in headers
        # A line for the request, one for each header, an empty one, and all of them ended in the same way: then the
        # parser and we mean the same bytes.
        text = self._candidate
        if not (plain and text.count(b"\n") == text.count(b"\r\n") == self._header_count + 2):
            self._candidate = b""
        if not self._exchanges:
            self._ask_for_body()

    def _ask_for_body(self) -> None:
        """Where the client waits to be asked. It is when its turn has come, so that this is no answer to another."""
        if self._waits_for_us and not self._transport.is_closing():
            self._waits_for_us = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        self._unparsed = 0
        self._body_size += len(part)
        if self._body_size > self._server.max_body:
            raise _TooLarge(413)
        self._body.append(part)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        head = self._head
        assert head is not None
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        if self._candidate:
            head.length = len(body)  # what the parser took for it, however the header was written
            self._server.remember(self._candidate, head)
            self._candidate = b""
        self._reset()
        if not self._closing:
            self._handle(head, body)

    # Answers.

    def _handle(self, head: Head, body: bytes) -> None:
        """Hand a request on."""
        exchange = Exchange(head, body, self)
        self._exchanges.append(exchange)
        if not head.keep:
            self._closing = True
        try:
            if head.method in _METHODS:
                self._server.handler(exchange)
            else:
                exchange.respond(html_error(501))
        except Exception:
            log.exception("A request failed")
            exchange.respond(INTERNAL_ERROR)
        if len(self._exchanges) >= MAX_PIPELINED and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def send(self, exchange: Exchange, reply: Response | bytes) -> None:
        """Send a reply when its turn has come."""
        exchanges = self._exchanges
        if (
            len(exchanges) == 1
            and exchanges[0] is exchange
            and type(reply) is bytes
            and len(reply) < _MAX_JOINED
            and exchange.head.is_plain
            and self._may_write
            and not (self._closing or self._in_request or self._stream or self._server.draining)
        ):
            # What nearly always is: nothing before it, nothing behind it, nothing to be said but the body.
            exchanges.clear()
            start = self._server.plain_start or self._server.make_plain_start()
            self._transport.write(b"%b%d\r\n\r\n%b" % (start, len(reply), reply))
            return
        exchange.reply = reply
        self.flush()

    def flush(self) -> None:
        """Send the answers whose turn has come."""
        transport, exchanges = self._transport, self._exchanges
        while exchanges and self._may_write and not self._is_lost and self._stream is None:
            reply = exchanges[0].reply
            if reply is None:
                break
            exchange = exchanges.popleft()
            response = Response(200, reply) if isinstance(reply, bytes) else reply
            if response.stream is not None:
                self._stream = asyncio.ensure_future(self._write_stream(response, transport))
                return
            self._write(exchange.head, response, transport)
        if self._paused and len(exchanges) < MAX_PIPELINED and not transport.is_closing():
            self._paused = False
            transport.resume_reading()
        if self._waits_for_us and not exchanges:
            self._ask_for_body()
        if self._closing and not exchanges and not transport.is_closing():
            if self._refusal is not None:
                self._send_refusal(self._refusal)
            elif self._stream is None:
                transport.close()

    def _write(self, head: Head, response: Response, transport: asyncio.Transport) -> None:
        keep = head.keep and not response.close
        if self._server.draining and not self._exchanges and not self._in_request:
            keep = False
        body = response.body
        start = reply_head(response, b"Content-Length: %d\r\n" % len(body), keep)
        if head.method == "HEAD":
            transport.write(start)
        elif len(body) < _MAX_JOINED:
            transport.write(start + body)
        else:
            transport.write(start)
            transport.write(body)
        if not keep:
            self._closing = True
            self._exchanges.clear()
            transport.close()

    async def _write_stream(self, response: Response, transport: asyncio.Transport) -> None:
        """A stream ends the connection when it ends: its length is not known."""
        assert response.stream is not None
        transport.write(reply_head(response, b"Cache-Control: no-cache\r\n", False))
        try:
            async for part in response.stream:
                self._last = self._server.now
                transport.write(part)
                while not self._may_write and not transport.is_closing():
                    await asyncio.sleep(0.05)
                if transport.is_closing():
                    break
        finally:
            closing = getattr(response.stream, "aclose", None)
            if closing is not None:
                await closing()
            transport.close()

    def _refuse(self, status: int) -> None:
        """What came is not to be read on: answer what came before it, then this, then close."""
        self._closing = True
        self._in_request = False
        self._refusal = html_error(status)
        self.flush()

    def _send_refusal(self, response: Response) -> None:
        if self._transport.is_closing():
            return
        self._refusal = None
        self._transport.write(
            reply_head(response, b"Content-Length: %d\r\n" % len(response.body), False) + response.body
        )
        # Half-closed: the refusal arrives, even where the client is still sending.
        self._transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.close)

    # The server calls these.

    def finish(self) -> None:
        """Close now if nothing is under way; else the last reply closes."""
        if self._stream is not None:
            self._stream.cancel()
        elif not self._exchanges and not self._in_request:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def close_if_idle(self, now: float) -> None:
        """Close a connection on which nothing happens."""
        silent = now - self._last
        if self._in_headers and now - self._head_since > HEAD_SECONDS:
            self._transport.close()
            return
        if not self._exchanges and self._stream is None:
            if silent > (STALLED_SECONDS if self._in_request else IDLE_SECONDS):
                self._transport.close()
        elif not self._may_write and silent > IDLE_SECONDS:
            self._transport.abort()  # it does not read what it asked for


class _TooLarge(Exception):
    """A limit of ours is passed; `status` says which."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

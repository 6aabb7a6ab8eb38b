"""HTTP as the frontends see it: requests to answer, and replies. `http_server.py` reads and writes them."""

from __future__ import annotations

import asyncio
import email.utils
import functools
import http
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Head:
    """A request's line and headers. Requests that are the same there share one."""

    __slots__ = ("headers", "is_plain", "keep", "length", "method", "route", "target")

    def __init__(self, method: str, target: str, headers: dict[str, str], keep: bool = True) -> None:
        self.method = method
        self.target = target  #: path and query as they came, byte for byte (latin-1)
        self.headers = headers  #: names in lower case; of equal ones the last
        self.length = 0  #: bytes of the body, where the server has seen such a request before
        self.keep = keep  #: whether the connection goes on after it
        self.is_plain = keep and method != "HEAD"  #: whether its reply is a head and a body, and nothing follows
        self.route: Any = None  #: for whoever answers: what it made of method and target


class Connection(Protocol):
    """What a request came in on."""

    is_abandoned: bool  #: nobody will read the answers

    def send(self, exchange: Exchange, reply: Response | bytes) -> None:
        """Send a reply when its turn has come."""


class Exchange:
    """One request, whole, and the way to answer it: with one `respond`, in the event loop's thread."""

    __slots__ = ("body", "connection", "head", "reply")

    def __init__(self, head: Head, body: bytes, connection: Connection) -> None:
        self.head = head
        self.body = body
        self.connection = connection
        self.reply: Response | bytes | None = None  #: what is sent when its turn has come

    @property
    def method(self) -> str:
        """GET, POST, ..."""
        return self.head.method

    @property
    def target(self) -> str:
        """Path and query."""
        return self.head.target

    @property
    def headers(self) -> dict[str, str]:
        """By name in lower case."""
        return self.head.headers

    def respond(self, reply: Response | bytes) -> None:
        """Answer; it is sent when all that came before on this connection is answered. Bytes are JSON, with status
        200: what nearly all replies are.
        """
        self.connection.send(self, reply)

    def respond_with(self, future: asyncio.Future[Response]) -> None:
        """Answer with what a future will hold."""
        future.add_done_callback(self._respond_with)

    def _respond_with(self, future: asyncio.Future[Response]) -> None:
        if future.cancelled():
            self.respond(INTERNAL_ERROR)
        elif (error := future.exception()) is not None:
            log.error("A request failed", exc_info=error)
            self.respond(INTERNAL_ERROR)
        else:
            self.respond(future.result())


@dataclass(slots=True)
class Response:
    """One reply. With `stream`, its parts are sent as they come, and `body` is not looked at."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False
    stream: AsyncIterator[bytes] | None = None


#: Answers requests, at once or later; called in the event loop's thread.
Handler = Callable[[Exchange], None]

INTERNAL_ERROR = Response(500, b'{"error": "Internal error"}')


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


@functools.lru_cache(256)
def head_start(status: int, content_type: str, second: int) -> bytes:
    """The first lines of a reply's head; they are the same for a second."""
    date = email.utils.formatdate(second, usegmt=True)
    return f"HTTP/1.1 {status} {_phrase(status)}\r\nContent-Type: {content_type}\r\nDate: {date}\r\n".encode("latin-1")


def reply_head(response: Response, length: bytes, keep: bool) -> bytes:
    """The head of a reply; `length` is the line that says how long its body is."""
    head = head_start(response.status, response.content_type, int(time.time())) + length
    for name, value in response.headers:
        head += f"{name}: {value}\r\n".encode("latin-1")
    return head + (b"\r\n" if keep else b"Connection: close\r\n\r\n")

"""What can go wrong with a request, and the one table that says how it is told over HTTP and gRPC."""

from __future__ import annotations

import enum

#: TF Serving cuts the message of a gRPC status here (`util/status_util.cc`): metadata has a size limit.
MAX_MESSAGE = 1024
TRUNCATED = "...TRUNCATED"


class Code(enum.IntEnum):
    """The canonical codes (`google.rpc.Code`, `absl::StatusCode`, `grpc.StatusCode`)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @property
    def http(self) -> int:
        """The HTTP status that TF Serving's REST API gives for it (`util/net_http`)."""
        return _HTTP[self]


_HTTP = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


#: Seconds after which whoever was told UNAVAILABLE may try again.
RETRY_SECONDS = 1


class ServingError(Exception):
    """A request, a load or a configuration is refused; the message is meant for the caller."""

    def __init__(self, code: Code, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy

    @property
    def text(self) -> str:
        """The message and its remedy, as callers of the inference APIs read them."""
        return f"{self.message} {self.remedy}" if self.remedy else self.message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def invalid(message: str, remedy: str = "") -> ServingError:
    """INVALID_ARGUMENT, by far the most frequent."""
    return ServingError(Code.INVALID_ARGUMENT, message, remedy)


def pushback(error: ServingError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of a gRPC status that say when to try again: what HTTP's Retry-After says. (gRPC's own key,
    of its proposal A6, is for its libraries alone: pygrpc-native lets nobody set it.)
    """
    return (("retry-after", str(RETRY_SECONDS)),) if error.code is Code.UNAVAILABLE else ()


def truncated(message: str) -> str:
    """The message as a gRPC status carries it: so many bytes of UTF-8."""
    said = message.encode("utf-8", "replace")
    if len(said) <= MAX_MESSAGE:
        return said.decode()
    return said[:MAX_MESSAGE].decode("utf-8", "ignore") + TRUNCATED


class StartFailed(Exception):
    """The server cannot start; the message says why and what to do."""

"""What REST and gRPC requests have in common on their way through a front: the replica with the least in flight, one
more try where a worker ended, deadlines and clients that go away. In the event loop's thread unless said otherwise.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from ..core.manager import Version
from ..core.server_core import ServerCore
from ..errors import Code, ServingError
from .channel import ChannelFull, Forwarded
from .replicas import RemoteVersion, Replica, lost_worker

#: Seconds between two looks for deadlines that have passed and clients that have gone.
_LOOK_SECONDS = 0.1

#: Seconds after a deadline that its worker, which knows it too, is given to answer itself.
_GRACE_SECONDS = 0.25


class Relay:
    """The requests that are with workers now."""

    def __init__(self, core: ServerCore, loop: asyncio.AbstractEventLoop) -> None:
        self.core = core
        self.loop = loop
        self._under_way: set[Relayed] = set()

    def send(self, request: Relayed) -> None:
        """Send a request, whose version is acquired, to a worker."""
        self._under_way.add(request)
        request.go()

    def over(self, request: Relayed) -> None:
        """It is answered: its version may be unloaded."""
        self._under_way.discard(request)
        self.core.manager.release(request.version)

    async def look(self) -> None:
        """End the requests whose time is over and those whose client has gone; runs until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            for request in list(self._under_way):
                request.look(now)


class Relayed(Forwarded):
    """A request for a version, which is acquired; a frontend's subclass says what becomes of the outcome."""

    __slots__ = ("_relay", "_replica", "_tried", "deadline", "version")

    _replica: Replica | None

    def __init__(self, relay: Relay, version: Version, deadline: float | None) -> None:
        """`deadline` is a `time.monotonic()`."""
        self._relay = relay
        self.version = version
        self.deadline = deadline
        self._replica = None
        self._tried = False
        self.connection = None

    def done(self, head: bytes, body: bytes) -> None:
        """The worker has answered: status line and headers, and the body."""
        raise NotImplementedError

    def failed(self, error: ServingError) -> None:
        """No worker has answered."""
        raise NotImplementedError

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        raise NotImplementedError

    def go(self, avoid: Replica | None = None) -> None:
        """To the replica with the least in flight."""
        try:
            replica = cast(RemoteVersion, self.version.loaded).pick(avoid)
            self._replica = replica
            replica.enter()
            replica.worker.channel.send(self)
        except ServingError as error:
            self._fail(error)
        except ChannelFull:
            self._fail(ServingError(Code.UNAVAILABLE, "Too many requests are waiting.", "Try again in a moment."))

    def answered(self, head: bytes, body: bytes) -> None:
        """The worker has answered."""
        self._leave()
        self._relay.over(self)
        self.done(head, body)

    def lost(self) -> None:
        """The worker is gone, or had closed the connection."""
        replica = self._replica
        assert replica is not None
        self._leave()
        key = self.version.model, self.version.number
        # An idle connection that the worker closed is lost in the same way: then the worker is there, and asked again.
        # One that ended may have ended because of this request, which gets one more try where another one is.
        replica.worker.lost(key)
        if self._tried:
            self._fail(lost_worker())
            return
        self._tried = True
        self.go(replica)

    def look(self, now: float) -> None:
        """End it if its time is over or nobody waits for it."""
        if self.is_cancelled():
            error = ServingError(Code.CANCELLED, "The client has gone.")
        elif self.deadline is not None and now > self.deadline + _GRACE_SECONDS:
            error = ServingError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
        else:
            return
        if self._replica is not None:
            self._replica.worker.channel.drop(self)
        self._fail(error)

    def _fail(self, error: ServingError) -> None:
        self._leave()
        self._relay.over(self)
        self.failed(error)

    def _leave(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.leave()

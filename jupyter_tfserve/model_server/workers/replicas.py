"""A version that workers have loaded, as the front sees it: what it can do, and which worker a request goes to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..core.batching import Batching
from ..core.servable import Signature
from ..errors import Code, ServingError
from . import messages

if TYPE_CHECKING:
    from .fleet import Worker


@dataclass(eq=False)
class Replica:
    """A version in one worker."""

    worker: Worker
    in_flight: int = 0
    _idle: threading.Event = field(default_factory=threading.Event)

    def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing runs in it; nothing new is sent to it any more."""
        self._idle.clear()
        return self.in_flight == 0 or self._idle.wait(timeout)

    def enter(self) -> None:
        """A request goes to it; in the event loop's thread, as `leave` is."""
        self.in_flight += 1

    def leave(self) -> None:
        """Its answer has come."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()


class RemoteVersion:
    """What the manager holds as a version's servable (a `Batcher`, as far as anyone asks for more than a run)."""

    is_idle = False  #: whether it has left its workers' memory they do not tell

    def __init__(
        self,
        model: str,
        number: int,
        path: Path,
        loaded: messages.Loaded,
        batching: Batching,
        replicas: Sequence[Replica],
        close: Callable[[RemoteVersion], None],
    ) -> None:
        self.model, self.number, self.path = model, number, path
        self.replicas = tuple(replicas)  #: replaced as a whole
        self._close = close
        self._batching = batching
        self.signatures: dict[str, Signature] = messages.signatures(loaded)
        self.signature_def_map = messages.signature_def_map(loaded)
        self.dependent = loaded["dependent"]
        self._memory_of_one = loaded["memory"]

    @property
    def memory(self) -> int | None:
        """Bytes that all replicas together take."""
        return None if self._memory_of_one is None else self._memory_of_one * len(self.replicas)

    @property
    def devices(self) -> list[str]:
        """Where it is loaded."""
        return sorted({replica.worker.device for replica in self.replicas})

    @property
    def batching(self) -> Batching:
        """How its requests are run; to set it tells the workers, and waits for them."""
        return self._batching

    @batching.setter
    def batching(self, batching: Batching) -> None:
        self._batching = batching
        for replica in self.replicas:
            try:
                loaded: messages.Loaded = replica.worker.call(
                    "PUT", self.model, str(self.number), "batching", content=messages.batching_message(batching)
                )
            except ServingError as error:
                if error.code is not Code.UNAVAILABLE:  # one that is gone is loaded again with what holds now
                    raise
            else:
                self.dependent = loaded["dependent"]

    @property
    def waiting(self) -> int:
        """0: requests that wait for a run do so in the workers, which do not tell how many."""
        return 0

    def queue(self, signature: Signature, outputs: tuple[str, ...]) -> NoReturn:
        """Nothing runs in a front: a request for a version that came just now is asked to come again."""
        raise lost_worker()

    def run(self, *arguments: object) -> NoReturn:
        """The same."""
        raise lost_worker()

    def pick(self, avoid: Replica | None = None) -> Replica:
        """The replica with the least in flight; `avoid` only if there is no other. Raises UNAVAILABLE if there is
        none.
        """
        best: Replica | None = None
        for replica in self.replicas:
            if best is None or best is avoid or (replica is not avoid and replica.in_flight < best.in_flight):
                best = replica
        if best is None:
            raise lost_worker()
        return best

    def without(self, worker: Worker) -> bool:
        """A worker has ended: send it nothing more. Whether this version was there."""
        left = tuple(replica for replica in self.replicas if replica.worker is not worker)
        was = len(left) < len(self.replicas)
        self.replicas = left
        return was

    def close(self) -> None:
        """Unload it everywhere; nothing runs in it."""
        self._close(self)


def lost_worker() -> ServingError:
    """What a request is told whose worker has ended."""
    return ServingError(
        Code.UNAVAILABLE, "The process that ran this version has ended; it is loaded again.", "Try again in a moment."
    )

"""Moves: a model's versions are loaded where they are to go while they serve where they are; then the requests go
there, and what runs at the old place is finished before it is unloaded. A move that fails changes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ... import api
from ..errors import Code, ServingError
from .placement import AUTO, Wanted, changed, find
from .replicas import RemoteVersion, Replica

if TYPE_CHECKING:
    from .front import Front

log = logging.getLogger(__name__)


class Moves:
    """All models' moves: one at a time for each. Methods may be called from any thread."""

    def __init__(self, front: Front, on_move: Callable[[str, str, str, str], None], drain_seconds: float) -> None:
        """`on_move(model, device, state, error)`: see `api.MoveState`."""
        self._front = front
        self._on_move = on_move
        self._drain_seconds = drain_seconds
        self._under_way: dict[str, Wanted] = {}
        self._errors: dict[str, str] = {}
        self._changed = threading.Condition()

    def status(self, model: str) -> api.Placement:
        """Where a model is to be, and whether it is on its way."""
        with self._changed:
            moving = self._under_way.get(model)
            error = self._errors.get(model, "")
        return self._front.placements.of(model).message(moving.device if moving else "", error)

    def check(self, model: str, request: Mapping[str, Any]) -> Wanted:
        """What a `PlacementRequest` comes to. Raises ServingError where it cannot be."""
        wanted = changed(self._front.placements.of(model), request)
        if wanted.device != AUTO:
            find(self._front.devices.read(), wanted.device)
        return wanted

    def ask(self, model: str, request: Mapping[str, Any]) -> None:
        """Begin to move a model. Raises ServingError, and nothing begins, where that cannot be."""
        wanted = self.check(model, request)
        with self._changed:
            if model in self._under_way:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f"{model} is moving to {self._under_way[model].device} just now.",
                    "Try again when it is there.",
                )
            self._errors.pop(model, None)
            if self._remembers_only(model, wanted):
                return
            self._under_way[model] = wanted
        self._on_move(model, wanted.device, "loading", "")
        threading.Thread(target=self._run, args=(model, wanted), name="move", daemon=True).start()

    def _remembers_only(self, model: str, wanted: Wanted) -> bool:
        """Whether nothing is loaded, or loading, that would have to move: then it is done."""
        placing = self._front.placing(model)
        if not placing.acquire(blocking=False):
            return False
        try:
            if self._front.versions(model):
                return False
            self._front.placements.remember(model, wanted)
            return True
        finally:
            placing.release()

    def wait(self, model: str, timeout: float) -> None:
        """Until a model is not on its way any more, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: model not in self._under_way, timeout)

    def _run(self, model: str, wanted: Wanted) -> None:
        error = ""
        try:
            self._move(model, wanted)
        except ServingError as refused:
            error = refused.text
        except Exception as failed:  # whatever it was: the model is where it was, and may be moved again
            log.exception("The move of %s failed", model)
            error = f"{type(failed).__name__}: {failed}"
        with self._changed:
            del self._under_way[model]
            if error:
                self._errors[model] = error
            self._changed.notify_all()
        if error:
            log.error("%s stays where it is: %s", model, error)
        self._on_move(model, wanted.device, "failed" if error else "done", error)

    def _move(self, model: str, wanted: Wanted) -> None:
        front = self._front
        gone: list[tuple[RemoteVersion, Replica]] = []
        with front.placing(model):
            new: list[tuple[RemoteVersion, list[Replica], RemoteVersion | None]] = []
            try:
                for remote in front.versions(model):
                    slots = front.slots(model, remote.number, remote.path, wanted)
                    names = {slot.name for slot in slots}
                    kept = [replica for replica in remote.replicas if replica.worker.name in names]
                    there = {replica.worker.name for replica in kept}
                    missing = [slot for slot in slots if slot.name not in there]
                    more = front.load_on(missing, model, remote.number, remote.path) if missing else None
                    new.append((remote, kept, more))
                front.placements.remember(model, wanted)
            except BaseException:
                for _, _, more in new:
                    if more is not None:
                        front.take_away(more)
                raise
            for remote, kept, more in new:
                before = remote.replicas
                remote.replicas = (*kept, *(more.replicas if more else ()))
                gone += [(remote, replica) for replica in before if replica not in remote.replicas]
            self._on_move(model, wanted.device, "switched", "")
            if gone:
                self._on_move(model, wanted.device, "draining", "")
            for remote, replica in gone:
                if not replica.wait_idle(self._drain_seconds):
                    log.warning("Requests of %s did not end within %g s", model, self._drain_seconds)
                front.take_away_from(remote, replica)

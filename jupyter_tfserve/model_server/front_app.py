"""The `tfserve` program as a front: its versions are loaded by workers, and it never imports TensorFlow."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import Future

from ..api import Event
from .app import Program, run_program
from .flags import Flags
from .frontends.management import model_event
from .frontends.services import Services
from .workers.front import Front
from .workers.relay import Relay
from .workers.rest import RestRelay
from .workers.services import RemoteServices


def run_front(flags: Flags) -> int:
    """The program, with the models in workers; returns its exit status."""
    return run_program(flags, FrontProgram)


class FrontProgram(Program):
    """One whose versions workers load: it never imports TensorFlow."""

    _loads_here = False

    def _prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        front = self._front = Front(self._flags, self._store, loop, self._on_process, self._on_move)
        self._batching = front.batching
        self._loader = front.load
        self._heartbeat = _beat
        self._processes = front

    def _make_services(self) -> Services:
        loop = asyncio.get_running_loop()
        self._front.core = self._core
        relay = self._relay = Relay(self._core, loop)
        timeout = self._flags.rest_api_timeout_in_ms
        self._rest.relay = RestRelay(relay, self._rest, timeout / 1000 if timeout else None)
        self._rest.counted_elsewhere = self._sampler.reports = self._front.reports
        return RemoteServices(relay, *self._service_options())

    def _begin(self) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._relay.look())]

    def _close_backend(self) -> None:
        self._front.close()

    def _on_model(self, name: str, change: str) -> None:
        super()._on_model(name, change)
        if change == "changed":
            with contextlib.suppress(RuntimeError):  # the pool is shut down
                self._management_pool.submit(self._front.set_logging, name)

    def _on_process(self) -> None:
        self._events.publish(Event(type="server", time=time.time(), state="running", reason=""))

    def _on_move(self, model: str, device: str, state: str, error: str) -> None:
        self._events.publish(Event(type="move", time=time.time(), model=model, device=device, state=state, error=error))
        if state in ("done", "failed"):
            self._events.publish(model_event(model, "changed"))


def _beat() -> Future[None]:
    """The heartbeat of a process that runs no models: that it is asked for in the event loop is all there is to it."""
    beat: Future[None] = Future()
    beat.set_result(None)
    return beat

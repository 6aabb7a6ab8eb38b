"""gRPC by pygrpc-native: HTTP/2 and gRPC are read and written by threads in Rust, which hand over what has arrived in
bursts. Carries `services.py`; what it cannot (streams, so health's Watch and reflection) it hands on to grpcio.

The predictions of a burst run together at its end (`grpc_burst.py`, `core/batch_queue.py`); all else has a thread of
the pool to itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from pygrpc_native import EVENT_CALL, NativeGrpcFront

from ...grants import Grant
from ..asking import Asked
from ..auth import Bearers
from ..core.pools import ModelPools
from ..core.tasks import run_here
from ..errors import Code, ServingError, pushback, truncated
from .admission import Admission, model_of
from .grpc_burst import starter
from .grpc_predict import Call
from .services import PREDICTION_SERVICE, Method, Services

log = logging.getLogger(__name__)

#: Calls that are taken at once.
_BURST = 256

#: Bytes of a request from which on it is decoded in a thread of the pool, so that small ones need not wait for it.
_LARGE = 1024 * 1024

#: Channel arguments that mean the same here as in grpcio, by name.
ARGUMENTS = {
    "grpc.keepalive_time_ms": "keepalive_time_ms",
    "grpc.keepalive_timeout_ms": "keepalive_timeout_ms",
    "grpc.max_concurrent_streams": "max_concurrent_streams",
    "grpc.absolute_max_metadata_size": "max_metadata_size",
}


class NativeTransport:
    """One port."""

    def __init__(
        self,
        address: str,
        services: Services,
        bearers: Bearers,
        pools: ModelPools,
        arguments: Mapping[str, int],
        reuse_port: bool = False,
    ) -> None:
        """Bind; `arguments` has names of `ARGUMENTS`. Raises OSError if the port is taken."""
        self._services = services
        self._bearers = bearers
        self._is_guarded = bool(bearers)
        self._admission = Admission(bearers)
        self._pools = pools
        methods = {
            f"/{service}/{name}": method
            for service, named in services.methods().items()
            for name, method in named.items()
        }
        self._methods: list[Method | None] = list(methods.values())
        self._paths = list(methods)
        self._methods[list(methods).index(f"/{PREDICTION_SERVICE}/Predict")] = None  # started, not called
        given: dict[str, Any] = {ARGUMENTS[name]: value for name, value in arguments.items()}
        self._front = NativeGrpcFront(
            address,
            [(path, False) for path in methods],
            io_threads=1,
            call_details=True,
            reuse_port=reuse_port,
            **given,
        )
        self._calls: dict[int, _NativeCall] = {}
        self._asking: dict[int, _NativeCall] = {}  # whose bearer is being asked about; they do not count yet
        self._turns: list[Callable[[], None]] = []
        self._start_predict = starter(services, lambda turn: self._turns.append(turn))
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="grpc-native", daemon=True)

    @property
    def port(self) -> int:
        """The one that was bound."""
        return int(self._front.bound_port)

    def start(self, fallback: str) -> None:
        """Answer requests; `fallback` is the Unix socket of a grpcio server for all other methods."""
        self._front.set_fallback(fallback)
        self._front.start()
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """No more requests; those in flight get `timeout` seconds. Waits."""
        self._stopping = True
        end = time.monotonic() + timeout
        while (self._calls or self._asking) and time.monotonic() < end:
            time.sleep(0.01)
        self._front.close()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _serve(self) -> None:
        receive = self._front.recv_batch_details
        while (events := receive(_BURST, 0 if self._turns else None)) is not None:
            for kind, call_id, method, payload, _, details in events:
                if kind == EVENT_CALL and payload is not None and details is not None:
                    self._take(call_id, method, payload, details)
                elif self._asking.pop(call_id, None) is None and (call := self._end(call_id)) is not None:
                    call.cancelled = True
            turns, self._turns = self._turns, []
            for turn in turns:
                turn()

    def _take(
        self,
        call_id: int,
        method: int,
        payload: bytes,
        details: tuple[tuple[tuple[str, str | bytes], ...], str, float | None],
    ) -> None:
        metadata, _, left = details
        call = _NativeCall(payload, None if left is None else time.monotonic() + left, call_id, self)
        if self._stopping:
            call.fail(ServingError(Code.UNAVAILABLE, "The server is shutting down."))
            return
        if self._is_guarded:
            sent = next((value for key, value in metadata if key == "authorization"), "")
            try:
                call.grant = grant = self._bearers.caller(sent if isinstance(sent, str) else "")
                if grant is not None:
                    self._admission.enter(grant, self._paths[method], payload)
            except Asked as asked:
                self._asking[call_id] = call
                # The answer is told in the event loop, which is not to work here.
                asked.told.add_done_callback(
                    lambda told: self._pools.common.submit(self._told, call_id, call, method, told)
                )
                return
            except ServingError as error:
                self._refuse(call, method, error, call.grant)
                return
        self._calls[call_id] = call
        run = self._methods[method]
        if run is not None:
            self._in_pool(call, method, _run, run, call)
        elif len(payload) > _LARGE:
            self._in_pool(call, method, run_here, lambda turn: self._services.start_predict(call, turn))
        else:
            self._start_predict(call)

    def _in_pool(self, call: _NativeCall, method: int, work: Callable[..., None], *arguments: Any) -> None:
        """In a thread of the model that the call asks for."""
        try:
            self._pools.of(model_of(self._paths[method], call.payload)).submit(work, *arguments)
        except ServingError as error:
            call.fail(error)

    def _told(self, call_id: int, call: _NativeCall, method: int, told: Future[Grant]) -> None:
        """Whose bearer it is has been found out; in a thread of the pool."""
        if self._asking.pop(call_id, None) is None:  # cancelled meanwhile
            return
        grant = None
        try:
            grant = told.result()
            self._admission.enter(grant, self._paths[method], call.payload)
        except ServingError as error:
            self._refuse(call, method, error, grant)
            return
        call.grant = grant
        self._calls[call_id] = call
        run = self._methods[method]
        if run is not None:
            self._in_pool(call, method, _run, run, call)
        else:
            run_here(lambda turn: self._services.start_predict(call, turn))

    def _refuse(self, call: _NativeCall, method: int, error: ServingError, grant: Grant | None = None) -> None:
        self._bearers.refusals.note(error, "grpc", model_of(self._paths[method], call.payload), grant)
        call.fail(error)

    def _end(self, call_id: int) -> _NativeCall | None:
        """A call is over, once: the thread that takes it out of the table also ends its counting."""
        call = self._calls.pop(call_id, None)
        if call is not None and call.grant is not None:
            self._admission.leave(call.grant)
        return call

    def respond(self, call_id: int, payload: bytes) -> None:
        """Send a reply; nothing happens if the client is gone."""
        self._end(call_id)
        self._front.respond(call_id, payload)

    def fail(self, call_id: int, error: ServingError) -> None:
        """Send a status."""
        self._end(call_id)
        self._front.fail(call_id, int(error.code), truncated(error.text), list(pushback(error)))


class _NativeCall(Call):
    __slots__ = ("_id", "_transport", "cancelled", "grant")

    def __init__(self, payload: bytes, deadline: float | None, call_id: int, transport: NativeTransport) -> None:
        self.payload = payload
        self.deadline = deadline
        self._id = call_id
        self._transport = transport
        self.grant: Grant | None = None  #: what its caller may do; None for the owner
        self.cancelled = False  #: by the client, or because its deadline has passed

    def reply(self, payload: bytes) -> None:
        self._transport.respond(self._id, payload)

    def fail(self, error: ServingError) -> None:
        self._transport.fail(self._id, error)

    def is_cancelled(self) -> bool:
        return self.cancelled


def _run(method: Method, call: Call) -> None:
    """A method that waits, in a thread of the pool."""
    if call.is_cancelled():
        return
    try:
        reply = method(call.payload, call.deadline)
    except ServingError as error:
        call.fail(error)
    except Exception:
        log.exception("A gRPC request failed")
        call.fail(ServingError(Code.INTERNAL, "Internal error"))
    else:
        call.reply(reply)

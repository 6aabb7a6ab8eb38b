"""The gRPC ports: `services.py`, the standard health service and reflection.

Two transports carry them. Plain TCP ports are pygrpc-native's (`grpc_native.py`), which is several times faster; TLS,
Unix sockets, streams and channel arguments that it does not know are grpcio's, which also is all there is where
pygrpc-native has no wheel.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ...grants import Grant
from ..asking import Asked
from ..auth import Bearers
from ..core.pools import ModelPools
from ..errors import Code, ServingError, pushback, truncated
from ..tls import Tls
from .admission import Admission, model_of
from .services import MODEL_SERVICE, PREDICTION_SERVICE, Method, Services

try:
    from .grpc_native import ARGUMENTS, NativeTransport
except ImportError:  # no wheel for this platform
    ARGUMENTS = {}
    NativeTransport = None  # type: ignore[assignment,misc]

log = logging.getLogger(__name__)

_STATUS = {code.value[0]: code for code in grpc.StatusCode}

_HEALTH = "grpc.health.v1.Health"

#: Seconds that mean no deadline: grpcio gives a huge number to calls without one.
_NO_DEADLINE = 1e8


@dataclass(frozen=True)
class GrpcOptions:
    """What the flags say."""

    max_threads: int = 8
    channel_arguments: Sequence[tuple[str, str | int]] = ()
    health: bool = False
    transport: str = "auto"  #: or "grpcio", "native"
    reuse_port: bool = False  #: share the ports with other instances; else a port that is taken is noticed


class GrpcServer:
    """The gRPC ports."""

    def __init__(self, services: Services, bearers: Bearers, options: GrpcOptions, pools: ModelPools) -> None:
        self._services = services
        self._bearers = bearers
        self._options = options
        self._pools = pools
        self._native: list[NativeTransport] = []
        self._folder = ""  # of the socket between the two transports
        self._server = grpc.server(
            ThreadPoolExecutor(options.max_threads, "grpcio"),
            options=list(
                {
                    "grpc.max_send_message_length": -1,
                    "grpc.max_receive_message_length": -1,
                    "grpc.so_reuseport": int(options.reuse_port),
                    **dict(options.channel_arguments),
                }.items()
            ),
            interceptors=[_BearerInterceptor(bearers)] if bearers else [],
        )
        for service, methods in services.methods().items():
            self._server.add_generic_rpc_handlers([_handler(service, methods)])
        names = [PREDICTION_SERVICE, MODEL_SERVICE, reflection.SERVICE_NAME]
        self._health: health.HealthServicer | None = None
        if options.health:
            self._health = health.HealthServicer()
            self.set_serving(False)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
            names.append(_HEALTH)
        reflection.enable_server_reflection(names, self._server)

    def bind(self, address: str, tls: Tls | None = None) -> int:
        """Listen on ``host:port`` or ``unix:path``; returns the port. Raises OSError if it is taken."""
        if tls is None and not address.startswith("unix:") and self._is_native():
            arguments = {name: int(value) for name, value in self._options.channel_arguments}
            transport = NativeTransport(
                address, self._services, self._bearers, self._pools, arguments, self._options.reuse_port
            )
            self._native.append(transport)
            return transport.port
        try:
            if tls is not None:
                port = int(self._server.add_secure_port(address, tls.for_grpc()))
            else:
                port = int(self._server.add_insecure_port(address))
        except RuntimeError as error:
            raise OSError(f"{address} cannot be bound") from error
        if not port:
            raise OSError(f"{address} cannot be bound")
        return port

    def _is_native(self) -> bool:
        """Whether pygrpc-native can carry what was asked for."""
        if self._options.transport == "grpcio" or NativeTransport is None:
            return False
        arguments = self._options.channel_arguments
        return all(name in ARGUMENTS and isinstance(value, int) for name, value in arguments)

    def start(self) -> None:
        """Answer requests."""
        if self._native:
            self._folder = tempfile.mkdtemp(prefix="tfserve-grpc-")  # 0700
            self._server.add_insecure_port(f"unix:{self._folder}/grpcio")
        self._server.start()
        for transport in self._native:
            transport.start(f"{self._folder}/grpcio")

    def set_serving(self, serving: bool) -> None:
        """What the health service says."""
        if self._health is not None:
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            for name in (
                "",
                PREDICTION_SERVICE,
                MODEL_SERVICE,
                PREDICTION_SERVICE.split(".")[-1],
                MODEL_SERVICE.split(".")[-1],
            ):
                self._health.set(name, status)

    def stop(self, timeout: float) -> None:
        """No more requests; those in flight get `timeout` seconds. Waits."""
        self.set_serving(False)
        stopped = self._server.stop(timeout)
        for transport in self._native:
            transport.stop(timeout)
        stopped.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def _handler(service: str, methods: Mapping[str, Method]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        service, {name: grpc.unary_unary_rpc_method_handler(_carried(method)) for name, method in methods.items()}
    )


def _carried(method: Method) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    """A method as grpcio calls it: errors become its status, nothing else gets out."""

    def call(payload: bytes, context: grpc.ServicerContext) -> bytes:
        left = context.time_remaining()
        try:
            return method(payload, None if left is None or left > _NO_DEADLINE else time.monotonic() + left)
        except ServingError as error:
            if pushback(error):
                context.set_trailing_metadata(pushback(error))
            context.abort(_STATUS[int(error.code)], truncated(error.text))
        except Exception:
            log.exception("A gRPC request failed")
            context.abort(grpc.StatusCode.INTERNAL, "Internal error")
        raise AssertionError  # abort raises

    return call


class _BearerInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Asks for a bearer before a method is looked up; health alone is open, so that probes need no secret."""

    def __init__(self, bearers: Bearers) -> None:
        self._bearers = bearers
        self._admission = Admission(bearers)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        if details.method.startswith(f"/{_HEALTH}/"):
            return continuation(details)
        sent = next((value for key, value in details.invocation_metadata if key == "authorization"), "")
        told: Future[Grant] | None = None
        grant: Grant | None = None
        try:
            grant = self._bearers.caller(sent if isinstance(sent, str) else "")
        except Asked as asked:
            told = asked.told
        except ServingError as error:
            return self._refusing(details.method, error)
        handler = continuation(details)
        if grant is None and told is None:
            return handler
        if handler is None or handler.unary_unary is None:  # not ours: reflection, the profiler
            only = ServingError(Code.PERMISSION_DENIED, "This bearer is for predictions.")
            return self._refusing(details.method, only, grant)
        run = handler.unary_unary

        def call(payload: bytes, context: grpc.ServicerContext) -> bytes:
            # Here is a thread of the pool, which may wait; where the interceptor runs, all calls would wait with it.
            known = grant
            try:
                known = known or cast("Future[Grant]", told).result()
                self._admission.enter(known, details.method, payload)
            except ServingError as error:
                self._refuse(details.method, payload, error, known, context)
            try:
                return cast(bytes, run(payload, context))
            finally:
                self._admission.leave(known)

        return grpc.unary_unary_rpc_method_handler(call)

    def _refusing(self, method: str, error: ServingError, grant: Grant | None = None) -> grpc.RpcMethodHandler:
        def refuse(payload: bytes, context: grpc.ServicerContext) -> bytes:
            self._refuse(method, payload, error, grant, context)

        return grpc.unary_unary_rpc_method_handler(refuse)

    def _refuse(
        self, method: str, payload: bytes, error: ServingError, grant: Grant | None, context: grpc.ServicerContext
    ) -> NoReturn:
        self._bearers.refusals.note(error, "grpc", model_of(method, payload), grant)
        context.abort(_STATUS[int(error.code)], truncated(error.text))
        raise AssertionError  # abort raises

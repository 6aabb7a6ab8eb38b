"""gRPC requests to workers: the message as it came, with the version that answers added at its end, as gRPC-Web."""

from __future__ import annotations

import contextlib
import functools
import struct
import threading
import time
from typing import Any
from urllib.parse import unquote

from tensorflow_serving.apis import inference_pb2, model_pb2

from ...wire import BYTES, WireError, fields
from .. import metrics
from ..codecs.proto_tensor import varint
from ..core.manager import Version
from ..core.tasks import Turn
from ..errors import Code, ServingError
from ..frontends.grpc_predict import Call, WaitingCall
from ..frontends.grpc_web import PREFIX as GRPC_WEB
from ..frontends.services import PREDICTION_SERVICE, Services
from .relay import Relay, Relayed

#: What a request's ModelSpec asks for: model, version and label.
_Spec = tuple[str, int | None, str]


class RemoteServices(Services):
    """Where no version answers, the methods of `Services` find what is wrong, in the order that they always do."""

    runs_here = False

    def __init__(self, relay: Relay, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._relay = relay
        self._loop_thread = threading.get_ident()
        self._waiting: list[_RelayedCall] = []  # for the event loop, which takes them a burst at a time
        self._handing_over = threading.Lock()

    def start_predict(self, call: Call, turn: Turn, here: bool = False) -> None:
        """PredictionService/Predict."""
        version = self._acquire(_asked(call.payload))
        if version is None:
            super().start_predict(call, turn, here)
        else:
            self._forward("Predict", version, call, (call.payload, _answers(version.number)))

    def classify(self, payload: bytes, deadline: float | None) -> bytes:
        """PredictionService/Classify."""
        version = self._acquire(_asked(payload))
        if version is None:
            return super().classify(payload, deadline)
        return self._wait("Classify", version, payload, deadline)

    def regress(self, payload: bytes, deadline: float | None) -> bytes:
        """PredictionService/Regress."""
        version = self._acquire(_asked(payload))
        if version is None:
            return super().regress(payload, deadline)
        return self._wait("Regress", version, payload, deadline)

    def multi_inference(self, payload: bytes, deadline: float | None) -> bytes:
        """PredictionService/MultiInference: the first task says which version."""
        try:
            request = inference_pb2.MultiInferenceRequest.FromString(payload)
        except Exception:  # protobuf's DecodeError, which differs between its implementations
            return super().multi_inference(payload, deadline)
        names = {task.model_spec.name for task in request.tasks}
        signatures = {task.model_spec.signature_name for task in request.tasks}
        is_right = len(names) == 1 and len(signatures) == len(request.tasks)
        version = self._acquire(_spec(request.tasks[0].model_spec)) if is_right else None
        if version is None:
            return super().multi_inference(payload, deadline)
        request.tasks[0].model_spec.version.value = version.number
        call = WaitingCall(request.SerializeToString(), deadline)
        self._forward("MultiInference", version, call, (call.payload,))
        return call.wait()

    def _wait(self, method: str, version: Version, payload: bytes, deadline: float | None) -> bytes:
        call = WaitingCall(payload, deadline)
        self._forward(method, version, call, (payload, _answers(version.number)))
        return call.wait()

    def _acquire(self, spec: _Spec | None) -> Version | None:
        """The version that answers; None for none."""
        if spec is None:
            return None
        try:
            return self.core.acquire(*spec)
        except ServingError:
            return None

    def _forward(self, method: str, version: Version, call: Call, message: tuple[bytes, ...]) -> None:
        """From any thread."""
        relayed = _RelayedCall(self._relay, method, version, call, message)
        if threading.get_ident() == self._loop_thread:
            self._relay.send(relayed)
            return
        with self._handing_over:
            self._waiting.append(relayed)
            is_first = len(self._waiting) == 1
        if is_first:  # the loop is told once for a burst
            with contextlib.suppress(RuntimeError):  # it is closed, and all connections with it
                self._relay.loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        with self._handing_over:
            waiting, self._waiting = self._waiting, []
        for relayed in waiting:
            self._relay.send(relayed)


class _RelayedCall(Relayed):
    __slots__ = ("_began", "_call", "_method")

    def __init__(self, relay: Relay, method: str, version: Version, call: Call, message: tuple[bytes, ...]) -> None:
        super().__init__(relay, version, call.deadline)
        self._call = call
        self._method = method
        self._began = time.monotonic()
        size = sum(map(len, message))
        timeout = b""
        if call.deadline is not None:
            left = min(max(0, int((call.deadline - self._began) * 1000)), 99_999_999)
            timeout = b"grpc-timeout: %dm\r\n" % left
        self.head = _head(method, size + 5) + timeout + b"\r\n"
        self.body = (struct.pack(">BI", 0, size), *message)

    def done(self, head: bytes, body: bytes) -> None:
        flags, size = struct.unpack_from(">BI", body)
        if flags == 0:
            self._count("OK")
            self._call.reply(body[5 : 5 + size])
            return
        trailers = dict(line.split(":", 1) for line in body[5:].decode("latin-1").split("\r\n") if line)
        code = Code(int(trailers["grpc-status"]))
        self._count(code.name)
        self._call.fail(ServingError(code, unquote(trailers.get("grpc-message", ""))))

    def failed(self, error: ServingError) -> None:
        self._count(error.code.name)
        self._call.fail(error)

    def is_cancelled(self) -> bool:
        return self._call.is_cancelled()

    def _count(self, status: str) -> None:
        if self._method == "MultiInference":  # TF Serving does not count it
            return
        model = self.version.model
        if status == "OK":
            took = (time.monotonic() - self._began) * 1e6
            metrics.REQUEST_LATENCY.child(model, self._method, "GRPC").observe(took)
        metrics.REQUEST_COUNT.add(model, status)


@functools.lru_cache(1024)
def _head(method: str, size: int) -> bytes:
    """Of a call with a body of so many bytes, without the empty line."""
    return (
        f"POST {GRPC_WEB}/{PREDICTION_SERVICE}/{method} HTTP/1.1\r\nHost: worker\r\n"
        f"Content-Type: application/grpc-web+proto\r\nContent-Length: {size}\r\n"
    ).encode()


@functools.lru_cache(1024)
def _answers(number: int) -> bytes:
    """To stand behind a request whose ModelSpec is field 1: parts of a message merge, and the last version choice
    counts.
    """
    spec = model_pb2.ModelSpec()
    spec.version.value = number
    content = bytes(spec.SerializeToString())
    return b"\x0a" + varint(len(content)) + content


def _asked(payload: bytes) -> _Spec | None:
    """What the ModelSpec in field 1 asks for; None where it cannot be read. All else is stepped over."""
    found = []
    try:
        for number, kind, value in fields(payload):
            if number == 1 and kind == BYTES:
                found.append(bytes(value))
    except WireError:
        return None
    return _parsed(b"".join(found)) if found else None


@functools.lru_cache(1024)
def _parsed(content: bytes) -> _Spec | None:
    try:
        return _spec(model_pb2.ModelSpec.FromString(content))
    except Exception:  # protobuf's DecodeError, which differs between its implementations
        return None


def _spec(spec: Any) -> _Spec | None:
    if not spec.name:
        return None
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else "",
    )

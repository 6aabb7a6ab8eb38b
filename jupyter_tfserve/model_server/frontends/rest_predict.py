"""REST's predict: the way of a request from its body to a run, and of the outputs to a reply. `rest.py` finds out which
requests these are.

A request is decoded in the event loop's thread and run at the end of the burst that it came in, or on a batch thread
(`core/batch_queue.py` says which). Large bodies and large replies are worked on in threads of the pool.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from .. import inference, metrics
from ..codecs import json_reply, json_tensor, predict_message, prediction_log
from ..core.batch_queue import Queue
from ..core.batching import Batcher
from ..core.manager import Version
from ..core.pools import ModelPools
from ..core.servable import Array
from ..core.server_core import ServerCore
from ..core.tasks import Shares, Task, Turn, run_here
from ..errors import Code, ServingError, invalid
from ..request_log import RequestLogs
from . import rest_burst
from .http import Exchange, Response

log = logging.getLogger(__name__)

#: The type of a body that holds a message instead of JSON.
PROTOBUF = "application/x-protobuf"

#: Bytes of a body, and values of a reply, from which on they are worked on in a thread: a tenth of a millisecond or so.
_LARGE_BODY = 128 * 1024
_LARGE_REPLY = 16 * 1024

#: What a request's path asks for: model, version and label.
Spec = tuple[str, int | None, str]


class Predictions:
    """What all predictions share. Made in the event loop's thread."""

    def __init__(
        self,
        core: ServerCore,
        pools: ModelPools,
        logs: RequestLogs,
        timeout: float | None,
        max_body: int,
        reply: Callable[[Response], Response] | None,
        refusal: Callable[[str, ServingError], Response],
    ) -> None:
        """`timeout` in seconds, `max_body` in bytes, after inflating. `refusal` is `RestApi`'s, as is `reply`, where it
        has something to add to a reply.
        """
        self.core = core
        self.pools = pools
        self.timeout = timeout
        self.max_body = max_body
        self.reply = reply
        self.refusal = refusal
        self._logs = logs
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def is_here(self) -> bool:
        """Whether this is the event loop's thread."""
        return threading.get_ident() == self._thread

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the event loop's thread, from any thread."""
        if self.is_here():
            function(*arguments)
        else:
            try:
                self.loop.call_soon_threadsafe(functools.partial(function, *arguments))
            except RuntimeError:
                pass  # the loop is closed, and with it the connections

    def send(self, requests: Sequence[Exchange], replies: Sequence[Response | bytes]) -> None:
        """Answer requests, from any thread."""
        self.call(_respond, requests, replies)

    def log(self, model: str, record: Callable[[float], bytes]) -> None:
        """Offer a request to the model's log."""
        self._logs.offer(model, self.core.logging(model), record)


def _respond(requests: Sequence[Exchange], replies: Sequence[Response | bytes]) -> None:
    for request, reply in zip(requests, replies, strict=True):
        request.respond(reply)


class Target:
    """Where predict requests to one path, with one type of body, go."""

    def __init__(self, shared: Predictions, spec: Spec, is_binary: bool, gzip: bool) -> None:
        self.shared = shared
        self.spec = spec
        self.model = spec[0]
        self._gzip = gzip
        self._kind = _BinaryPrediction if is_binary else _Prediction
        self.latency = metrics.REQUEST_LATENCY.child(self.model, "predict", "REST")
        self.successes = metrics.REQUEST_COUNT.child(self.model, "OK")
        self.began = 0.0  #: when the first request of the last burst came
        self._burst: list[Exchange] = []  # what has come in this turn of the event loop

    def take(self, request: Exchange) -> None:
        """Begin with a request."""
        shared = self.shared
        if self._gzip or len(request.body) > _LARGE_BODY:
            task = self._kind(self, request)
            try:
                shared.pools.of(self.model).submit(run_here, functools.partial(self._start, task, in_pool=True))
            except ServingError as error:
                task.failed(error)
        elif self._kind is _BinaryPrediction:
            self.start_each([request])
        else:
            if not self._burst:
                self.began = time.monotonic()
                shared.loop.call_soon(self._take_burst)
            self._burst.append(request)

    def _take_burst(self) -> None:
        burst, self._burst = self._burst, []
        try:
            rest = rest_burst.start_together(self, burst)
        except Exception:
            log.exception("A burst of requests failed")
            for request in burst:
                self.refuse(request, ServingError(Code.INTERNAL, "Internal error"))
        else:
            self.start_each(rest)

    def start_each(self, requests: Sequence[Exchange]) -> None:
        """Begin with requests of which each goes its own way."""
        for request in requests:
            self._start(self._kind(self, request), self.shared.loop.call_soon)

    def _start(self, task: _Prediction, turn: Turn, in_pool: bool = False) -> None:
        """Decode a request and let it wait for its run; what goes wrong is its answer. In any thread."""
        request = task.request
        try:
            if in_pool and task.is_cancelled():
                raise ServingError(Code.CANCELLED, "The client has gone.")
            name, number, label = self.spec
            try:
                # From here on it is known who answers; the body is still as it came.
                task.version = version = self.shared.core.acquire(name, number, label)
            except ServingError:
                task.read(self._body(request))  # a body that cannot be read is an error before that
                raise
            body = self._body(request)
            request.body = b""  # a large one is not needed twice
            task.queue = queue = task.decode(task.read(body), version.loaded)
            # In a thread of the pool only what is quick is run: it would keep others' from their decoding.
            queue.submit(task, turn)
        except ServingError as error:
            task.failed(error)
        except Exception:
            log.exception("A request failed")
            task.failed(ServingError(Code.INTERNAL, "Internal error"))

    @property
    def deadline(self) -> float | None:
        """Of the burst that is being started."""
        timeout = self.shared.timeout
        return None if timeout is None else self.began + timeout

    def answer(self, requests: Sequence[Exchange], replies: Sequence[Response | bytes], began: Sequence[float]) -> None:
        """Answer requests that went well, and count them; `began` has a `time.monotonic()` for each."""
        if not requests:
            return
        if (add := self.shared.reply) is not None:
            replies = [add(Response(200, reply) if isinstance(reply, bytes) else reply) for reply in replies]
        now = time.monotonic()
        self.shared.send(requests, replies)
        self.latency.observe_all([(now - start) * 1e6 for start in began])
        self.successes.add(len(requests))

    def refuse(self, request: Exchange, error: ServingError) -> None:
        """Answer a request with an error."""
        self.shared.send([request], [self.shared.refusal(self.model, error)])

    def where_there_is_time(self, outputs: Sequence[list[Array]], answer: Callable[..., None], *arguments: Any) -> None:
        """Call `answer(*arguments)`, which writes outputs out: not in the event loop's thread where it takes time."""
        if self.shared.is_here() and _is_large(outputs):
            try:
                self.shared.pools.of(self.model).submit(answer, *arguments)
                return
            except ServingError:
                pass  # so many wait that it is better done at once
        answer(*arguments)

    def _body(self, request: Exchange) -> bytes:
        return inflated(request.body, self.shared.max_body) if self._gzip else request.body


def inflated(body: bytes, limit: int) -> bytes:
    """A body that says it is gzip; one that is not counts as empty, as in TF Serving. Raises INVALID_ARGUMENT past
    `limit` bytes.
    """
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        found = inflater.decompress(body, limit + 1)
    except zlib.error:
        return b""
    if len(found) > limit:
        raise invalid(f"The inflated body is larger than {limit} bytes.")
    return found if inflater.eof else b""


class _Prediction(Task):
    """A predict request in JSON, between its bytes and those of its answer."""

    __slots__ = ("began", "queue", "request", "row_format", "target", "version")

    api = "Predict"

    version: Version | None
    queue: Queue | None  #: None while it is not decoded
    row_format: bool

    def __init__(self, target: Target, request: Exchange) -> None:
        self.began = began = time.monotonic()
        timeout = target.shared.timeout
        self.deadline = None if timeout is None else began + timeout
        self.inputs = ()
        self.rows = 0
        self.shape = None
        self.target = target
        self.request = request
        self.version = None
        self.queue = None

    def read(self, body: bytes) -> Any:
        """The request in a body, for `decode`. Raises ServingError."""
        return json_tensor.read(body)

    def decode(self, content: Any, servable: Batcher) -> Queue:
        """Set the inputs; returns the queue of the signature and outputs asked for. Raises ServingError."""
        name, request = content
        queue = inference.queue(servable, name, (), Code.INVALID_ARGUMENT)
        self.inputs, self.row_format = json_tensor.decode(request, queue.signature)
        return queue

    def encode(self, queue: Queue, outputs: list[Array]) -> Response | bytes:
        """The answer."""
        return (json_reply.encode_rows if self.row_format else json_reply.encode_columns)(outputs, queue.signature)

    @classmethod
    def finish(cls, tasks: Sequence[Any], outputs: Sequence[list[Array]]) -> None:
        """Answer; where writing it takes time, not in the event loop's thread."""
        target = tasks[0].target
        target.where_there_is_time(outputs, _answer, target.shared, tasks, outputs)

    @classmethod
    def encode_many(cls, tasks: Sequence[Any], outputs: Sequence[list[Array]]) -> Sequence[Response | bytes] | None:
        """`encode` for all of a run, where that costs less than one by one; else None."""
        if type(outputs) is not Shares or len(outputs.whole) != 1:
            return None
        for task in tasks:
            if not task.row_format:
                return None
        return json_reply.encode_many_rows(outputs.whole[0], [task.rows for task in tasks])

    def log(self, queue: Queue, outputs: list[Array]) -> None:
        """Offer it to the model's log."""
        assert self.version is not None
        model = self.target.model
        spec = (model, self.version.number, queue.signature.name)
        inputs = dict(zip(queue.signature.inputs, self.inputs, strict=True))
        found = dict(zip(queue.outputs, outputs, strict=True))
        self.target.shared.log(model, lambda rate: prediction_log.predict(spec, inputs, found, rate))

    def failed(self, error: ServingError) -> None:
        """Answer with an error."""
        shared = self.target.shared
        if self.queue is not None:
            error = inference.explained(error, self.queue.signature, self.inputs)
        version, self.version = self.version, None
        if version is not None:
            shared.core.manager.release(version)
        self.target.refuse(self.request, error)

    def is_cancelled(self) -> bool:
        """Whether the client has gone away."""
        return self.request.connection.is_abandoned


def _is_large(outputs: Sequence[list[Array]]) -> bool:
    if type(outputs) is Shares and all(array.size <= _LARGE_REPLY for array in outputs.whole):
        return False
    for own in outputs:
        for array in own:
            if array.size > _LARGE_REPLY:
                return True
    return False


def _answer(shared: Predictions, tasks: Sequence[_Prediction], outputs: Sequence[list[Array]]) -> None:
    """Write the answers of one run, count them, send them. A run's tasks have version, queue and metrics in common."""
    first = tasks[0]
    version, queue, target = first.version, first.queue, first.target
    assert version is not None and queue is not None
    is_logged = target.model in shared.core.logged
    answered: list[Exchange] = []
    replies: list[Response | bytes] = []
    starts: list[float] = []
    together = first.encode_many(tasks, outputs)
    for place, task in enumerate(tasks):
        try:
            reply = together[place] if together is not None else task.encode(queue, outputs[place])
        except ServingError as error:
            task.failed(error)
            continue
        except Exception:
            log.exception("A reply failed")
            task.failed(ServingError(Code.INTERNAL, "Internal error"))
            continue
        if is_logged:
            task.log(queue, outputs[place])
        answered.append(task.request)
        replies.append(reply)
        starts.append(task.began)
    if answered:
        shared.core.manager.release(version, len(answered))
        target.answer(answered, replies, starts)


class _BinaryPrediction(_Prediction):
    """A predict request as a PredictRequest, answered by a PredictResponse: for REST clients that want to do without
    JSON. The path says which model and version; its errors are JSON, as all are.
    """

    __slots__ = ()

    def read(self, body: bytes) -> Any:
        return predict_message.parse(body, Code.INVALID_ARGUMENT)

    def decode(self, content: Any, servable: Batcher) -> Queue:
        name = content.model_spec.signature_name
        queue = inference.queue(servable, name, content.output_filter, Code.INVALID_ARGUMENT)
        self.inputs = predict_message.inputs(content, queue.signature)
        return queue

    @classmethod
    def encode_many(cls, tasks: Sequence[Any], outputs: Sequence[list[Array]]) -> Sequence[Response | bytes] | None:
        return None

    def encode(self, queue: Queue, outputs: list[Array]) -> Response | bytes:
        assert self.version is not None
        spec = (self.target.model, self.version.number, queue.signature.name)
        return Response(200, predict_message.response(spec, queue.outputs, outputs, True), PROTOBUF)

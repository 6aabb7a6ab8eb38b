"""Predict calls that came in one burst and are alike (`codecs/predict_frame.py`): they wait, run and are answered as
one, so that each of them costs little more than its bytes. What is not so plain goes its own way (`grpc_predict.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from .. import inference
from ..codecs import predict_message
from ..codecs.predict_frame import Frame, Frames
from ..core.batch_queue import Queue
from ..core.manager import Version
from ..core.servable import Array
from ..core.tasks import Task, Turn, run_here
from ..errors import Code, ServingError
from .grpc_predict import Call
from .services import Services, spec_of

log = logging.getLogger(__name__)


def starter(services: Services, turn: Turn) -> Callable[[Call], None]:
    """What starts the Predict calls of a transport, in its thread."""
    if services.runs_here:
        return _Burst(services, turn).add
    return lambda call: services.start_predict(call, turn)


class _Burst:
    """The Predict calls that a transport has received and not started yet. For the transport's thread."""

    def __init__(self, services: Services, turn: Turn) -> None:
        self._services = services
        self._turn = turn
        self._frames = Frames()
        self._calls: list[Call] = []
        self._began = 0.0  # when the first of them came

    def add(self, call: Call) -> None:
        """One more; they are started in the next turn."""
        if not self._calls:
            self._began = time.monotonic()
            self._turn(self._start)
        self._calls.append(call)

    def _start(self) -> None:
        calls, self._calls = self._calls, []
        alike: dict[Frame, list[Call]] = {}
        for call in calls:
            frame = self._frame(call.payload)
            if frame is None:
                self._services.start_predict(call, self._turn)
            else:
                alike.setdefault(frame, []).append(call)
        for place, (frame, own) in enumerate(alike.items()):
            try:
                # The first run is now; for others there may be no time in this turn.
                rest = self._start_together(frame, own, now=place == 0)
            except Exception:
                log.exception("A burst of calls failed")
                rest = own
            for call in rest:
                self._services.start_predict(call, self._turn)

    def _frame(self, payload: bytes) -> Frame | None:
        try:
            return self._frames.find(payload) or self._frames.learn(payload)
        except Exception:  # whatever a client may send, the others go on
            log.exception("A call could not be compared with others")
            return None

    def _start_together(self, frame: Frame, calls: list[Call], now: bool) -> Sequence[Call]:
        """Let those calls run together that can be; returns the others."""
        services = self._services
        core = services.core
        try:
            version = core.acquire(*spec_of(frame.spec))
        except ServingError:
            return calls
        try:
            queue = inference.queue(
                version.loaded, frame.spec.signature_name, frame.output_filter, Code.FAILED_PRECONDITION
            )
            rows = frame.shape[0]
            if (
                not queue.merges_at_once
                or core.logging(version.model) is not None
                or list(queue.signature.inputs) != [frame.input]
                or queue.signature.inputs[frame.input].numpy != frame.dtype
                or rows > queue.largest_run
            ):
                return calls
            most = queue.largest_run // rows
            for start in range(0, len(calls), most):
                own = calls[start : start + most]
                joined = np.frombuffer(b"".join([frame.numbers(call.payload) for call in own]), frame.dtype)
                task = Together(services, version, queue, own, joined.reshape(-1, *frame.shape[1:]), rows, self._began)
                core.manager.hold(version)
                try:
                    queue.submit(task, self._turn, now=now and start == 0)
                except ServingError:  # too much waits; there may be room for some
                    core.manager.release(version)
                    return calls[start:]
            return ()
        except ServingError:
            return calls
        finally:
            core.manager.release(version)


class Together(Task):
    """Calls whose rows are below each other already."""

    __slots__ = ("_began", "_calls", "_queue", "_rows_each", "_services", "_version", "requests")

    api = "Predict"

    def __init__(
        self,
        services: Services,
        version: Version,
        queue: Queue,
        calls: Sequence[Call],
        rows: Array,
        rows_each: int,
        began: float,
    ) -> None:
        """The version is held for them; it is released when they are answered."""
        deadlines = [call.deadline for call in calls if call.deadline is not None]
        super().__init__([rows], max(deadlines) if len(deadlines) == len(calls) else None)
        self.requests = len(calls)
        self._services = services
        self._version = version
        self._queue = queue
        self._calls = calls
        self._rows_each = rows_each
        self._began = began

    def done(self, outputs: list[Array]) -> None:
        """Answer."""
        services, queue, version = self._services, self._queue, self._version
        spec = (version.model, version.number, queue.signature.name)
        as_content = services.as_tensor_content
        counts = [self._rows_each] * len(self._calls)
        calls = self._calls
        replies = predict_message.responses(spec, queue.outputs, outputs, counts, as_content)
        if replies is None:
            calls, replies = [], []
            for place, call in enumerate(self._calls):
                start = place * self._rows_each
                own = [array[start : start + self._rows_each] for array in outputs]
                try:
                    replies.append(predict_message.response(spec, queue.outputs, own, as_content))
                    calls.append(call)
                except Exception:
                    log.exception("A reply failed")
                    services.refuse(version.model, call, ServingError(Code.INTERNAL, "Internal error"))
        services.core.manager.release(version)
        services.answer(version.model, calls, replies, [self._began] * len(replies))

    def failed(self, error: ServingError) -> None:
        """An error is its call's: each is run alone."""
        self._services.core.manager.release(self._version)
        for call in self._calls:
            run_here(lambda turn, call=call: self._services.start_predict(call, turn))  # type: ignore[misc]

    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return all(call.is_cancelled() for call in self._calls)

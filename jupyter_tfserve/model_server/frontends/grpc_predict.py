"""gRPC's predict: calls, and the way of a request from its bytes to a run, and of the outputs to a reply. `services.py`
starts one, `grpc_burst.py` many at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import inference
from ..codecs import predict_message
from ..core.batch_queue import Queue
from ..core.manager import Version
from ..core.servable import Array
from ..core.tasks import Task
from ..errors import Code, ServingError

if TYPE_CHECKING:
    from .services import Services

log = logging.getLogger(__name__)


class Call:
    """A request and the way to answer it, from any thread and without waiting; a transport's subclass knows how."""

    __slots__ = ("deadline", "payload")

    def __init__(self, payload: bytes, deadline: float | None) -> None:
        self.payload = payload
        self.deadline = deadline  #: `time.monotonic()`, None for none

    def reply(self, payload: bytes) -> None:
        """Answer."""
        raise NotImplementedError

    def fail(self, error: ServingError) -> None:
        """Answer with a status."""
        raise NotImplementedError

    def is_cancelled(self) -> bool:
        """Whether the client waits no more."""
        return False


class WaitingCall(Call):
    """A call whose thread waits for the reply."""

    __slots__ = ("_error", "_finished", "_reply")

    def __init__(self, payload: bytes, deadline: float | None) -> None:
        super().__init__(payload, deadline)
        self._reply = b""
        self._error: ServingError | None = None
        self._finished = threading.Lock()
        self._finished.acquire()

    def reply(self, payload: bytes) -> None:
        """Its thread goes on."""
        self._reply = payload
        self._finished.release()

    def fail(self, error: ServingError) -> None:
        """Its thread goes on."""
        self._error = error
        self._finished.release()

    def wait(self) -> bytes:
        """The reply; raises ServingError."""
        self._finished.acquire()
        if self._error is not None:
            raise self._error
        return self._reply


class Prediction(Task):
    """A Predict request, between its bytes and those of its reply."""

    __slots__ = ("began", "call", "model", "queue", "request", "services", "version")

    api = "Predict"

    version: Version | None
    queue: Queue | None  #: None while it is not decoded

    def __init__(self, services: Services, call: Call) -> None:
        self.began = time.monotonic()
        self.deadline = call.deadline
        self.inputs = ()
        self.rows = 0
        self.shape = None
        self.services = services
        self.call = call
        self.request: Any = None
        self.model = ""  #: that is asked for, as soon as it is known
        self.version = None
        self.queue = None

    @classmethod
    def finish(cls, tasks: Sequence[Any], outputs: Sequence[list[Array]]) -> None:
        """Reply. A run's tasks have model, version and queue in common."""
        first = tasks[0]
        services, queue, version = first.services, first.queue, first.version
        spec = (version.model, version.number, queue.signature.name)
        config = services.core.logging(version.model)
        answered: list[Call] = []
        replies: list[bytes] = []
        starts: list[float] = []
        for place, task in enumerate(tasks):
            try:
                reply = predict_message.response(spec, queue.outputs, outputs[place], services.as_tensor_content)
            except Exception:
                log.exception("A reply failed")
                task.failed(ServingError(Code.INTERNAL, "Internal error"))
                continue
            if config is not None:
                services.log_prediction(task.request, reply, config)
            answered.append(task.call)
            replies.append(reply)
            starts.append(task.began)
        if not replies:
            return
        services.core.manager.release(version, len(replies))
        services.answer(version.model, answered, replies, starts)

    def failed(self, error: ServingError) -> None:
        """Answer with an error."""
        if self.queue is not None:
            error = inference.explained(error, self.queue.signature, self.inputs)
        version, self.version = self.version, None
        if version is not None:
            self.services.core.manager.release(version)
        self.services.refuse(self.model, self.call, error)

    def is_cancelled(self) -> bool:
        """Whether the client waits no more."""
        return self.call.is_cancelled()

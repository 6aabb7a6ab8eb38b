"""Holds a caller with a grant to it: which model does a request ask for, may it, has it come too often. Stands before
`rest.py`, `grpc.py` and `grpc_web.py`, which know nothing of grants; the owner's requests do not pass through here.

What is not recognised is refused: configuration, metrics, the list of models, reflection, other services.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from urllib.parse import unquote_to_bytes

from tensorflow_serving.apis import model_pb2

from ...grants import Grant
from ...wire import BYTES, WireError, fields
from ..asking import Asked
from ..auth import Bearers
from ..errors import Code, ServingError
from .http import Exchange, Handler, Response
from .rest import HEALTH_PATHS
from .services import MODEL_SERVICE, PREDICTION_SERVICE

_MODELS = re.compile(
    r"/v1/models/(?P<model>[^/:?]+)(?:/versions/(?P<version>\d{1,19})|/labels/(?P<label>[^/:?]+))?"
    r"(?P<verb>:classify|:regress|:predict|/metadata)?"
)

_LIST = re.compile(r"/v1/models/?")

#: Methods whose request has its ModelSpec in field 1.
_ASK_ONE_MODEL = {
    f"/{PREDICTION_SERVICE}/{name}" for name in ("Predict", "Classify", "Regress", "GetModelMetadata")
} | {f"/{MODEL_SERVICE}/GetModelStatus"}

#: Its tasks are field 1; each task's ModelSpec is the task's field 1.
_MULTI_INFERENCE = f"/{PREDICTION_SERVICE}/MultiInference"

_STATUS = f"/{MODEL_SERVICE}/GetModelStatus"


def _forbidden(message: str) -> ServingError:
    return ServingError(Code.PERMISSION_DENIED, message)


class Admission:
    """One for a model server; `Bearers` counts what is in flight."""

    def __init__(self, bearers: Bearers) -> None:
        self._bearers = bearers

    def rest(self, grant: Grant, request: Exchange, answer: Handler) -> None:
        """Answer a REST request, or refuse it."""
        try:
            admitted = self.admit(grant, request)
        except ServingError as error:
            request.respond(refusal(error))
            return
        answer(admitted)

    def admit(self, grant: Grant, request: Exchange) -> Exchange:
        """A REST request that counts until it is answered. Raises ServingError, and then it does not."""
        _check_target(grant, request)
        self._bearers.enter(grant)
        return _Admitted(request, functools.partial(self._bearers.leave, grant))

    def enter(self, grant: Grant, method: str, payload: bytes) -> None:
        """A call of ``/service/method`` begins; `leave` ends it. Raises ServingError, and then it has not begun."""
        _check_payload(grant, method, payload)
        self._bearers.enter(grant)

    def leave(self, grant: Grant) -> None:
        """A call has ended, however it did."""
        self._bearers.leave(grant)

    @contextlib.contextmanager
    def rpc(self, grant: Grant, method: str, payload: bytes) -> Iterator[None]:
        """The same, around a call that runs within."""
        self.enter(grant, method, payload)
        try:
            yield
        finally:
            self.leave(grant)


class RestPort:
    """REST for everyone who can reach the port, and shows a bearer; health alone is open."""

    def __init__(self, bearers: Bearers, admission: Admission, answer: Handler) -> None:
        self._bearers = bearers
        self._admission = admission
        self._answer = answer

    def __call__(self, request: Exchange) -> None:
        """Answer a request."""
        if request.target in HEALTH_PATHS:
            self._answer(request)
            return
        try:
            grant = self._bearers.caller(request.headers.get("authorization", ""))
        except Asked as asked:
            asked.told.add_done_callback(functools.partial(self._told, request))
        except ServingError as error:
            self._refuse(request, error)
        else:
            self._let_in(request, grant)

    def _told(self, request: Exchange, told: Future[Grant]) -> None:
        """In the event loop."""
        try:
            grant = told.result()
        except ServingError as error:
            self._refuse(request, error)
        else:
            self._let_in(request, grant)

    def _let_in(self, request: Exchange, grant: Grant | None) -> None:
        if grant is not None:
            try:
                request = self._admission.admit(grant, request)
            except ServingError as error:
                self._refuse(request, error, grant)
                return
        self._answer(request)

    def _refuse(self, request: Exchange, error: ServingError, grant: Grant | None = None) -> None:
        match = _MODELS.match(request.target)
        self._bearers.refusals.note(error, "rest", _unquote(match["model"]) if match else "", grant)
        request.respond(refusal(error))


class _Admitted(Exchange):
    """A request that counts until it is answered, or until nobody is left who could: its client may have gone."""

    __slots__ = ("_end", "_request")

    def __init__(self, request: Exchange, end: Callable[[], None]) -> None:
        super().__init__(request.head, request.body, request.connection)
        self._request = request
        self._end: Callable[[], None] | None = end

    def respond(self, reply: Response | bytes) -> None:
        self._leave()
        self._request.respond(reply)

    def _leave(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            end()

    def __del__(self) -> None:
        self._leave()


def refusal(error: ServingError) -> Response:
    """A refusal as REST tells it, in TF Serving's form."""
    headers: tuple[tuple[str, str], ...] = ()
    if error.code is Code.UNAUTHENTICATED:
        headers = (("WWW-Authenticate", "Bearer"),)
    elif error.code in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE):
        headers = (("Retry-After", "1"),)
    return Response(error.code.http, json.dumps({"error": error.text}).encode(), headers=headers)


def model_of(method: str, payload: bytes) -> str:
    """The model that a call asks for, as far as it can be read; "" for none."""
    try:
        found = _field_1(payload) if method in _ASK_ONE_MODEL else []
        return str(model_pb2.ModelSpec.FromString(b"".join(found)).name)
    except Exception:  # protobuf's DecodeError, which differs between its implementations
        return ""


def _check_target(grant: Grant, request: Exchange) -> None:
    match = _MODELS.fullmatch(request.target)
    if match is None:
        if grant.models is None and request.method == "GET" and _LIST.fullmatch(request.target):
            return
        raise _forbidden("This bearer is for predictions: /v1/models/NAME:predict and its like.")
    label = _unquote(match["label"] or "")
    if request.method == "GET" and match["verb"] is None and grant.labels and label:
        label = ""  # the status of a label is the status of all versions
    why = grant.refusal(_unquote(match["model"]), int(match["version"]) if match["version"] else None, label)
    if why:
        raise _forbidden(why)


def _check_payload(grant: Grant, method: str, payload: bytes) -> None:
    if method in _ASK_ONE_MODEL:
        specs = [b"".join(_field_1(payload))]
    elif method == _MULTI_INFERENCE:
        specs = [b"".join(_field_1(task)) for task in _field_1(payload)] or [b""]
    else:
        raise _forbidden("This bearer is for predictions: PredictionService, and ModelService/GetModelStatus.")
    for one in specs:
        try:
            # What comes several times is merged, and merging is what parsing the parts in a row does.
            spec = model_pb2.ModelSpec.FromString(one)
        except Exception:  # protobuf's DecodeError, which differs between its implementations
            raise _unreadable() from None
        choice = spec.WhichOneof("version_choice")
        version = spec.version.value if choice == "version" else None
        label = spec.version_label if choice == "version_label" and method != _STATUS else ""
        why = grant.refusal(spec.name, version, label)
        if why:
            raise _forbidden(why)


def _field_1(message: bytes) -> list[bytes]:
    """The values of field 1; everything else is stepped over, however large."""
    found = []
    try:
        for number, kind, value in fields(message):
            if number == 1:
                if kind != BYTES:
                    raise _unreadable()
                found.append(bytes(value))
    except WireError:
        raise _unreadable() from None
    return found


def _unreadable() -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, "The request is no message of this method.")


def _unquote(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode("utf-8", "surrogateescape")

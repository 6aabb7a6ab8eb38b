"""PredictRequests that differ in nothing but the numbers of their only tensor, which is what a client sends again and
again. What is around the numbers is parsed once; where it comes again byte for byte, the numbers are taken from their
place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tensorflow_serving.apis import predict_pb2

from ..core.servable import Array
from ..errors import ServingError
from . import predict_message, proto_tensor

#: Requests up to so many bytes are looked at.
_MAX_SIZE = 256 * 1024

#: Frames that are tried to be made of requests of one length, and lengths for which that is remembered.
_TRIES = 4
_LENGTHS = 1024

#: Places at which the numbers may seem to be.
_PLACES = 4

_INVERTED = bytes(255 - byte for byte in range(256))


@dataclass(frozen=True, eq=False)
class Frame:
    """What is around the numbers, and what it says."""

    before: bytes
    after: bytes
    size: int  #: of the numbers, in bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    input: str
    spec: Any  #: the `ModelSpec`
    output_filter: tuple[str, ...]

    def holds(self, payload: bytes) -> bool:
        """Whether a request of the right length is one of these."""
        return payload.startswith(self.before) and payload.endswith(self.after)

    def numbers(self, payload: bytes) -> bytes:
        """Those of a request, as they stand in an array's memory."""
        at = len(self.before)
        return payload[at : at + self.size]


@dataclass
class Frames:
    """Those that are known. For one thread."""

    _known: dict[int, list[Frame]] = field(default_factory=dict)
    _tried: dict[int, int] = field(default_factory=dict)

    def find(self, payload: bytes) -> Frame | None:
        """The frame of a request, None if there is none."""
        for frame in self._known.get(len(payload), ()):
            if frame.holds(payload):
                return frame
        return None

    def learn(self, payload: bytes) -> Frame | None:
        """Make a frame of a request that has none, if it can have one."""
        size = len(payload)
        tried = self._tried.get(size, 0)
        if tried >= _TRIES or size > _MAX_SIZE:
            return None
        if len(self._tried) >= _LENGTHS:
            self._tried.clear()
            self._known.clear()
        self._tried[size] = tried + 1
        frame = frame_of(payload)
        if frame is not None:
            self._known.setdefault(size, []).append(frame)
        return frame


def frame_of(payload: bytes) -> Frame | None:
    """The frame of a request with one tensor of numbers, all of them sent in one piece; else None."""
    try:
        request = predict_message.parse(payload)
    except ServingError:
        return None
    if len(request.inputs) != 1:
        return None
    [(name, tensor)] = request.inputs.items()
    array = _array(tensor, name)
    if array is None or not array.ndim or not array.size:
        return None
    numbers = array.tobytes()
    # It is so if other numbers at that place make a request that differs in the numbers, and in nothing else.
    others = numbers.translate(_INVERTED)
    if not tensor.tensor_content:
        others = np.arange(0.5, array.size, dtype=array.dtype).tobytes()
    for at in _places(payload, numbers):
        before, after = payload[:at], payload[at + len(numbers) :]
        if _differ_in_numbers(request, before + others + after, name, others):
            filtered = tuple(request.output_filter)
            return Frame(before, after, len(numbers), array.dtype, array.shape, name, request.model_spec, filtered)
    return None


def _array(tensor: Any, name: str) -> Array | None:
    """A tensor whose values may be on the wire what they are in memory; else None."""
    try:
        array = proto_tensor.decode(tensor, name)
    except ServingError:
        return None
    is_plain = not array.dtype.hasobject if tensor.tensor_content else array.dtype in (np.float32, np.float64)
    return array if is_plain else None


def _places(payload: bytes, numbers: bytes) -> Iterator[int]:
    at = -1
    for _ in range(_PLACES):
        at = payload.find(numbers, at + 1)
        if at < 0:
            return
        yield at


def _differ_in_numbers(request: Any, payload: bytes, name: str, numbers: bytes) -> bool:
    try:
        other = predict_message.parse(payload)
    except ServingError:
        return False
    if list(other.inputs) != [name]:
        return False
    tensor = other.inputs[name]
    array = _array(tensor, name)
    if array is None or array.tobytes() != numbers:
        return False
    rest = predict_pb2.PredictRequest()
    rest.CopyFrom(request)
    for one in (tensor, rest.inputs[name]):
        for fields in ("tensor_content", "float_val", "double_val"):
            one.ClearField(fields)
    return bool(rest == other)

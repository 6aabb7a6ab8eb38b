"""Protobuf's wire format, as far as stepping through the fields of a message: for who must look into one without its
classes. `extension/hostile.py` reads graphs with it where no TensorFlow is, the model server reads who is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

#: Wire types.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are no message."""


def fields(message: memoryview | bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Number, wire type and, of a BYTES field, the value; b"" of others. Large values are not copied.

    Raises WireError, also for groups, which no message of ours has.
    """
    view = memoryview(message)
    at, end = 0, len(view)
    while at < end:
        tag, at = varint(view, at)
        number, kind = tag >> 3, tag & 7
        value = view[:0]
        if kind == VARINT:
            _, at = varint(view, at)
        elif kind == FIXED64:
            at += 8
        elif kind == BYTES:
            size, at = varint(view, at)
            value = view[at : at + size]
            at += size
        elif kind == FIXED32:
            at += 4
        else:
            raise WireError("a group, or no wire type")
        if at > end or not 0 < number < 1 << 29:
            raise WireError("a field that is none")
        yield number, kind, value


def varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends. Raises WireError."""
    value = shift = 0
    while at < len(view) and shift < 64:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise WireError("a number without an end")

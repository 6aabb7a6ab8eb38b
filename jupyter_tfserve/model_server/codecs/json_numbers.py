"""Lists of numbers straight from JSON into an array, without a Python object for each of them: what nearly all predict
requests are. simdjson reads; it flattens nested lists without a look at their shape, so that the shape is checked here.
Whatever is not so plain is left to `json_tensor`, which agrees with this to the bit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import simdjson

from ..core.servable import MAX_DIMENSIONS, Array, Signature, TensorInfo

#: Bodies up to so many bytes are read by a parser that the thread keeps, with the memory that it needed.
_KEPT_PARSER = 4 * 1024 * 1024

_LOCAL = threading.local()

#: How nearly all bodies begin, and where the last quote is of those that have nothing else.
_USUAL = b'{"instances"'
_USUAL_QUOTE = len(_USUAL) - 1
_USUAL_START = _USUAL + b":"
_LIST_AT = len(_USUAL_START)

#: What JSON takes for space.
_SPACE = b" \t\r\n"

#: Bodies up to so many bytes are read together with others; larger ones are best read one by one.
_SMALL = 512

_List = simdjson.Array


def read(body: bytes) -> Numbers | None:
    """A body with nothing but a list and a signature's name, None if it has anything else or is no JSON."""
    document: Any
    try:
        if len(body) > _KEPT_PARSER:
            document = simdjson.Parser().parse(body)
        else:
            document = _parser().parse(body)
        name: Any = ""
        if body.rfind(b'"') == _USUAL_QUOTE and body.startswith(_USUAL):
            key = "instances"  # asking for the keys takes longer than all else with a small body
        else:
            keys = list(document.keys())
            if len(keys) == 2 and "signature_name" in keys:
                keys.remove("signature_name")
                name = document["signature_name"]
            if len(keys) != 1:
                return None
            [key] = keys
        value = document[key]
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
        # No object; or NaN, text after the object, an error, ...: the slow path knows.
        return None
    if type(value) is not _List or key not in ("instances", "inputs") or type(name) is not str:
        return None
    return Numbers(body, value, key == "instances", name)


_DOUBLE, _INT64, _UINT64 = np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.uint64)

#: How simdjson is to read the numbers of a type (double, int64, uint64), and the range that they must be in.
_NUMBERS: dict[str, tuple[str, np.dtype[Any], tuple[int, int] | None]] = {
    "float": ("d", _DOUBLE, None),
    "double": ("d", _DOUBLE, None),
    "int8": ("i", _INT64, (-(2**31), 2**31 - 1)),
    "int16": ("i", _INT64, (-(2**31), 2**31 - 1)),
    "int32": ("i", _INT64, (-(2**31), 2**31 - 1)),
    "uint8": ("i", _INT64, (-(2**31), 2**31 - 1)),
    "int64": ("i", _INT64, None),
    "uint32": ("i", _INT64, (0, 2**32 - 1)),
    "uint64": ("u", _UINT64, None),
}

#: What is not the structure of nested lists.
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))


def quiet_numpy() -> None:
    """To be called in each thread that decodes: numpy shall not warn of what is past a float. Asking for that around
    each conversion (`np.errstate`) takes longer than all else that a small list needs.
    """
    np.seterr(over="ignore", under="ignore")


class Numbers:
    """A body that holds one list, probably of numbers. It must become an array before the thread reads another body."""

    __slots__ = ("_value", "body", "row_format", "signature_name")

    def __init__(self, body: bytes, value: Any, row_format: bool, signature_name: str) -> None:
        self.body = body
        self.row_format = row_format
        self.signature_name = signature_name
        self._value = value  # a simdjson.Array: the thread's parser takes no other body while it is there

    def array(self, signature: Signature) -> Array | None:
        """The list as an array of what the signature's only input takes; None if it cannot be: `json_tensor` says why.
        To be called once.
        """
        value, self._value = self._value, None
        if not is_taken_by(signature):
            return None
        [info] = signature.inputs.values()
        flat = _flat(value, info)
        if flat is None:
            return None
        shape = _shape(value, flat.size, self.body)
        if shape is None:
            return None
        return flat if len(shape) == 1 else flat.reshape(shape)


def is_taken_by(signature: Signature) -> bool:
    """Whether a list of numbers may be all that a signature takes."""
    if len(signature.inputs) != 1:
        return False
    [info] = signature.inputs.values()
    return info.dtype in _NUMBERS


def read_together(bodies: Sequence[bytes], signature: Signature) -> tuple[Array, list[int]] | None:
    """Small bodies that have ``instances`` and nothing else, each a flat list of numbers or one row of them: the rows
    of all below each other, and how many each has. None if they are not all like that, or not alike.
    """
    depth = bodies[0].count(b"[") if len(bodies[0]) <= _SMALL else 0
    if not 1 <= depth <= 2:
        return None
    begin, end = b"[[]]"[:depth], b"[[]]"[-depth:]
    lists = []
    counts = []
    for body in bodies:
        if len(body) > _SMALL or body[:_LIST_AT] != _USUAL_START or body[-1:] != b"}":
            return None
        if body.rfind(b'"') != _USUAL_QUOTE:
            return None
        text = body[_LIST_AT:-1].strip(_SPACE)
        # So many brackets, and these on the outside, are one list in the other with nothing beside it: none can pass
        # for a part of its neighbours.
        if text.count(b"[") != depth or text.count(b"]") != depth or text[:depth] != begin or text[-depth:] != end:
            return None
        lists.append(text)
        counts.append(text.count(b",") + 1)
    try:
        value = _parser().parse(b"[" + b",".join(lists) + b"]")
    except (ValueError, RuntimeError):
        return None
    [info] = signature.inputs.values()
    flat = _flat(value, info)
    if flat is None or len(flat) != sum(counts):  # an empty list has no comma either
        return None
    if depth == 1:
        return flat, counts
    length = counts[0]
    return (flat.reshape(-1, length), [1] * len(lists)) if counts.count(length) == len(counts) else None


def _parser() -> simdjson.Parser:
    """The one that this thread keeps."""
    parser: simdjson.Parser | None = getattr(_LOCAL, "parser", None)
    if parser is None:
        parser = _LOCAL.parser = simdjson.Parser()
    return parser


def _flat(value: Any, info: TensorInfo) -> Array | None:
    """The numbers of a nested list, of the type that is asked for; None if there is something else among them."""
    code, dtype, limits = _NUMBERS[info.dtype]
    try:
        flat = np.frombuffer(value.as_buffer(of_type=code), dtype)
    except (TypeError, ValueError):
        return None
    if limits and flat.size and not (limits[0] <= flat.min() and flat.max() <= limits[1]):
        return None
    # What a float cannot hold is infinity, as in TF Serving; `quiet_numpy` keeps numpy from warning of it.
    return flat if info.numpy is dtype else flat.astype(info.numpy)


def _shape(value: Any, size: int, body: bytes) -> tuple[int, ...] | None:
    """The shape of a nested list of so many numbers; None where it is ragged or cannot be told at once."""
    length = len(value)
    shape: tuple[int, ...] = (length,)
    product = 1
    while length and type(inner := value[0]) is _List:
        product *= length
        value = inner
        length = len(value)
        shape += (length,)
        if len(shape) > MAX_DIMENSIONS:
            return None
    if product * length != size or not size:
        return None
    if product == 1:  # lists of one list: nothing is ragged if there is no other list
        at = -1
        for _ in shape:
            at = body.find(b"[", at + 1)
        return shape if body.find(b"[", at + 1) < 0 else None
    structure = body.translate(None, _NOT_STRUCTURE)
    start = structure.find(b"[")
    return shape if structure[start : structure.rfind(b"]") + 1] == _structure(shape) else None


def _structure(shape: tuple[int, ...]) -> bytes:
    """The brackets and commas of a nested list of that shape."""
    text = b"[" + b"," * (shape[-1] - 1) + b"]"
    for length in reversed(shape[:-1]):
        text = b"[" + (text + b",") * (length - 1) + text + b"]"
    return text

"""Requests in TF Serving's JSON (`util/json_tensor.cc`) to tensors: row format (`instances`), column format (`inputs`).
`json_reply.py` has the way back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import simdjson

from ..core.servable import MAX_DIMENSIONS, Array, Signature, TensorInfo
from ..errors import Code, ServingError, invalid
from ..inference import takes
from . import json_numbers, json_text
from .json_numbers import Numbers
from .json_values import from_b64, is_b64, kind

#: How much of a value an error quotes.
_QUOTED = 256

#: Keys of an object up to which looking each of them up costs less than reading the body with our own parser.
_LOOKED_UP = 64

Json = Any


def parse(body: bytes, last_inside: bool = False) -> dict[str, Json]:
    """A request's body as Python values; of equal keys the first counts, inside values the last if `last_inside` (TF
    Serving reads examples so). Raises ServingError if it is no JSON object.
    """
    document: Any
    try:
        document = simdjson.Parser().parse(body)
    except (ValueError, RuntimeError):
        # NaN, integers past 64 bits, deep nesting, text after the object, a byte order mark, or an error: whose text
        # the other parser finds.
        document = json_text.loads(body, last_inside)
    if isinstance(document, simdjson.Object):
        nested = body.count(b"{") > 1
        try:
            return _first(document, nested, last_inside)
        except (_NotByKey, RecursionError):  # simdjson takes 1024 levels, Python's stack fewer; the other all there are
            document = json_text.loads(body, last_inside)
    if isinstance(document, dict):
        return document
    if isinstance(document, simdjson.Array):
        document = json_text.loads(body)  # to be quoted, whatever is in it
    raise invalid("JSON Value: " + _quote(document) + " Is not object")


def _plain(value: Any, nested: bool, last: bool = False) -> Json:
    """A simdjson value as Python's; `nested`: there may be objects in it, of whose equal keys the first or last
    counts.
    """
    if isinstance(value, simdjson.Array):
        return [_plain(item, True, last) for item in value] if nested and not last else value.as_list()
    if isinstance(value, simdjson.Object):
        return value.as_dict() if last else _first(value, True, False)
    return value


class _NotByKey(Exception):
    """An object in which simdjson would look for each key too long, or for the wrong one: to it a key ends at NUL."""


def _first(found: Any, nested: bool, last_inside: bool) -> dict[str, Json]:
    """A simdjson object of whose equal keys the first counts: that is the one it looks up, one key after the other.
    Everything else it offers lets the last one count, in the objects inside as well.
    """
    keys = dict.fromkeys(found.keys())
    if len(keys) > _LOOKED_UP or "\0" in "".join(keys):
        raise _NotByKey
    return {key: _plain(found[key], nested, last_inside) for key in keys}


def _quote(value: Json) -> str:
    """A value in an error's text, cut short. It may be nested deeply, so that only its beginning is written."""
    if isinstance(value, (list, dict)):
        text = (
            json.dumps(value, separators=(",", ":"))
            if len(value) < 8 and not any(isinstance(item, (list, dict)) for item in value)
            else ""
        )
        return text[:_QUOTED] or ("[..." if isinstance(value, list) else "{...")
    return json.dumps(value)[:_QUOTED]


# Requests.


def read(body: bytes) -> tuple[str, Numbers | dict[str, Json]]:
    """The signature's name of a predict request, and the rest of it, for `decode`. Raises ServingError."""
    numbers = json_numbers.read(body)
    if numbers is not None:
        return numbers.signature_name, numbers
    parsed = parse(body)
    return signature_name(parsed), parsed


def signature_name(request: Mapping[str, Json]) -> str:
    """The signature's name of a request, "" for the default one. Raises ServingError."""
    name = request.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("'signature_name' key must be a string value.")
    return name


def decode(request: Numbers | Mapping[str, Json], signature: Signature) -> tuple[list[Array], bool]:
    """The inputs of a predict request, in the signature's order, and whether it is in row format. Raises
    ServingError.
    """
    if isinstance(request, Numbers):
        array = request.array(signature)
        if array is not None:
            return [array], request.row_format
        request = parse(request.body)
    if not signature.inputs:
        raise invalid(f"Signature {signature.name!r} has no inputs: REST needs at least one.")
    if "instances" in request:
        if "inputs" in request:
            raise invalid(
                "Not formatted correctly expecting only one of instances or inputs keys to exist; found both."
            )
        return _rows(request["instances"], signature), True
    if "inputs" in request:
        return _columns(request["inputs"], signature), False
    raise invalid("Missing 'inputs' or 'instances' key")


def _rows(instances: Json, signature: Signature) -> list[Array]:
    if not isinstance(instances, list):
        raise invalid("Expecting 'instances' value to be a list/array")
    if not instances:
        raise invalid("'instances' value is an empty array")
    if _is_object(instances[0]):
        for place, row in enumerate(instances):
            if not _is_object(row):
                raise invalid(f"Expecting object but got list at item {place} of input list")
            if row.keys() != signature.inputs.keys():
                raise _wrong_names(row, place, signature)
        return [
            _stack([row[name] for row in instances], name, info, f"key: {name} ")
            for name, info in signature.inputs.items()
        ]
    if len(signature.inputs) > 1:
        raise invalid(
            f"instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            f"tensorinfo_map: {', '.join(signature.inputs)}"
        )
    for place, row in enumerate(instances):
        if _is_object(row):
            raise invalid(f"Expecting value/list but got object at item {place} of input list")
    [(name, info)] = signature.inputs.items()
    return [_stack(instances, name, info, "")]


def _wrong_names(row: Mapping[str, Json], place: int, signature: Signature) -> ServingError:
    missing = sorted(signature.inputs.keys() - row.keys())
    extra = sorted(row.keys() - signature.inputs.keys())
    return invalid(
        f"Failed to process element: {place} of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have "
        f"the named inputs {', '.join(signature.inputs)}: missing {missing}, unknown {extra}"
    )


def _columns(inputs: Json, signature: Signature) -> list[Array]:
    if not _is_object(inputs):
        if len(signature.inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                f"tensorinfo_map: {', '.join(signature.inputs)}"
            )
        inputs = {next(iter(signature.inputs)): inputs}
    arrays = []
    for name, info in signature.inputs.items():
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        value = inputs[name]
        convert = _CONVERT.get(info.dtype)
        if convert is None:
            raise ServingError(
                Code.UNIMPLEMENTED, f"Conversion of JSON Value: {_quote(value)} to type: {info.dtype} is not supported"
            )
        try:
            arrays.append(_array(value, convert))
        except _Misfit as misfit:
            raise invalid(misfit.text(info), _remedy(name, info, misfit)) from None
    return arrays


def _stack(rows: list[Json], name: str, info: TensorInfo, where: str) -> Array:
    """Rows of one input as an array whose first dimension counts them."""
    convert = _CONVERT.get(info.dtype)
    if convert is None:
        raise invalid(
            f"Failed to process element: 0 {where}of 'instances' list. Error: UNIMPLEMENTED: Conversion of JSON Value: "
            f"{_quote(rows[0])} to type: {info.dtype} is not supported"
        )
    try:
        return _array(rows, convert)
    except _Misfit as misfit:
        place, error = _first_bad_row(rows, convert, misfit)
        raise invalid(
            f"Failed to process element: {place} {where}of 'instances' list. "
            f"Error: INVALID_ARGUMENT: {error.text(info)}",
            _remedy(name, info, error),
        ) from None


def _first_bad_row(rows: list[Json], convert: _Converter, misfit: _Misfit) -> tuple[int, _Misfit]:
    """Which row is at fault: slow, and only asked when one is."""
    first: Array | None = None
    for place, row in enumerate(rows):
        try:
            array = _array(row, convert)
        except _Misfit as error:
            return place, error
        if first is None:
            first = array
        elif array.size != first.size:
            return place, _Misfit(f"Expecting tensor size: {first.size} but got: {array.size}")
        elif array.shape != first.shape:
            return place, _Misfit(f"Expecting shape {_shape(first)} but got: {_shape(array)}")
    return 0, misfit


def _shape(array: Array) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


class _Misfit(Exception):
    """A value that does not become a tensor of the type asked for."""

    def __init__(self, message: str, value: Json = None, of_type: bool = False, of_base64: bool = False) -> None:
        super().__init__(message)
        self._message = message
        self._value = value
        self.of_type = of_type
        self.of_base64 = of_base64

    def text(self, info: TensorInfo) -> str:
        """TF Serving's text."""
        if not self.of_type:
            return self._message
        value = self._value
        return f"JSON Value: {_quote(value)} Type: {kind(value)} is not of expected type: {info.dtype}"


def _remedy(name: str, info: TensorInfo, misfit: _Misfit) -> str:
    remedy = takes(name, info)
    if misfit.of_base64 or (misfit.of_type and info.dtype == "string"):
        remedy += ' Bytes are written as {"b64": "..."}.'
    return remedy


def _is_object(value: Json) -> bool:
    """An object that is not the way to write bytes."""
    return isinstance(value, dict) and not (len(value) == 1 and "b64" in value)


_Converter = Callable[[list[Json]], Array]


def _array(value: Json, convert: _Converter) -> Array:
    """A nested list, or a scalar, as an array. The shape is that of the first elements going down; all must have it."""
    shape: list[int] = []
    level: list[Json] = [value]
    while level and type(level[0]) is list:
        size = len(level[0])
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            raise _ragged(level, size)
        shape.append(size)
        if len(shape) > MAX_DIMENSIONS:
            raise _Misfit(f"Encountered more than {MAX_DIMENSIONS} dimensions")
        level = level[0] if len(level) == 1 else list(chain.from_iterable(level))
    if list in set(map(type, level)):
        raise _Misfit("", next(item for item in level if type(item) is list), of_type=True)
    return convert(level).reshape(shape)


def _ragged(level: list[Json], size: int) -> _Misfit:
    for item in level:
        if type(item) is not list:
            return _Misfit(f"Encountered value: {_quote(item)} where a list of size {size} is expected")
        if len(item) != size:
            break
    return _Misfit(f"Encountered list at unexpected size: {len(item)}; expecting size: {size}")


def _only(flat: list[Json], *types: type) -> None:
    """Raise for the first value of another type."""
    if not set(map(type, flat)) <= set(types):
        raise _Misfit("", next(value for value in flat if type(value) not in types), of_type=True)


def _floats(dtype: type[np.floating[Any]]) -> _Converter:
    def convert(flat: list[Json]) -> Array:
        _only(flat, int, float)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return np.array(flat, np.float64).astype(dtype, copy=False)

    return convert


def _integers(dtype: type[np.integer[Any]], checked: type[np.integer[Any]]) -> _Converter:
    """Integers in the range of `checked`, of which `dtype` keeps the low bits."""
    low, high = int(np.iinfo(checked).min), int(np.iinfo(checked).max)

    def convert(flat: list[Json]) -> Array:
        _only(flat, int)
        if flat and (min(flat) < low or max(flat) > high):
            raise _Misfit("", next(value for value in flat if not low <= value <= high), of_type=True)
        return np.array(flat, checked).astype(dtype, copy=False)

    return convert


def _booleans(flat: list[Json]) -> Array:
    _only(flat, bool)
    return np.array(flat, np.bool_)


def _strings(flat: list[Json]) -> Array:
    array = np.empty(len(flat), object)
    array[:] = [value.encode("utf-8", "surrogateescape") if type(value) is str else _bytes(value) for value in flat]
    return array


def _bytes(value: Json) -> bytes:
    """The bytes of ``{"b64": "..."}``; padding may be left out."""
    if is_b64(value):
        try:
            return from_b64(value)
        except ValueError:
            raise _Misfit(f"Unable to base64 decode: {value['b64'][:_QUOTED]}", of_base64=True) from None
    raise _Misfit("", value, of_type=True)


_CONVERT: dict[str, _Converter] = {
    "float": _floats(np.float32),
    "double": _floats(np.float64),
    "int8": _integers(np.int8, np.int32),
    "int16": _integers(np.int16, np.int32),
    "int32": _integers(np.int32, np.int32),
    "uint8": _integers(np.uint8, np.int32),
    "int64": _integers(np.int64, np.int64),
    "uint32": _integers(np.uint32, np.uint32),
    "uint64": _integers(np.uint64, np.uint64),
    "bool": _booleans,
    "string": _strings,
}

#: The types that JSON has values for.
DTYPES = frozenset(_CONVERT)

"""Tensors to and from TensorProto, as TF Serving reads and writes them (`core/framework/tensor.cc`), without
TensorFlow's slow Python helpers: a packed field of floats is copied as it stands on the wire.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2

from ..core.servable import MAX_DIMENSIONS, Array
from ..errors import invalid

_MAX_ELEMENTS = 2**63 - 1

#: A shape larger than its values is filled up with copies of the last one; not past this, which is also gRPC's
#: largest message.
_MAX_FILLED_BYTES = 2**31

_DTYPES: dict[int, np.dtype[Any]] = {
    types_pb2.DT_FLOAT: np.dtype(np.float32),
    types_pb2.DT_DOUBLE: np.dtype(np.float64),
    types_pb2.DT_INT8: np.dtype(np.int8),
    types_pb2.DT_INT16: np.dtype(np.int16),
    types_pb2.DT_INT32: np.dtype(np.int32),
    types_pb2.DT_INT64: np.dtype(np.int64),
    types_pb2.DT_UINT8: np.dtype(np.uint8),
    types_pb2.DT_UINT16: np.dtype(np.uint16),
    types_pb2.DT_UINT32: np.dtype(np.uint32),
    types_pb2.DT_UINT64: np.dtype(np.uint64),
    types_pb2.DT_BOOL: np.dtype(np.bool_),
    types_pb2.DT_STRING: np.dtype(object),
    types_pb2.DT_HALF: np.dtype(np.float16),
    types_pb2.DT_BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    types_pb2.DT_COMPLEX64: np.dtype(np.complex64),
    types_pb2.DT_COMPLEX128: np.dtype(np.complex128),
}
_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}


def _as_bits(values: Iterable[int], dtype: np.dtype[Any]) -> Array:
    """Half and bfloat16 travel as the bits of a 16-bit integer."""
    return np.array(values, np.int64).astype(np.uint16).view(dtype)


def _narrow(values: Iterable[int], dtype: np.dtype[Any]) -> Array:
    return np.array(values, np.int32).astype(dtype)


def _plain(values: Iterable[Any], dtype: np.dtype[Any]) -> Array:
    return np.array(values, dtype)


def _complex(values: Iterable[float], dtype: np.dtype[Any]) -> Array:
    """Pairs of real and imaginary part; a last one without its partner does not count."""
    parts = np.array(values, np.float32 if dtype == np.complex64 else np.float64)
    return parts[: parts.size // 2 * 2].view(dtype)


def _objects(values: Iterable[bytes], dtype: np.dtype[Any]) -> Array:
    listed = list(values)
    array = np.empty(len(listed), dtype)
    array[:] = listed
    return array


#: The field that holds the values of each type, and how they are read.
_FIELDS: dict[int, tuple[str, Callable[[Any, np.dtype[Any]], Array]]] = {
    types_pb2.DT_FLOAT: ("float_val", _plain),
    types_pb2.DT_DOUBLE: ("double_val", _plain),
    types_pb2.DT_INT8: ("int_val", _narrow),
    types_pb2.DT_INT16: ("int_val", _narrow),
    types_pb2.DT_INT32: ("int_val", _plain),
    types_pb2.DT_INT64: ("int64_val", _plain),
    types_pb2.DT_UINT8: ("int_val", _narrow),
    types_pb2.DT_UINT16: ("int_val", _narrow),
    types_pb2.DT_UINT32: ("uint32_val", _plain),
    types_pb2.DT_UINT64: ("uint64_val", _plain),
    types_pb2.DT_BOOL: ("bool_val", _plain),
    types_pb2.DT_STRING: ("string_val", _objects),
    types_pb2.DT_HALF: ("half_val", _as_bits),
    types_pb2.DT_BFLOAT16: ("half_val", _as_bits),
    types_pb2.DT_COMPLEX64: ("scomplex_val", _complex),
    types_pb2.DT_COMPLEX128: ("dcomplex_val", _complex),
}


def decode(tensor: tensor_pb2.TensorProto, name: str) -> Array:
    """A TensorProto as an array, read-only where it was sent as `tensor_content`.

    Too few values repeat the last one, none at all are zeros, spare ones are dropped. Raises ServingError
    ``tensor parsing error: NAME`` with what is wrong.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        kind = (
            types_pb2.DataType.Name(tensor.dtype) if tensor.dtype in types_pb2.DataType.values() else str(tensor.dtype)
        )
        raise _malformed(name, f"its dtype is {kind}")
    declared = tensor.tensor_shape
    shape: list[int] = []
    count = 1
    is_proper = True
    if not declared.unknown_rank:
        for dim in declared.dim:
            size = dim.size
            shape.append(size)
            count *= size
            is_proper &= size >= 0
    if not is_proper or count > _MAX_ELEMENTS or len(shape) > MAX_DIMENSIONS:
        raise _malformed(name, f"its shape is {shape}")
    array = _flat(tensor, dtype, count, name)
    try:
        return array if len(shape) == 1 else array.reshape(shape)
    except ValueError as error:  # numpy counts what is behind a zero, too
        raise _malformed(name, str(error)) from None


def _flat(tensor: tensor_pb2.TensorProto, dtype: np.dtype[Any], count: int, name: str) -> Array:
    """Its values, `count` of them."""
    if content := tensor.tensor_content:  # looked at once: each look is a copy
        return _content(content, dtype, count, name)
    field, read = _FIELDS[tensor.dtype]
    values = getattr(tensor, field)
    array = read(values[: 2 * count] if len(values) > 2 * count else values, dtype)
    return array if array.size == count else _fit(array, count, name)


def _fit(array: Array, count: int, name: str) -> Array:
    if array.size > count:
        return array[:count]
    if count * array.dtype.itemsize > _MAX_FILLED_BYTES:
        raise _malformed(name, f"its shape asks for {count} values, {array.size} came")
    full = np.empty(count, array.dtype)
    full[: array.size] = array
    full[array.size :] = array[-1] if array.size else (b"" if array.dtype == object else 0)
    return full


def _content(content: bytes, dtype: np.dtype[Any], count: int, name: str) -> Array:
    if dtype.hasobject:
        return _string_content(content, count, name)
    if len(content) != count * dtype.itemsize:
        raise _malformed(name, f"tensor_content has {len(content)} bytes, {count * dtype.itemsize} are expected")
    if dtype == np.bool_:  # any byte but 0 is true; the others would not survive numpy, nor be valid in a reply
        return np.frombuffer(content, np.uint8).astype(np.bool_)
    return np.frombuffer(content, dtype)


def _string_content(content: bytes, count: int, name: str) -> Array:
    """`port::EncodeStringList`: the lengths as varints, then the bytes."""
    sizes, at = [], 0
    for _ in range(count):
        size = shift = 0
        while True:
            if at >= len(content) or shift > 63:
                raise _malformed(name, "tensor_content is no list of strings")
            byte, at = content[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        sizes.append(size)
    if at + sum(sizes) != len(content):
        raise _malformed(name, "tensor_content is no list of strings")
    array = np.empty(count, object)
    for place, size in enumerate(sizes):
        array[place], at = content[at : at + size], at + size
    return array


def _malformed(name: str, why: str) -> Exception:
    return invalid(f"tensor parsing error: {name}: {why}")


def encode(array: Array, tensor: tensor_pb2.TensorProto, as_content: bool = False) -> None:
    """Write an array into an empty TensorProto: typed fields, or `tensor_content` where the server's flag asks for
    it.
    """
    number, bits = raw(array, as_content)
    if bits is not None:
        tensor.MergeFromString(field_before(number, array.shape, len(bits), as_content) + bits)
        return
    tensor.MergeFromString(_head(number, array.shape))
    if number in (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16):
        tensor.half_val.extend(np.ascontiguousarray(array).view(np.uint16).ravel().tolist())
    else:
        getattr(tensor, _FIELDS[number][0]).extend(array.ravel().tolist())


def raw(array: Array, as_content: bool) -> tuple[int, bytes | None]:
    """The number of an array's type, and its bytes where they go on the wire as they stand in memory."""
    number = _NUMBERS[array.dtype]
    if (as_content and not array.dtype.hasobject) or number in _PACKED:
        return number, array.tobytes()
    return number, None


@functools.lru_cache(1024)
def field_before(number: int, shape: tuple[int, ...], size: int, as_content: bool) -> bytes:
    """A TensorProto up to its last `size` bytes, which are those of `raw`."""
    tag = _CONTENT if as_content else _PACKED[number]
    return _head(number, shape) + (bytes([tag << 3 | 2]) + varint(size) if size else b"")


def _head(number: int, shape: tuple[int, ...]) -> bytes:
    """Type and shape."""
    tensor = tensor_pb2.TensorProto(dtype=number)
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add().size = size
    return bytes(tensor.SerializeToString())


#: The number of the field `tensor_content`.
_CONTENT = 4

#: The field of each type whose packed form on the wire is what an array's memory holds.
_PACKED = {
    types_pb2.DT_FLOAT: 5,
    types_pb2.DT_DOUBLE: 6,
    types_pb2.DT_COMPLEX64: 9,
    types_pb2.DT_BOOL: 11,
    types_pb2.DT_COMPLEX128: 12,
}


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

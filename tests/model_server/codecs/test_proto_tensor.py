"""Tensors to and from TensorProto: equal to TensorFlow's own, refusals where TF Serving refuses."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from jupyter_tfserve.model_server.codecs import proto_tensor
from jupyter_tfserve.model_server.errors import Code, ServingError

NUMBERS: dict[str, Any] = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_INT8": np.int8,
    "DT_INT16": np.int16,
    "DT_INT32": np.int32,
    "DT_INT64": np.int64,
    "DT_UINT8": np.uint8,
    "DT_UINT16": np.uint16,
    "DT_UINT32": np.uint32,
    "DT_UINT64": np.uint64,
    "DT_BOOL": np.bool_,
    "DT_HALF": np.float16,
    "DT_BFLOAT16": ml_dtypes.bfloat16,
    "DT_COMPLEX64": np.complex64,
    "DT_COMPLEX128": np.complex128,
    "DT_STRING": object,
}


def sample(name: str) -> np.ndarray[Any, Any]:
    if name == "DT_STRING":
        return np.array([[b"a", b"", b"\xff\0"], [b"b" * 300, b"c", b"d"]], object)
    kind = np.dtype(NUMBERS[name])
    if kind.kind in "iu":
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        return np.array([[low, high, 0], [1, 2, 3]], kind)
    if kind.kind == "b":
        return np.array([[True, False, True], [False, False, True]])
    if kind.kind == "c":
        return np.array([[1.5 + 2j, -2j, 0], [1, -3.5, 4j]], kind)
    return np.array([[1.5, -2, 0], [np.inf, -0.0, 3]]).astype(kind)


def decoded(**fields: Any) -> np.ndarray[Any, Any]:
    shape = fields.pop("shape", None)
    message = tensor_pb2.TensorProto(**fields)
    if shape is not None:
        message.tensor_shape.SetInParent()
        for size in shape:
            message.tensor_shape.dim.add(size=size)
    return proto_tensor.decode(message, "x")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("as_content", [False, True])
def test_as_tensorflow_reads_and_writes(name: str, as_content: bool) -> None:
    array = sample(name)
    for value in (
        array,
        array[:, :1],
        array[0, 0].reshape(()) if name != "DT_STRING" else array[:0],
        array[:0],
        array.T,
    ):
        message = tensor_pb2.TensorProto()
        proto_tensor.encode(value, message, as_content)
        assert message.dtype == types_pb2.DataType.Value(name)
        assert bool(message.tensor_content) == (as_content and name != "DT_STRING" and value.size > 0)
        theirs = tf.make_ndarray(message)
        assert (theirs.shape == value.shape and theirs.tobytes() == np.ascontiguousarray(value).tobytes()) or (
            theirs.tolist() == value.tolist()
        )
        ours = proto_tensor.decode(tf.make_tensor_proto(value, tf.as_dtype(types_pb2.DataType.Value(name))), "x")
        assert ours.dtype == array.dtype and ours.shape == value.shape
        assert ours.tolist() == value.tolist()
        again = proto_tensor.decode(message, "x")
        assert again.tolist() == value.tolist()


def test_too_few_values_repeat_the_last_and_none_are_zeros() -> None:
    assert decoded(dtype=types_pb2.DT_FLOAT, float_val=[1, 2], shape=[4]).tolist() == [1, 2, 2, 2]
    assert decoded(dtype=types_pb2.DT_INT32, shape=[2]).tolist() == [0, 0]
    assert decoded(dtype=types_pb2.DT_STRING, shape=[2]).tolist() == [b"", b""]
    assert decoded(dtype=types_pb2.DT_STRING, string_val=[b"a"], shape=[2]).tolist() == [b"a", b"a"]
    assert decoded(dtype=types_pb2.DT_BOOL, bool_val=[True], shape=[2]).tolist() == [True, True]
    assert decoded(dtype=types_pb2.DT_COMPLEX64, scomplex_val=[1, 2], shape=[2]).tolist() == [1 + 2j, 1 + 2j]


def test_spare_values_are_dropped() -> None:
    assert decoded(dtype=types_pb2.DT_INT64, int64_val=range(100), shape=[3]).tolist() == [0, 1, 2]
    assert decoded(dtype=types_pb2.DT_COMPLEX64, scomplex_val=[1, 2, 3, 4, 5], shape=[1]).tolist() == [1 + 2j]
    assert decoded(dtype=types_pb2.DT_INT64, int64_val=[7], shape=[0]).tolist() == []


def test_no_shape_is_a_scalar() -> None:
    assert decoded(dtype=types_pb2.DT_FLOAT, float_val=[3]).shape == ()
    message = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[3])
    message.tensor_shape.unknown_rank = True
    assert proto_tensor.decode(message, "x").shape == ()


def test_any_byte_but_0_is_true() -> None:
    array = decoded(dtype=types_pb2.DT_BOOL, tensor_content=b"\x00\x01\x02\x80\xff", shape=[5])
    written = tensor_pb2.TensorProto()
    proto_tensor.encode(array, written)
    assert list(written.bool_val) == [False, True, True, True, True]


def test_string_content() -> None:
    long = b"x" * 200
    content = bytes([1, 0xC8, 0x01]) + b"a" + long
    assert decoded(dtype=types_pb2.DT_STRING, tensor_content=content, shape=[2]).tolist() == [b"a", long]


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": [1]},
        {"dtype": types_pb2.DT_QINT8, "shape": [1]},
        {"dtype": types_pb2.DT_RESOURCE, "shape": [1]},
        {"dtype": 9999, "shape": [1]},
        {"dtype": types_pb2.DT_FLOAT, "shape": [-1]},
        {"dtype": types_pb2.DT_FLOAT, "shape": [-2, -3]},
        {"dtype": types_pb2.DT_FLOAT, "shape": [2**62, 4]},
        {"dtype": types_pb2.DT_FLOAT, "shape": [2**40], "float_val": [1]},
        {"dtype": types_pb2.DT_FLOAT, "shape": [0, 2**62, 2**62]},
        {"dtype": types_pb2.DT_STRING, "shape": [1] * 33, "string_val": [b"x"]},
        {"dtype": types_pb2.DT_FLOAT, "shape": [1] * 100, "float_val": [1]},
        {"dtype": types_pb2.DT_FLOAT, "shape": [1] * 255, "float_val": [1]},
        {"dtype": types_pb2.DT_FLOAT, "shape": [2], "tensor_content": b"1234567"},
        {"dtype": types_pb2.DT_FLOAT, "shape": [2**62, 2], "tensor_content": b"1234"},
        {"dtype": types_pb2.DT_STRING, "shape": [2], "tensor_content": b"\x01\x02a"},
        {"dtype": types_pb2.DT_STRING, "shape": [1], "tensor_content": b"\xff" * 20},
        {"dtype": types_pb2.DT_STRING, "shape": [2**60], "tensor_content": b"\x00"},
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_malformed(fields: dict[str, Any]) -> None:
    with pytest.raises(ServingError, match="^INVALID_ARGUMENT: tensor parsing error: x") as refused:
        decoded(**fields)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_a_large_tensor_is_not_walked_in_python() -> None:
    array = np.random.default_rng(0).random((1000, 1000), np.float32)
    message = tensor_pb2.TensorProto()
    proto_tensor.encode(array, message)
    assert len(message.SerializeToString()) < array.nbytes + 100
    np.testing.assert_array_equal(proto_tensor.decode(message, "x"), array)

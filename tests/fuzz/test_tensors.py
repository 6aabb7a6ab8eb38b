"""Any tensor through an identity signature: REST row, REST column, gRPC's typed fields and `tensor_content` all give it
back to the bit, where the form can carry it.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import grpc
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import tensorflow as tf
from fuzz.served import Served
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from jupyter_tfserve.model_server.core.servable import MAX_DIMENSIONS

FLOATS = "float32 float64".split()
INTEGERS = "int8 int16 int32 int64 uint8 uint32 uint64".split()
IN_JSON = [*FLOATS, *INTEGERS, "bool", "string"]
NOT_IN_JSON = "uint16 float16 bfloat16 complex64 complex128".split()

#: How each type's values travel in a TensorProto.
FIELDS = {
    **dict.fromkeys("int8 int16 int32 uint8 uint16".split(), "int_val"),
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "bool": "bool_val",
    "string": "string_val",
    "float16": "half_val",
    "bfloat16": "half_val",
    "complex64": "scomplex_val",
    "complex128": "dcomplex_val",
}

SHAPES = st.one_of(
    st.lists(st.integers(0, 3), max_size=4),
    st.lists(st.integers(1, 40), min_size=1, max_size=1),
    st.integers(5, MAX_DIMENSIONS).map(lambda rank: [1] * rank),
    st.tuples(st.integers(0, 15), st.integers(0, 16)).map(lambda n: [1] * n[0] + [2] + [1] * n[1]),
)

BYTES = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [b"", b"\x00", b"a\x00", b"\xff", b"\xed\xa0\x80", b'"\\/', "é😀".encode(), b"=", b"AAE=", b"\n\x1f\x7f"]
    ),
)


def numpy_type(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else object if name == "string" else name)


def special(name: str) -> list[Any]:
    """Values at the edges of a type."""
    if name == "bool":
        return [False, True]
    if name in INTEGERS or name == "uint16":
        info = np.iinfo(name)
        return [info.min, info.min + 1, 0, 1, info.max - 1, info.max]
    if name.startswith("complex"):
        return [0j, complex(-0.0, float("nan")), complex(float("inf"), 1e-300)]
    info: Any = ml_dtypes.finfo(numpy_type(name))
    edges = [float(info.max), float(info.tiny), float(info.smallest_subnormal)]
    return [*edges, 0.0, -0.0, 0.1, -2.0, 1e-30, 123456.789, 16777217.0, *map(float, ("nan", "inf", "-inf"))]


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    name = draw(st.sampled_from(IN_JSON + NOT_IN_JSON))
    shape = draw(SHAPES)
    dtype, count = numpy_type(name), int(np.prod(shape))
    if name == "string":
        array = np.empty(count, object)
        array[:] = draw(st.lists(BYTES, min_size=count, max_size=count))
    elif name == "bool" or draw(st.booleans()):
        with np.errstate(all="ignore"):
            values = draw(st.lists(st.sampled_from(special(name)), min_size=count, max_size=count))
            array = np.array(values, dtype)
    else:
        array = np.frombuffer(draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize)), dtype)
    return name, array.reshape(shape)


def bits(array: np.ndarray, one_nan: bool) -> Any:
    """Its type, shape and bytes. A NaN's are those of the one that JSON has, or with the bit that a signalling one gets
    on its way through Python's floats.
    """
    if array.dtype == object:
        return "string", array.shape, array.ravel().tolist()
    raw = np.ascontiguousarray(array)
    if array.dtype.kind in "fc" and array.dtype.itemsize > 2:
        parts = raw.reshape(-1).view(
            {8: np.float32, 16: np.float64}[array.dtype.itemsize] if array.dtype.kind == "c" else array.dtype
        )
        whole = parts.view(f"u{parts.itemsize}")
        quiet, nan = (1 << 22, 0x7FC00000) if parts.itemsize == 4 else (1 << 51, 0x7FF8 << 48)
        kept = np.full_like(whole, nan) if one_nan else whole | whole.dtype.type(quiet)
        raw = np.where(np.isnan(parts), kept, whole)
    return array.dtype.name, array.shape, raw.tobytes()


# JSON.


def as_json(value: Any, name: str, spelling: int) -> str:
    """One value, in one of its spellings."""
    if name == "string":
        text = value.decode("utf-8", "surrogateescape")
        if spelling % 2 or any("\ud800" <= letter < "\udc80" for letter in text):
            return json.dumps({"b64": base64.b64encode(value).decode().rstrip("=" if spelling % 3 else "")})
        return json.dumps(text, ensure_ascii=False)
    if name == "bool":
        return "true" if value else "false"
    if name in INTEGERS:
        return str(value)
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return ("-" if value < 0 else "") + ("Infinity" if spelling % 2 else "Inf")
    if spelling % 3 == 0 and value == int(value) and value:
        return str(int(value))
    return repr(float(value)) if spelling % 2 else f"{float(value):.17e}"


def document(value: Any, name: str, spelling: int) -> str:
    """A value, or a list of them in lists."""
    if not isinstance(value, list):
        return as_json(value, name, spelling)
    return "[" + ("," if spelling % 2 else " ,\n ").join(document(item, name, spelling) for item in value) + "]"


def from_json(value: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name != "string":
        with np.errstate(over="ignore"):
            return np.array(value, numpy_type(name)).reshape(shape)
    for _ in shape[1:]:
        value = [item for row in value for item in row]
    array = np.empty(shape, object)
    flat = [item.encode("utf-8", "surrogateescape") for item in (value if shape else [value])]
    array.reshape(-1)[:] = flat
    return array


def rest(served: Served, body: str, reply: str) -> Any:
    status, content = served.rest("POST", "/v1/models/echo:predict", body.encode("utf-8", "surrogateescape"))
    assert status == 200, (content, body)
    return json.loads(content.decode("utf-8", "surrogateescape"))[reply]


def test_tensors(served: Served) -> None:
    def check(value: tuple[tuple[str, np.ndarray], int]) -> None:
        (name, array), spelling = value
        for as_content in (False, True):
            back = predicted(served, array, name, as_content)
            assert bits(back, False) == bits(array, False), (name, array.shape, as_content)
        if name in NOT_IN_JSON:
            for key, expected in (("instances", 400), ("inputs", 501)):
                body = f'{{"signature_name": "{name}", "{key}": [1]}}'.encode()
                assert served.rest("POST", "/v1/models/echo:predict", body)[0] == expected
            return
        if 0 in array.shape[:-1]:
            return  # what is behind a zero is not seen in lists
        text, expected = document(array.tolist(), name, spelling), bits(array, True)
        head = f'{{"signature_name": "{name}", '
        column = rest(served, f'{head}"inputs": {text}}}', "outputs")
        assert bits(from_json(column, name, array.shape), True) == expected
        named = rest(served, f'{head}"inputs": {{"x": {text}}}}}', "outputs")
        assert bits(from_json(named, name, array.shape), True) == expected
        if array.ndim and len(array):
            row = rest(served, f'{head}"instances": {text}}}', "predictions")
            assert bits(from_json(row, name, array.shape), True) == expected

    served.drive(st.tuples(tensors(), st.integers(0, 5)), check, 150)


# gRPC.


def predicted(served: Served, array: np.ndarray, name: str, as_content: bool) -> np.ndarray:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "echo", name
    fill(request.inputs["x"], array, name, as_content)
    code, details, payload = served.rpc("PredictionService/Predict", request.SerializeToString())
    assert code is grpc.StatusCode.OK, details
    return tf.make_ndarray(predict_pb2.PredictResponse.FromString(payload).outputs["y"])


def fill(tensor: tensor_pb2.TensorProto, array: np.ndarray, name: str, as_content: bool) -> None:
    tensor.dtype = tf.as_dtype(name).as_datatype_enum
    tensor.tensor_shape.SetInParent()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    flat = np.ascontiguousarray(array).reshape(-1)
    if as_content and name != "string":
        tensor.tensor_content = flat.tobytes()
    elif name in ("float16", "bfloat16"):
        tensor.half_val.extend(flat.view(np.uint16).tolist())
    elif name.startswith("complex"):
        getattr(tensor, FIELDS[name]).extend(flat.view(np.float32 if name == "complex64" else np.float64).tolist())
    else:
        getattr(tensor, FIELDS[name]).extend(flat.tolist())

"""Arrays to TF Serving's JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from signatures import NUMPY, signature

from jupyter_tfserve.model_server.codecs import json_reply
from jupyter_tfserve.model_server.errors import ServingError


def rows(arrays: dict[str, np.ndarray[Any, Any]], **outputs: str) -> Any:
    return json.loads(json_reply.encode_rows(list(arrays.values()), signature({}, outputs)))["predictions"]


def columns(arrays: dict[str, np.ndarray[Any, Any]], **outputs: str) -> Any:
    return json.loads(json_reply.encode_columns(list(arrays.values()), signature({}, outputs)))["outputs"]


def test_one_output() -> None:
    array = np.array([[1, 2.5], [-0.0, 1e6]], np.float32)
    assert rows({"y": array}, y="float") == columns({"y": array}, y="float") == [[1.0, 2.5], [-0.0, 1e6]]
    assert columns({"y": np.float32(3).reshape(())}, y="float") == 3.0
    assert rows({"y": np.zeros((0, 2), np.float32)}, y="float") == []


def test_several_outputs() -> None:
    arrays = {"n": np.array([1, 2]), "s_bytes": np.array([b"a", b"\xff"], object)}
    assert rows(arrays, n="int64", s_bytes="string") == [
        {"n": 1, "s_bytes": {"b64": "YQ=="}},
        {"n": 2, "s_bytes": {"b64": "/w=="}},
    ]
    assert columns(arrays, n="int64", s_bytes="string") == {"n": [1, 2], "s_bytes": [{"b64": "YQ=="}, {"b64": "/w=="}]}


@pytest.mark.parametrize("counts", [[1] * 6, [6], [2, 3, 1]])
@pytest.mark.parametrize("row", [(), (3,), (1,), (0,)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8", "bool"])
def test_replies_written_together_are_those_written_alone(dtype: str, row: tuple[int, ...], counts: list[int]) -> None:
    array = np.random.default_rng(1).normal(0, 1e3, (6, *row)).astype(dtype)
    ends = np.cumsum(counts)
    alone = [
        json_reply.encode_rows([array[end - count : end]], signature({}, {"y": "float"}))
        for end, count in zip(ends, counts, strict=True)
    ]
    assert json_reply.encode_many_rows(array, counts) == alone


@pytest.mark.parametrize(
    "array", [np.array([1.0, np.nan]), np.zeros((2, 2, 2)), np.array([b"a", b"b"], object), np.ones(2, np.float16)]
)
def test_what_takes_more_than_numbers_is_not_written_together(array: Any) -> None:
    assert json_reply.encode_many_rows(array, [1, 1]) is None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": np.zeros(()), "b": np.zeros(2)}, "Tensor name: a has no shape information "),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "Tensor name: b has inconsistent batch size: 3 expecting: 2"),
    ],
)
def test_outputs_without_rows(arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(ServingError, match=said):
        rows(arrays, a="double", b="double")


def test_what_is_written_reads_back() -> None:
    chance = np.random.default_rng(4)
    for dtype in ("float", "double"):
        bits = {"float": np.uint32, "double": np.uint64}[dtype]
        values = chance.integers(0, np.iinfo(bits).max, 3000, bits).view(NUMPY[dtype])
        values = np.concatenate([values, np.array([np.nan, np.inf, -np.inf, -0.0, 1e-40, 1e6, 1234567], NUMPY[dtype])])
        for array in (values, values[np.isfinite(values)], values[:1].reshape(())):
            found = np.array(columns({"y": array}, y=dtype), NUMPY[dtype])
            np.testing.assert_array_equal(found, array)
        pairs = rows({"y": values, "z": values}, y=dtype, z=dtype)
        np.testing.assert_array_equal(np.array([row["z"] for row in pairs], NUMPY[dtype]), values)
    for dtype in ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "bool"):
        kind = NUMPY[dtype]
        array = np.array([True, False]) if dtype == "bool" else np.array([np.iinfo(kind).min, np.iinfo(kind).max], kind)
        text = json_reply.encode_columns([array], signature({}, {"y": dtype}))
        assert b"." not in text and np.array_equal(np.array(json.loads(text)["outputs"], kind), array)


def test_floats_have_a_point_and_integers_none() -> None:
    for array, dtype in (
        (np.array([1, 1e6, 1234567, 1e20]), "double"),
        (np.array([1, 1e6, 1e20], np.float32), "float"),
    ):
        text = json_reply.encode_columns([array], signature({}, {"y": dtype})).decode()
        numbers = text[text.index("[") + 1 : text.index("]")].replace(" ", "").split(",")
        assert all("." in number or "e" in number for number in numbers), numbers


def test_strings() -> None:
    values = [b'q"/\\\x08\x0c\n\r\t\x01\x7f', "é😀".encode(), b"\xff\xfe", b""]
    body = json_reply.encode_rows([np.array(values, object)], signature({}, {"y": "string"}))
    assert json.loads(body.decode("utf-8", "surrogateescape"))["predictions"] == [
        value.decode("utf-8", "surrogateescape") for value in values
    ]
    assert b"\xff\xfe" in body and "é😀".encode() in body and b"\\u00" in body


def test_layouts_numpy_knows() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for view in (array.T, array[::-1], array[:, ::2], np.broadcast_to(array[0], (2, 4))):
        assert rows({"y": view}, y="float") == view.tolist()


@pytest.mark.parametrize("dtype", ["half", "bfloat16", "complex64", "uint16"])
def test_types_json_has_no_way_for(dtype: str) -> None:
    with pytest.raises(ServingError, match=f"Failed to write JSON value for tensor type: {dtype}"):
        json_reply.encode_rows([np.zeros(1, NUMPY[dtype])], signature({}, {"y": dtype}))

"""TF Serving's JSON to arrays: shapes, types, the texts of refusals."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from signatures import NUMPY, signature

from jupyter_tfserve.model_server.codecs import json_tensor
from jupyter_tfserve.model_server.errors import Code, ServingError


def decode(body: bytes | str, inputs: dict[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    data = body.encode() if isinstance(body, str) else body
    called = signature(inputs)
    return dict(zip(called.inputs, json_tensor.decode(json_tensor.parse(data), called)[0], strict=True))


def one(body: bytes | str, dtype: str = "float") -> np.ndarray[Any, Any]:
    [array] = decode(body, {"x": dtype}).values()
    assert array.dtype == NUMPY[dtype]
    return array


# Values.


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("float", "[1, 2.5, -0, 1e39, -1e39, 1e-60]", [1, 2.5, 0, math.inf, -math.inf, 0]),
        (
            "float",
            "[NaN, Inf, -Infinity, 123456789012345678901234567890]",
            [math.nan, math.inf, -math.inf, 1.2345679e29],
        ),
        ("double", "[0.1, 1e308, 5e-324, 9007199254740993]", [0.1, 1e308, 5e-324, 9007199254740992.0]),
        ("int8", "[127, -128, 128, 300]", [127, -128, -128, 44]),
        ("uint8", "[255, 300, -1]", [255, 44, 255]),
        ("int16", "[32767, 32768]", [32767, -32768]),
        ("int32", "[2147483647, -2147483648]", [2147483647, -2147483648]),
        ("int64", "[9223372036854775807, -9223372036854775808, -0]", [2**63 - 1, -(2**63), 0]),
        ("uint32", "[4294967295]", [2**32 - 1]),
        ("uint64", "[18446744073709551615]", [2**64 - 1]),
        ("bool", "[true, false]", [True, False]),
        ("string", '["é", {"b64": "/+8="}, {"b64": "AA"}, ""]', ["é".encode(), b"\xff\xef", b"\0", b""]),
    ],
)
def test_values(dtype: str, values: str, expected: list[Any]) -> None:
    for body in (f'{{"instances": {values}}}', f'{{"inputs": {values}}}', f'{{"inputs": {{"x": {values}}}}}'):
        found = one(body, dtype)
        assert found.shape == (len(expected),)
        if dtype == "string":
            assert found.tolist() == expected
        else:
            np.testing.assert_array_equal(found, np.array(expected, NUMPY[dtype]))


@pytest.mark.parametrize(
    ("dtype", "value", "quoted"),
    [
        ("float", '"1"', r'JSON Value: "1" Type: String is not of expected type: float'),
        ("float", "true", "JSON Value: true Type: True is not of expected type: float"),
        ("float", "null", "JSON Value: null Type: Null is not of expected type: float"),
        ("float", '{"b64": "AA=="}', "Type: Object is not of expected type: float"),
        ("int32", "1.0", "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ("int32", "1e3", "Type: Number is not of expected type: int32"),
        ("int32", "2147483648", "Type: Number is not of expected type: int32"),
        ("int8", "2147483648", "Type: Number is not of expected type: int8"),
        ("int32", "false", "JSON Value: false Type: False is not of expected type: int32"),
        ("int64", "9223372036854775808", "is not of expected type: int64"),
        ("uint32", "-1", "is not of expected type: uint32"),
        ("uint64", "-1", "is not of expected type: uint64"),
        ("uint64", "18446744073709551616", "is not of expected type: uint64"),
        ("bool", "1", "JSON Value: 1 Type: Number is not of expected type: bool"),
        ("string", "1", "JSON Value: 1 Type: Number is not of expected type: string"),
        ("string", '{"b64": "*"}', "base64"),
        ("string", '{"b64": 1}', "is not of expected type: string"),
    ],
)
def test_values_of_another_type(dtype: str, value: str, quoted: str) -> None:
    for body in (f'{{"inputs": [{value}]}}', f'{{"inputs": {{"x": [{value}]}}}}'):
        with pytest.raises(ServingError, match=quoted) as refused:
            one(body, dtype)
        assert refused.value.code is Code.INVALID_ARGUMENT
    if not value.startswith('{"b64": 1'):
        with pytest.raises(
            ServingError, match=r"Failed to process element: 1 of 'instances' list\. Error: INVALID_ARG"
        ):
            good = {"string": '"a"', "bool": "true"}.get(dtype, "1")
            one(f'{{"instances": [{good}, {value}]}}', dtype)


@pytest.mark.parametrize("dtype", ["half", "bfloat16", "complex64", "uint16"])
def test_types_json_has_no_way_for(dtype: str) -> None:
    with pytest.raises(ServingError) as refused:
        one('{"instances": [1]}', dtype)
    assert refused.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(ServingError, match=f"Conversion of JSON Value: .* to type: {dtype}") as refused:
        one('{"inputs": [1]}', dtype)
    assert refused.value.code is Code.UNIMPLEMENTED


# Shapes.


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ('{"inputs": 1}', ()),
        ('{"inputs": []}', (0,)),
        ('{"inputs": [[]]}', (1, 0)),
        ('{"inputs": [[], []]}', (2, 0)),
        ('{"instances": [1, 2]}', (2,)),
        ('{"instances": [[1, 2], [3, 4], [5, 6]]}', (3, 2)),
        ('{"instances": [{"x": [1, 2]}]}', (1, 2)),
        ('{"inputs": [[[1], [2]]]}', (1, 2, 1)),
    ],
)
def test_shapes(body: str, shape: tuple[int, ...]) -> None:
    assert one(body).shape == shape


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"instances": [[1, 2], [3]]}', "element: 1 of 'instances' list.*Expecting tensor size: 2 but got: 1"),
        ('{"instances": [[1, 2], [[3, 4]]]}', r"element: 1 of .*Expecting shape \[2\] but got: \[1,2\]"),
        ('{"instances": [[[1, 2], [3]], [[1, 2], [3, 4]]]}', "element: 0 .*Encountered list at unexpected size"),
        ('{"instances": [1, [2]]}', "element: 1 "),
        ('{"instances": [[1], 2]}', "element: 1 "),
        ('{"instances": [{"x": [1]}, {"x": [1, 2]}]}', "element: 1 key: x of 'instances' list"),
        ('{"inputs": [[1, 2], [3]]}', "Encountered list at unexpected size"),
        ('{"inputs": [1, [2]]}', "Type: Array is not of expected type: float"),
        ('{"inputs": [[1], 2]}', "2"),
    ],
)
def test_ragged(body: str, said: str) -> None:
    with pytest.raises(ServingError, match=said) as refused:
        one(body)
    assert refused.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("depth", [33, 64, 65, 100, 254, 255, 5000, 100_000])
@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_too_deep(depth: int, key: str) -> None:
    """TensorFlow's Python interface ends at 32 dimensions of strings: more would end the process."""
    with pytest.raises(ServingError) as refused:
        one(f'{{"{key}": ' + "[" * depth + "1" + "]" * depth + "}")
    assert refused.value.code is Code.INVALID_ARGUMENT and len(refused.value.message) < 1000


@pytest.mark.parametrize("last_inside", [False, True])
@pytest.mark.parametrize("depth", [300, 400, 600, 1000, 1100, 20_000])
def test_objects_in_depth(depth: int, last_inside: bool) -> None:
    """Python's stack ends before simdjson's limit, and what a body holds besides is not looked at."""
    for opened, closed in (('{"a":', "}"), ("[", "]")):
        body = f'{{"instances": [1], "other": {opened * depth}{{}}{closed * depth}}}'
        assert json_tensor.parse(body.encode(), last_inside)["instances"] == [1]


def test_a_key_with_nul() -> None:
    assert json_tensor.parse(b'{"a": 1, "a\\u0000b": 2, "c": 3}') == {"a": 1, "a\0b": 2, "c": 3}
    assert json_tensor.parse(b'{"a\\u0000": 1}') == {"a\0": 1}
    for body in (b'[{"a\\u0000": 1}]', b"[" * 900 + b"{}" + b"]" * 900):
        with pytest.raises(ServingError, match="Is not object"):
            json_tensor.parse(body)


# What stands around the values.


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("[]", "Is not object"),
        ("7", "Is not object"),
        ("null", "Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"instances": [1], "inputs": [1]}', "Not formatted correctly"),
        ('{"instances": 1}', "Expecting 'instances' value to be a list"),
        ('{"instances": {"x": [1]}}', "Expecting 'instances' value to be a list"),
        ('{"instances": []}', "empty"),
        ('{"instances": [{"x": 1}, 2]}', "Expecting object but got list at item 1"),
        ('{"instances": [1, {"x": 2}]}', "Expecting value/list but got object at item 1"),
        ('{"instances": [{"y": 1}]}', "element: 0"),
        ('{"instances": [{"x": 1}, {"x": 1, "y": 1}]}', "element: 1"),
        ('{"inputs": {"y": 1}}', "Missing named input: x in 'inputs' object"),
    ],
)
def test_malformed(body: str, said: str) -> None:
    with pytest.raises(ServingError, match=said) as refused:
        one(body)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_several_inputs() -> None:
    inputs = {"a": "int64", "b": "string"}
    rows = decode('{"instances": [{"a": 1, "b": "x"}, {"b": {"b64": "AA=="}, "a": 2}]}', inputs)
    assert rows["a"].tolist() == [1, 2] and rows["b"].tolist() == [b"x", b"\0"]
    columns = decode('{"inputs": {"a": [[1]], "b": "x", "more": 7}}', inputs)
    assert columns["a"].shape == (1, 1) and columns["b"].shape == () and columns["b"].item() == b"x"
    with pytest.raises(ServingError, match="multiple input tensors"):
        decode('{"instances": [1]}', inputs)
    with pytest.raises(ServingError, match="multiple input tensors"):
        decode('{"inputs": [1]}', inputs)
    first = decode('{"instances": [{"a": 1, "a": 5, "b": "x"}]}', inputs)
    assert first["a"].tolist() == [1], "of equal keys the first counts"
    many = "".join(f'"k{n}": 0, ' for n in range(100))
    assert decode('{"inputs": {"a": 1, "a": 5, ' + many + '"b": "x", "b": "y"}}', inputs)["a"].item() == 1


def test_no_inputs() -> None:
    with pytest.raises(ServingError) as refused:
        decode('{"instances": [1]}', {})
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_both_readers_give_the_same() -> None:
    """A body that simdjson takes and one that only ours takes (text after the object) are decoded alike."""
    chance = random.Random(3)
    for _ in range(300):
        rows = [[chance.choice([0.0, 0.1, 7.0, -1e300, 3]) for _ in range(3)] for _ in range(chance.randrange(1, 4))]
        body = json.dumps({"signature_name": "é\n", "instances": rows})
        assert json_tensor.parse(body.encode()) == json_tensor.parse(body.encode() + b" #")
        np.testing.assert_array_equal(one(body, "double"), one(body + " #", "double"))

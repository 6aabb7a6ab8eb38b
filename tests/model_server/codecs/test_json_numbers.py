"""The short way from JSON to an array: what it takes, and that it agrees with the long one to the bit."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from jupyter_tfserve.model_server.codecs import json_numbers, json_tensor
from jupyter_tfserve.model_server.core.servable import Signature, TensorInfo
from jupyter_tfserve.model_server.errors import ServingError

NUMPY = {
    "float": np.float32, "double": np.float64, "int8": np.int8, "int16": np.int16, "int32": np.int32,
    "int64": np.int64, "uint8": np.uint8, "uint32": np.uint32, "uint64": np.uint64, "string": np.object_,
    "bool": np.bool_,
}  # fmt: skip


def signature(dtype: str) -> Signature:
    info = TensorInfo("x:0", dtype, np.dtype(NUMPY[dtype]), None)
    return Signature("serving_default", {"x": info}, {"y": info}, "")


def both_ways(body: bytes, dtype: str) -> tuple[np.ndarray | None, np.ndarray | str]:
    """The array of the short way, None where it does not know; and that of the long one, or its error."""
    with np.errstate(over="ignore"):
        numbers = json_numbers.read(body)
        short = None if numbers is None else numbers.array(signature(dtype))
        del numbers
        try:
            [long] = json_tensor.decode(json_tensor.parse(body), signature(dtype))[0]
        except ServingError as error:
            return short, error.message
    return short, long


@pytest.mark.parametrize(
    ("body", "dtype", "shape"),
    [
        ('{"instances": [1.5]}', "float", (1,)),
        ('{"inputs": [1, 2, 3]}', "int32", (3,)),
        ('{"instances": [[1, 2], [3, 4], [5, 6]]}', "double", (3, 2)),
        ('{"instances": [[[[1]]]]}', "float", (1, 1, 1, 1)),
        ('{"signature_name": "a", "instances": [[1], [2]]}', "uint8", (2, 1)),
        ('{"instances": [18446744073709551615]}', "uint64", (1,)),
        ('{"instances": [1e300, -1e300, 1e-300, -0.0, -0]}', "float", (5,)),
    ],
)
def test_what_it_takes(body: str, dtype: str, shape: tuple[int, ...]) -> None:
    short, long = both_ways(body.encode(), dtype)
    assert short is not None and isinstance(long, np.ndarray)
    assert short.shape == shape
    assert short.dtype == long.dtype == NUMPY[dtype]
    assert short.tobytes() == long.tobytes()


@pytest.mark.parametrize(
    ("body", "dtype"),
    [
        ('{"instances": []}', "float"),
        ('{"instances": [[], []]}', "float"),
        ('{"instances": [[1, 2], [3]]}', "float"),
        ('{"instances": [[1, 2], [3], [4, 5, 6]]}', "float"),  # as many numbers as the first row promises
        ('{"instances": [1, [2], []]}', "float"),
        ('{"instances": [[1, 2], 3, 4]}', "float"),
        ('{"instances": [1.0]}', "int32"),
        ('{"instances": [2147483648]}', "int32"),
        ('{"instances": [-1]}', "uint32"),
        ('{"instances": [true]}', "float"),
        ('{"instances": ["1"]}', "string"),
        ('{"instances": [NaN]}', "float"),
        ('{"instances": [1], "inputs": [1]}', "float"),
        ('{"instances": [1], "instances": [2]}', "float"),
        ('{"instances": [1]} trailing', "float"),
        ('{"signature_name": 1, "instances": [1]}', "float"),
        ('{"instances": {"x": 1}}', "float"),
        ('{"other": [1]}', "float"),
        ("[1]", "float"),
        ("", "float"),
        ('{"instances": [1e999]}', "float"),
    ],
)
def test_what_it_leaves_to_the_long_way(body: str, dtype: str) -> None:
    assert both_ways(body.encode(), dtype)[0] is None


def test_strings_with_brackets_beside_the_list() -> None:
    short, long = both_ways(b'{"signature_name": "]],[[", "instances": [[1, 2], [3, 4]]}', "float")
    assert short is None and isinstance(long, np.ndarray)


def test_random_lists_agree_to_the_bit() -> None:
    rng = random.Random(7)

    def value(depth: int) -> object:
        if depth and rng.random() < 0.9:
            return [value(depth - 1) for _ in range(rng.choice([1, 2, 2, 2, 3]))]
        return rng.choice([rng.uniform(-1e3, 1e3), rng.randint(-300, 300), 10.0 ** rng.randint(-320, 308)])

    taken = 0
    for _ in range(3000):
        dtype = rng.choice(list(NUMPY))
        body = json.dumps({rng.choice(["instances", "inputs"]): value(rng.randint(1, 4))}).encode()
        short, long = both_ways(body, dtype)
        if short is not None:
            taken += 1
            assert isinstance(long, np.ndarray), (body, long)
            assert (short.shape, short.dtype, short.tobytes()) == (long.shape, long.dtype, long.tobytes()), body
    assert taken > 200


def test_a_body_that_was_not_decoded_does_not_stand_in_the_way() -> None:
    first = json_numbers.read(b'{"instances": [1]}')
    assert first is not None
    assert json_tensor.read(b'{"instances": [2]}')[1] == {"instances": [2]}  # the long way
    del first
    assert isinstance(json_tensor.read(b'{"instances": [2]}')[1], json_numbers.Numbers)


def test_small_bodies_are_read_together_to_the_bit() -> None:
    rng = random.Random(11)
    taken = 0
    for _ in range(600):
        dtype = rng.choice(["float", "double", "int32", "uint8", "uint64"])
        width = rng.randint(1, 4)
        flat = rng.random() < 0.5

        def numbers(dtype: str = dtype, width: int = width) -> list[object]:
            return [
                rng.choice([rng.uniform(-1e3, 1e3), 10.0 ** rng.randint(-320, 308)])
                if dtype in ("float", "double")
                else rng.randint(0, 9)
                for _ in range(width)
            ]

        values = [numbers() if flat else [numbers()] for _ in range(rng.randint(1, 5))]
        bodies = [json.dumps({"instances": value}, indent=rng.choice([None] * 9 + [1])).encode() for value in values]
        with np.errstate(over="ignore"):
            found = json_numbers.read_together(bodies, signature(dtype))
        if found is None:
            assert any(body[:13] != b'{"instances":' or body[-1:] != b"}" or b"\n " in body for body in bodies)
            continue
        taken += 1
        rows, counts = found
        longs = [both_ways(body, dtype)[1] for body in bodies]
        assert counts == [len(long) for long in longs]
        together = np.concatenate(longs)
        assert (rows.shape, rows.dtype, rows.tobytes()) == (together.shape, together.dtype, together.tobytes())
    assert taken > 200


@pytest.mark.parametrize(
    "neighbours",
    [
        ["[1]", "[[1]]"],
        ["[[1, 2]]", "[[1]]"],
        ["[1]", "[]"],
        ["[1], [2]", "[3]"],
        ["5, [1]", "[2]"],
        ["[1], 5", "[2]"],
        ["[1", "2]"],
        ["[1]", "], ["],
        ["[[1]", "2]]"],
        ["[1, {}]", "[2]"],
        ["[1]}", "[2]"],
        ["[1]", "\x0c[2]"],
        ["[1] [2]", "[3]"],
        ["[[[1]]]", "[[[2]]]"],
        ["1", "2"],
        ["[1]", '["2"]'],
        ["[1]", "[" + "1, " * 300 + "1]"],
        ["[1.5]", "[null]"],
    ],
)
def test_what_is_not_read_together(neighbours: list[str]) -> None:
    bodies = [f'{{"instances": {value}}}'.encode() for value in neighbours]
    for order in (bodies, bodies[::-1], [*bodies, bodies[0]]):
        assert json_numbers.read_together(order, signature("float")) is None

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from jupyter_tfserve.kernel.errors import KernelError
from jupyter_tfserve.kernel.values import first_row, plain, request_body, results


class Frame:
    """As pandas and polars convert."""

    def to_numpy(self) -> Any:
        return np.array([[1.0, 2.0]])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([[1, 2]], np.int64), [[1, 2]]),
        (np.float32(0.5), 0.5),
        (np.array([b"\xff"], object), [{"b64": "/w=="}]),
        (np.array(["a", "b"]), ["a", "b"]),
        (b"ab", {"b64": "YWI="}),
        ([np.int32(1), True, None], [1, True, None]),
        ({"x": np.zeros(2)}, {"x": [0.0, 0.0]}),
        (Frame(), [[1.0, 2.0]]),
    ],
)
def test_plain(value: Any, expected: Any) -> None:
    assert plain(value) == expected
    json.dumps(plain(value))


def test_tensors_are_plain() -> None:
    tf = pytest.importorskip("tensorflow")
    assert plain(tf.constant([[1.0]])) == [[1.0]]
    assert plain(tf.constant([b"\x00"])) == [{"b64": "AA=="}]
    assert plain(tf.Variable([1, 2])) == [1, 2]


@pytest.mark.parametrize("value", [np.array([1j]), object(), {"x": {1, 2}}])
def test_what_json_cannot_hold_is_refused_with_a_remedy(value: Any) -> None:
    with pytest.raises(KernelError) as caught:
        plain(value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (np.ones((2, 1)), {"instances": [[1.0], [1.0]]}),
        ("hello", {"instances": ["hello"]}),
        (b"hi", {"instances": [{"b64": "aGk="}]}),
        ({"a": [1], "b": [2]}, {"inputs": {"a": [1], "b": [2]}}),
        ({"instances": [1]}, {"instances": [1]}),
    ],
)
def test_request_body(value: Any, body: dict[str, Any]) -> None:
    assert request_body(value) == body
    assert request_body(value, "sig") == {**body, "signature_name": "sig"}


def test_results_are_arrays() -> None:
    assert np.array_equal(results({"predictions": [[1.0], [2.0]]}), [[1.0], [2.0]])
    by_name = results({"predictions": [{"a": 1, "b": [1, 2]}, {"a": 2, "b": [3, 4]}]})
    assert by_name["a"].tolist() == [1, 2]
    assert by_name["b"].shape == (2, 2)
    assert results({"outputs": {"a": [1], "b": [2]}})["b"].tolist() == [2]
    assert results({"outputs": [[1, 2]]}).shape == (1, 2)
    assert results({"predictions": [[1], [1, 2]]}) == [[1], [1, 2]]
    assert results({"predictions": [{"b64": "YQA="}]}).tolist() == [b"a\x00"]


def test_first_row() -> None:
    assert first_row({"instances": [1, 2]}) == {"instances": [1]}
    assert first_row({"inputs": {"a": [1, 2], "b": [3, 4]}}) == {"inputs": {"a": [1], "b": [3]}}
    assert first_row({"inputs": {"a": 1}}) == {"inputs": {"a": 1}}

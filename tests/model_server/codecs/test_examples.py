"""tf.Examples from TF Serving's JSON."""

from __future__ import annotations

import pytest
import tensorflow as tf

from jupyter_tfserve.model_server.codecs import examples, json_tensor
from jupyter_tfserve.model_server.errors import Code, ServingError


def read(body: bytes) -> list[tf.train.Example]:
    parsed = json_tensor.parse(body, last_inside=True)
    return [tf.train.Example.FromString(example) for example in examples.from_json(parsed)]


def test_features() -> None:
    [example] = read(
        b'{"context": {"c": "x", "a": 9}, "examples": [{"a": [1, true], "b": [1e300, 18446744073709551616], "e": []}]}'
    )
    feature = example.features.feature
    assert sorted(feature) == ["a", "b", "c"]
    assert list(feature["a"].int64_list.value) == [1, 1]
    assert list(feature["b"].float_list.value) == [float("inf"), 2.0**64]
    assert list(feature["c"].bytes_list.value) == [b"x"]


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (b'"a": 9223372036854775808', "has uint64 element"),
        (b'"a": ' + b"9" * 309, "Number too big to be stored in double"),
        (b'"a": [1, 2.5]', "Unexpected element type in feature: a expecting type: int64"),
        (b'"a": null', "unexpected JSON type: Null"),
        (b'"a": {"b64": "*"}', "Unable to base64 decode feature: a"),
        (b'"\xff": 1', "is not UTF-8"),
    ],
)
def test_refused(feature: bytes, said: str) -> None:
    with pytest.raises(ServingError, match=said) as refused:
        read(b'{"examples": [{' + feature + b"}]}")
    assert refused.value.code is Code.INVALID_ARGUMENT
    refused.value.message.encode()

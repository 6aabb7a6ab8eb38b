"""tf.Examples for Classify and Regress: from the Input message and from TF Serving's JSON to what a model parses,
serialized.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import input_pb2

from ..errors import invalid
from .json_values import from_b64, is_b64, kind

Json = Any

_MAX_INT64 = 2**63 - 1


def from_input(message: input_pb2.Input) -> list[bytes]:
    """The examples of an Input; its context is merged into each, whose own features win."""
    if message.WhichOneof("kind") == "example_list_with_context":
        listed = message.example_list_with_context
        return [_merged(listed.context, example).SerializeToString() for example in listed.examples]
    return [example.SerializeToString() for example in message.example_list.examples]


def _merged(context: example_pb2.Example, example: example_pb2.Example) -> example_pb2.Example:
    merged = example_pb2.Example()
    merged.CopyFrom(context)
    for name, feature in example.features.feature.items():
        merged.features.feature[name].CopyFrom(feature)
    return merged


def from_json(request: Mapping[str, Json]) -> list[bytes]:
    """The examples of a REST request, its context merged into each."""
    context = example_pb2.Example()
    if "context" in request:
        _fill(context, request["context"])
    examples = request.get("examples")
    if not isinstance(examples, list):
        raise invalid("When method is classify or regress, key 'examples' is expected and must be a list/array")
    if not examples:
        raise invalid("'examples' value is an empty array")
    serialized = []
    for value in examples:
        example = example_pb2.Example()
        example.CopyFrom(context)
        _fill(example, value)
        serialized.append(example.SerializeToString())
    return serialized


def _fill(example: example_pb2.Example, value: Json) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {kind(value)}")
    for name, content in value.items():
        values = content if isinstance(content, list) else [content]
        if values:  # an empty list leaves the feature out
            feature = _feature(name, values)
            try:
                example.features.feature[name].CopyFrom(feature)
            except UnicodeEncodeError:
                raise invalid(f"The name of feature {name!r} is not UTF-8") from None


def _feature(name: str, values: list[Json]) -> feature_pb2.Feature:
    """A feature's kind is that of its first value, and all must have it."""
    feature = feature_pb2.Feature()
    kinds = [_value(name, value) for value in values]
    expected = kinds[0][0]
    for found, _ in kinds:
        if found != expected:
            raise invalid(f"Unexpected element type in feature: {name} expecting type: {expected}")
    converted = [value for _, value in kinds]
    if expected == "bytes":
        feature.bytes_list.value.extend(converted)
    elif expected == "int64":
        feature.int64_list.value.extend(converted)
    else:
        feature.float_list.value.extend(converted)
    return feature


def _value(name: str, value: Json) -> tuple[str, Any]:
    """One value and the kind of list that it belongs in."""
    if isinstance(value, str):
        return "bytes", value.encode("utf-8", "surrogateescape")
    if isinstance(value, bool):
        return "int64", int(value)
    if isinstance(value, int):
        if -_MAX_INT64 - 1 <= value <= _MAX_INT64:
            return "int64", value
        if 0 < value < 2**64:
            raise invalid(f"Feature: {name} has uint64 element. Only int64_t is supported.")
        return "float", float(value)
    if isinstance(value, float):
        return "float", value
    if is_b64(value):
        try:
            return "bytes", from_b64(value)
        except ValueError:
            raise invalid(
                f"Unable to base64 decode feature: {name}", 'Bytes are written as {"b64": "..."}, in base64.'
            ) from None
    raise invalid(f"Feature: {name} has element with unexpected JSON type: {kind(value)}")

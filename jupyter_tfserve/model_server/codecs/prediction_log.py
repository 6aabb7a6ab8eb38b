"""PredictionLog records of what was asked and answered, serialized: for request logs, and so for warm-up files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2, regression_pb2

from ..core.servable import Array
from . import proto_tensor


def record(kind: str, request: Any, response: Any, sampling_rate: float) -> bytes:
    """`kind` is "predict", "classify", "regress" or "multi_inference"; the messages are those of that gRPC method."""
    log = prediction_log_pb2.PredictionLog()
    content = getattr(log, f"{kind}_log")
    content.request.CopyFrom(request)
    content.response.CopyFrom(response)
    if kind != "multi_inference":
        log.log_metadata.model_spec.CopyFrom(response.model_spec)
    log.log_metadata.sampling_config.sampling_rate = sampling_rate
    log.log_metadata.timestamp_secs = int(time.time())
    return bytes(log.SerializeToString())


def predict(
    spec: tuple[str, int, str], inputs: Mapping[str, Array], outputs: Mapping[str, Array], sampling_rate: float
) -> bytes:
    """A record of a REST Predict, as if it had come over gRPC; `spec` is model, version and signature."""
    request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
    _fill(request, response, spec)
    for name, array in inputs.items():
        proto_tensor.encode(array, request.inputs[name])
    for name, array in outputs.items():
        proto_tensor.encode(array, response.outputs[name])
    return record("predict", request, response, sampling_rate)


def classify(
    spec: tuple[str, int, str],
    examples: Sequence[bytes],
    rows: Sequence[Sequence[tuple[bytes, float]]],
    sampling_rate: float,
) -> bytes:
    """A record of a REST Classify."""
    request, response = classification_pb2.ClassificationRequest(), classification_pb2.ClassificationResponse()
    _fill(request, response, spec)
    _fill_examples(request, examples)
    fill_classes(response.result, rows)
    return record("classify", request, response, sampling_rate)


def regress(spec: tuple[str, int, str], examples: Sequence[bytes], values: Array, sampling_rate: float) -> bytes:
    """A record of a REST Regress."""
    request, response = regression_pb2.RegressionRequest(), regression_pb2.RegressionResponse()
    _fill(request, response, spec)
    _fill_examples(request, examples)
    fill_values(response.result, values)
    return record("regress", request, response, sampling_rate)


def fill_classes(result: Any, rows: Sequence[Sequence[tuple[bytes, float]]]) -> None:
    """Write label and score of each class of each example into a ClassificationResult."""
    for row in rows:
        classes = result.classifications.add().classes
        for label, score in row:
            classes.add(label=label.decode("utf-8", "replace"), score=score)


def fill_values(result: Any, values: Array) -> None:
    """Write one value for each example into a RegressionResult."""
    for value in values.tolist():
        result.regressions.add().value = value


def _fill(request: Any, response: Any, spec: tuple[str, int, str]) -> None:
    for target in (request.model_spec, response.model_spec):
        target.name, target.version.value, target.signature_name = spec


def _fill_examples(request: Any, examples: Sequence[bytes]) -> None:
    request.input.example_list.examples.extend(example_pb2.Example.FromString(example) for example in examples)

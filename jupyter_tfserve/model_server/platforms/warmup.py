"""Warm-up: replays the requests that a version carries, before it is available (`saved_model_warmup_util.cc`)."""

from __future__ import annotations

import time
from pathlib import Path

from tensorflow_serving.apis import prediction_log_pb2

from .. import metrics
from .. import tensorflow_parts as parts
from ..codecs import examples, proto_tensor
from ..core.batching import Batcher
from ..errors import Code, ServingError, invalid
from ..inference import CLASSIFY_METHOD, REGRESS_METHOD, classify, complete, filtered, regress, signature

#: Where a version carries its requests: TFRecords of PredictionLog.
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

MAX_RECORDS = 1000


def warm_up(servable: Batcher, path: Path, iterations: int = 1) -> int:
    """Run each request of the version's file, `iterations` times; returns how many records there are.

    Raises ServingError, with the code that the version's status will have: that of the failed request, INVALID_ARGUMENT
    for what is no PredictionLog or too many of them, DATA_LOSS for what is no TFRecord file.
    """
    file = path / WARMUP_FILE
    if not file.exists():
        return 0
    began = time.monotonic()
    status = Code.OK
    count = 0
    try:
        for record in parts.tf_record_iterator(str(file)):
            count += 1
            if count > MAX_RECORDS:
                raise invalid(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) in {file}",
                    f"Keep at most {MAX_RECORDS} requests.",
                )
            _run(servable, _parse(record, file), max(1, iterations))
            metrics.WARMUP_RECORDS.add(str(path), "OK")
    except ServingError as error:
        status = error.code
        raise ServingError(error.code, f"Warm-up request {count}: {error.message}", error.remedy) from None
    except parts.errors.DataLossError as error:
        status = Code.DATA_LOSS
        raise ServingError(status, f"{file} is no TFRecord file: {error.message}") from None
    finally:
        metrics.WARMUP_LATENCY.observe((time.monotonic() - began) * 1e6, str(path), status.name)
    return count


def _parse(record: bytes, file: Path) -> prediction_log_pb2.PredictionLog:
    try:
        return prediction_log_pb2.PredictionLog.FromString(record)
    except Exception:  # protobuf's DecodeError, which differs between its implementations
        raise invalid(f"Failed to parse warmup record: {file}") from None


def _run(servable: Batcher, log: prediction_log_pb2.PredictionLog, iterations: int) -> None:
    """One record; the model's name and version in it do not matter."""
    kind = log.WhichOneof("log_type")
    for _ in range(iterations):
        if kind == "predict_log":
            request = log.predict_log.request
            called = signature(servable, request.model_spec.signature_name, Code.FAILED_PRECONDITION)
            inputs = {key: proto_tensor.decode(tensor, key) for key, tensor in request.inputs.items()}
            servable.run(called, complete(called, inputs), filtered(called, request.output_filter))
        elif kind == "classify_log":
            request = log.classify_log.request
            classify(servable, request.model_spec.signature_name, examples.from_input(request.input), api="")
        elif kind == "regress_log":
            request = log.regress_log.request
            regress(servable, request.model_spec.signature_name, examples.from_input(request.input), api="")
        elif kind == "multi_inference_log":
            request = log.multi_inference_log.request
            batch = examples.from_input(request.input)
            runs = {CLASSIFY_METHOD: classify, REGRESS_METHOD: regress}
            for task in request.tasks:
                if task.method_name not in runs:
                    raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
                runs[task.method_name](servable, task.model_spec.signature_name, batch, api="")
        else:
            raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")

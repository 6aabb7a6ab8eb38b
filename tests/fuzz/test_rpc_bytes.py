"""Protobuf messages of every method, odd and mutated, over real gRPC: never UNKNOWN, and INTERNAL only for bytes that
are no message.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import hypothesis.strategies as st
from fuzz.served import MODELS, Served
from google.protobuf.message import DecodeError
from helpers import Tfserve
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

METHODS: dict[str, Any] = {
    "PredictionService/Predict": predict_pb2.PredictRequest,
    "PredictionService/Classify": classification_pb2.ClassificationRequest,
    "PredictionService/Regress": regression_pb2.RegressionRequest,
    "PredictionService/MultiInference": inference_pb2.MultiInferenceRequest,
    "PredictionService/GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
    "ModelService/GetModelStatus": get_model_status_pb2.GetModelStatusRequest,
}
RELOAD = "ModelService/HandleReloadConfigRequest"

#: What a request of these may end with; UNKNOWN and INTERNAL would be an exception of ours.
REFUSALS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.OUT_OF_RANGE,
}

SIGNATURES = [
    "",
    "serving_default",
    "float32",
    "string",
    "int8",
    "bool",
    "complex64",
    "regress",
    "number",
    "matrix",
    "nosuch",
]
SIZES = st.one_of(st.integers(0, 4), st.sampled_from([-1, 2**40, 2**62, 2**63 - 1]))

#: Elements past which a shape is not filled up, and those of which only the refusal is of interest.
FILLED = range(2**20, 2**31)


@st.composite
def specs(draw: st.DrawFn, spec: Any) -> None:
    spec.name = draw(st.sampled_from([*MODELS, *MODELS, "nosuch", ""]))
    spec.signature_name = draw(st.sampled_from(SIGNATURES))
    choice = draw(st.integers(0, 4))
    if choice == 0:
        spec.version.value = draw(st.sampled_from([1, 0, -1, 2**63 - 1]))
    elif choice == 1:
        spec.version_label = draw(st.text(max_size=3))


@st.composite
def tensors(draw: st.DrawFn, tensor: tensor_pb2.TensorProto) -> None:
    tensor.dtype = draw(st.integers(0, 30) | st.sampled_from([1, 3, 6, 7, 8, 10, 14, 19]))
    for _ in range(draw(st.integers(0, 3))):
        tensor.tensor_shape.dim.add(size=draw(SIZES))
    tensor.tensor_shape.unknown_rank = draw(st.sampled_from([False, False, False, True]))
    if draw(st.booleans()):
        tensor.float_val.extend(draw(st.lists(st.floats(width=32), max_size=4)))
        tensor.int_val.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)))
        tensor.half_val.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2)))
        tensor.string_val.extend(draw(st.lists(st.binary(max_size=5), max_size=3)))
        tensor.bool_val.extend(draw(st.lists(st.booleans(), max_size=2)))
        tensor.scomplex_val.extend(draw(st.lists(st.floats(width=32), max_size=3)))
    else:
        tensor.tensor_content = draw(st.binary(max_size=16))


@st.composite
def inputs(draw: st.DrawFn, message: Any) -> None:
    listed = message.example_list_with_context if draw(st.booleans()) else message.example_list
    if listed is message.example_list_with_context and draw(st.booleans()):
        listed.context.features.feature["c"].bytes_list.value.append(b"\xff")
    for _ in range(draw(st.integers(0, 3))):
        feature = listed.examples.add().features.feature[draw(st.sampled_from(["a", "b", "é"]))]
        kind = draw(st.integers(0, 3))
        if kind == 0:
            feature.float_list.value.extend(draw(st.lists(st.floats(width=32), max_size=2)))
        elif kind == 1:
            feature.int64_list.value.append(1)
        elif kind == 2:
            feature.bytes_list.value.append(b"x")


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, bytes]:
    method = draw(st.sampled_from(["PredictionService/Predict"] * 3 + list(METHODS)))
    message = METHODS[method]()
    if method == "PredictionService/MultiInference":
        for _ in range(draw(st.integers(0, 3))):
            task = message.tasks.add()
            draw(specs(task.model_spec))
            task.method_name = draw(st.sampled_from(["tensorflow/serving/classify", "tensorflow/serving/regress", "x"]))
    elif draw(st.integers(0, 9)):
        draw(specs(message.model_spec))
    if method == "PredictionService/Predict" and draw(st.booleans()):
        # One that fits, but for its values.
        message.model_spec.name, message.model_spec.signature_name = "echo", "float32"
        message.inputs["x"].dtype = 1
        message.inputs["x"].float_val.extend(draw(st.lists(st.floats(width=32), max_size=4)))
        for _ in range(draw(st.integers(0, 3))):
            message.inputs["x"].tensor_shape.dim.add(size=draw(SIZES))
    elif method == "PredictionService/Predict":
        for name in draw(st.lists(st.sampled_from(["x", "a", "b", "inputs", "y"]), max_size=3)):
            draw(tensors(message.inputs[name]))
        message.output_filter.extend(draw(st.lists(st.sampled_from(["y", "product", "z"]), max_size=2)))
    elif hasattr(message, "input"):
        draw(inputs(message.input))
    elif hasattr(message, "metadata_field"):
        message.metadata_field.extend(
            draw(st.lists(st.sampled_from(["signature_def", "signature_def", "x"]), max_size=2))
        )
    return method, edited(draw, message.SerializeToString())


def edited(draw: st.DrawFn, payload: bytes) -> bytes:
    """A third of them damaged."""
    if draw(st.integers(0, 2)):
        return payload
    for at, length, piece in draw(
        st.lists(st.tuples(st.integers(0, 120), st.integers(0, 4), st.binary(max_size=4)), max_size=2)
    ):
        payload = payload[:at] + piece + payload[at + length :]
    return payload


def parsed(kind: Any, payload: bytes) -> Any:
    try:
        return kind.FromString(payload)
    except DecodeError:
        return None


def fills(message: Any) -> bool:
    """Whether it asks for gigabytes of copies of one value: stock makes them, and so do we."""
    for tensor in getattr(message, "inputs", {}).values():
        count = 1
        for dim in tensor.tensor_shape.dim:
            count *= dim.size
        if count in FILLED:
            return True
    return False


def test_messages(served: Served) -> None:
    codes: dict[str, int] = {}

    def check(value: tuple[str, bytes]) -> None:
        method, payload = value
        message = parsed(METHODS[method], payload)
        if fills(message):
            return
        code, details, _ = served.rpc(method, payload)
        codes[code.name] = codes.get(code.name, 0) + 1
        if message is None:
            assert code is grpc.StatusCode.INTERNAL, (value, code, details)
        else:
            assert code in REFUSALS, (value, code, details)
        assert "Traceback" not in details and "Exception" not in details, details

    served.drive(messages(), check, 300)
    print(codes)
    assert codes["OK"] > 0 and codes["INVALID_ARGUMENT"] > 0


def test_reload_requests(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    """On a server of its own: what is accepted changes what it serves."""
    one = start(f"--model_base_path={models / 'affine'}", "--model_name=affine").wait_until_ready()

    @st.composite
    def reloads(draw: st.DrawFn) -> bytes:
        request = model_management_pb2.ReloadConfigRequest()
        for _ in range(draw(st.integers(0, 3))):
            model = request.config.model_config_list.config.add()
            model.name = draw(st.sampled_from([*["affine", "b", "c"] * 4, "", "a/b", "é", "\x00"]))
            model.base_path = draw(
                st.sampled_from([*[str(models / "affine")] * 9, str(tmp_path), "/nosuch", "", "x", "/\x00"])
            )
            model.model_platform = draw(st.sampled_from([*["tensorflow"] * 9, "", "other"]))
            kind = draw(st.integers(0, 4))
            policy = model.model_version_policy
            if kind == 0:
                policy.specific.versions.extend(draw(st.lists(st.sampled_from([1, 2, 9, -1, 2**63 - 1]), max_size=2)))
            elif kind == 1:
                policy.latest.num_versions = draw(st.sampled_from([0, 1, 2, 2**32 - 1]))
            if not draw(st.integers(0, 3)):
                model.version_labels[draw(st.sampled_from(["", "a", "é"]))] = draw(st.sampled_from([1, 3, -1]))
            if draw(st.integers(0, 3)) == 0:
                model.logging_config.sampling_config.sampling_rate = draw(st.floats())
        request.metric_names.extend(draw(st.lists(st.sampled_from(["", ":tensorflow:x"]), max_size=2)))
        return edited(draw, request.SerializeToString())

    served = Served(one)
    codes: dict[str, int] = {}

    def check(payload: bytes) -> None:
        code, details, _ = served.rpc(RELOAD, payload)
        codes[code.name] = codes.get(code.name, 0) + 1
        if code is grpc.StatusCode.UNKNOWN:
            assert "did not become available" in details, (payload, details)
        elif parsed(model_management_pb2.ReloadConfigRequest, payload) is None:
            assert code is grpc.StatusCode.INTERNAL
        else:
            assert code in REFUSALS, (payload, code, details)

    try:
        served.drive(reloads(), check, 40)
    finally:
        served.close()
    print(codes)

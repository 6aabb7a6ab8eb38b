"""TF Serving's gRPC services, with the stock stubs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from helpers import PATIENCE, StoreServer, Tfserve
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


@pytest.fixture(scope="module")
def channel(server: StoreServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as one:
        yield one


def request(model: str, signature: str = "", **inputs: object) -> predict_pb2.PredictRequest:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    for name, value in inputs.items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return message


def test_predict(channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request("affine", x=[1.0, 2.0]), timeout=PATIENCE)
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [2.0, 3.0]
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"


@pytest.mark.parametrize(
    ("message", "code", "phrase"),
    [
        (predict_pb2.PredictRequest(), grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"),
        (request("nosuch", x=[1.0]), grpc.StatusCode.NOT_FOUND, "Latest(nosuch)"),
        (request("affine", "nosuch", x=[1.0]), grpc.StatusCode.FAILED_PRECONDITION, "not found in signature def"),
        (request("affine", z=[1.0]), grpc.StatusCode.INVALID_ARGUMENT, "Missing but required: {x}"),
        (request("affine", x=["a"]), grpc.StatusCode.INVALID_ARGUMENT, "to be float but string is provided"),
    ],
)
def test_refusals(
    channel: grpc.Channel, message: predict_pb2.PredictRequest, code: grpc.StatusCode, phrase: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(message, timeout=PATIENCE)
    assert refused.value.code() is code
    assert phrase in refused.value.details()


def test_metadata_and_status(channel: grpc.Channel) -> None:
    ask = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    ask.model_spec.name = "affine"
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(ask, timeout=PATIENCE)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert "serving_default" in signatures.signature_def
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "affine"
    [version] = (
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, timeout=PATIENCE).model_version_status
    )
    assert (version.version, version.state, version.status.error_code) == (1, 30, 0)


def test_health_and_reflection(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"} <= set(services)


def test_a_bearer_is_asked_for(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    hashes = tmp_path / "hashes"
    hashes.write_text(hashlib.sha256(b"secret").hexdigest())
    one = start(
        f"--model_base_path={models / 'affine'}",
        f"--bearer_hashes_file={hashes}",
        "--enable_grpc_healthcheck_service",
    ).wait_until_ready()
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "token secret"}, 200),
    ):
        assert one.call("GET", "/v1/models/default", headers=headers).status == status
    assert one.call("GET", "/healthz").status == 200
    with grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(request("default", x=[1.0]), timeout=PATIENCE)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", "Bearer secret"),)
        response = stub.Predict(request("default", x=[1.0]), timeout=PATIENCE, metadata=metadata)
        assert tf.make_ndarray(response.outputs["y"]).tolist() == [4.0]
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)

"""What TensorFlow Serving's flags do, seen from outside of real servers. Those with a topic of their own are tested
with it: TLS, the profiler, TFLite, the polled file, threads (`test_abandoned.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import tensorflow as tf
from helpers import PATIENCE, Tfserve, publish, wait_for
from profiling import what_runs
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from jupyter_tfserve.model_server import flags
from jupyter_tfserve.model_server.platforms.session_config import session_config


@pytest.fixture(scope="module")
def one(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tfserve]:
    """A server with many flags, and the models that show what they do."""
    folder = tmp_path_factory.mktemp("one")
    base = folder / "models"
    for name in ("affine", "batching", "bad_warmup", "repaired"):
        publish(models / "affine" / "1", base / name, 1)
    publish(models / "gated" / "1", base / "gated", 1)
    (base / "batching/1/batching_params.pbtxt").write_text("max_batch_size { value: 2 }")
    (base / "bad_warmup/1/assets.extra").mkdir()
    (base / "bad_warmup/1/assets.extra/tf_serving_warmup_requests").write_bytes(b"no TFRecord")
    (base / "repaired/1/saved_model.pb").rename(base / "repaired/1/kept")
    (base / "repaired/1/saved_model.pb").write_bytes(b"no model")
    entries = "".join(
        f'config {{ name: "{path.name}" base_path: "{path}" model_platform: "tensorflow" }}\n'
        for path in sorted(base.iterdir())
    )
    for name, text in {
        "models": f"model_config_list {{ {entries} }}",
        "monitoring": 'prometheus_config { enable: true path: "/my/metrics" }',
        "session": "operation_timeout_in_ms: 300",
    }.items():
        (folder / f"{name}.config").write_text(text)
    server = Tfserve(
        folder,
        f"--model_config_file={folder / 'models.config'}",
        f"--monitoring_config_file={folder / 'monitoring.config'}",
        f"--tensorflow_session_config_file={folder / 'session.config'}",
        f"--grpc_socket_path={folder / 'grpc.sock'}",
        "--grpc_channel_arguments=grpc.max_receive_message_length=100000,grpc.max_concurrent_streams=7",
        "--rest_api_timeout_in_ms=0",
        "--enable_batching",
        "--enable_per_model_batching_parameters",
        "--enable_model_warmup=false",
        "--max_num_load_retries=100000",
        "--load_retry_interval_micros=50000",
        "--num_load_threads=2",
        "--num_unload_threads=2",
    )
    try:
        yield server.wait_until_ready()
    finally:
        server.close()


def request(rows: int) -> predict_pb2.PredictRequest:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = "affine"
    message.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0] * rows))
    return message


def test_grpc_socket_path(one: Tfserve) -> None:
    with grpc.insecure_channel(f"unix:{one.log.parent / 'grpc.sock'}") as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request(1), timeout=PATIENCE)
    assert tf.make_ndarray(answer.outputs["y"]).tolist() == [2.0]


def test_grpc_channel_arguments(one: Tfserve) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Predict(request(20_000), timeout=PATIENCE)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(request(30_000), timeout=PATIENCE)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_monitoring_config_file(one: Tfserve) -> None:
    assert one.call("GET", "/my/metrics").body.startswith(b"# TYPE ")
    assert one.call("GET", "/monitoring/prometheus/metrics").status == 404


def test_session_config_file(one: Tfserve, tmp_path: Path) -> None:
    """A time limit of the session, where the request has none."""
    answer = one.call("POST", "/v1/models/gated:predict", {"inputs": str(tmp_path / "never")})
    assert answer.status == 504, answer


def test_per_model_batching_parameters(one: Tfserve) -> None:
    assert one.predict("affine", [1.0] * 3) == [2.0] * 3  # has no such file, so that it is not batched
    answer = one.call("POST", "/v1/models/batching:predict", {"instances": [1.0] * 3})
    assert answer.status == 400
    assert "Task size 3 is larger than maximum input batch size 2" in answer.json["error"]


def test_without_warm_up(one: Tfserve) -> None:
    assert one.predict("bad_warmup", [1.0]) == [2.0]


def test_loads_are_tried_again(one: Tfserve) -> None:
    """A model that cannot be loaded yet does not stop the start, as long as others can."""
    wait_for("it to fail", lambda: "Loading repaired/1 failed, again in 0.05 s" in one.said())
    folder = one.log.parent / "models" / "repaired" / "1"
    os.replace(folder / "kept", folder / "saved_model.pb")
    one.wait_available("repaired", 1)


def test_saved_model_tags(start: Callable[..., Tfserve], models: Path) -> None:
    two = start(f"--model_base_path={models / 'affine'}", "--saved_model_tags=serve,gpu", "--max_num_load_retries=0")
    assert two.process.wait(PATIENCE) == 1
    assert "1 servable(s) did not become available" in two.said()
    assert "MetaGraphDef" in two.said()


def test_new_versions_are_not_looked_for_when_polling_is_off(
    start: Callable[..., Tfserve], models: Path, tmp_path: Path
) -> None:
    base = tmp_path / "affine"
    publish(models / "affine" / "1", base, 1)
    file = tmp_path / "models.config"
    text = f'model_config_list {{ config {{ name: "m" base_path: "{base}" model_platform: "tensorflow" }} }}'
    file.write_text(text)
    two = start(
        f"--model_config_file={file}",
        "--file_system_poll_wait_seconds=0",
        "--model_config_file_poll_wait_seconds=1",
    ).wait_until_ready()
    publish(models / "affine" / "2", base, 2)
    assert two.states("m") == {1: "AVAILABLE"}
    file.write_text(text.replace('"tensorflow"', '"tensorflow" model_version_policy { all {} }'))
    two.wait_available("m", 1, 2)  # the new config is a reason to look; until then nobody did


LAYERS = [[1.0] * 64] * 4


def test_xla_on_cpu(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    two = start(f"--model_base_path={models / 'chain'}", "--xla_cpu_compilation_enabled").wait_until_ready()
    names = what_runs(two, LAYERS, tmp_path)
    assert any("_XlaRun" in name for name in names), sorted(names)


def has_bfloat16() -> bool:
    try:
        return "bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not has_bfloat16(), reason="TensorFlow uses bfloat16 only on processors that have it")
def test_mixed_precision(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    two = start(f"--model_base_path={models / 'chain'}", "--mixed_precision=bfloat16").wait_until_ready()
    names = what_runs(two, LAYERS, tmp_path)
    assert any("CastToBf16" in name for name in names), sorted(names)


def test_session_flags(tmp_path: Path) -> None:
    def made(*arguments: str) -> tuple[int, int]:
        session = session_config(flags.parse(list(arguments)))
        return session.intra_op_parallelism_threads, session.inter_op_parallelism_threads

    assert made() == (flags.cpus(), flags.cpus())
    assert made("--tensorflow_session_parallelism=3") == (3, 3)
    assert made("--tensorflow_intra_op_parallelism=4", "--tensorflow_inter_op_parallelism=5") == (4, 5)
    gpu = session_config(flags.parse(["--per_process_gpu_memory_fraction=0.5", "--xla_gpu_compilation_enabled"]))
    assert gpu.gpu_options.per_process_gpu_memory_fraction == 0.5
    assert gpu.graph_options.optimizer_options.global_jit_level > 0


def test_the_threads_of_ops(start: Callable[..., Tfserve], models: Path) -> None:
    """TensorFlow has one pool for all sessions of a process, made by the first one; its threads have no names."""

    def threads(intra: int) -> int:
        one = start(f"--model_base_path={models / 'affine'}", f"--tensorflow_intra_op_parallelism={intra}")
        one.wait_until_ready()
        assert one.predict("default", [1.0]) == [4.0]
        return psutil.Process(one.process.pid).num_threads()

    assert threads(40) - threads(2) > 30

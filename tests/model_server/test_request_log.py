"""Request logs: what is in them, that they are warm-up files, and that no request suffers from them."""

from __future__ import annotations

import glob
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
import pytest
import tensorflow as tf
from helpers import PATIENCE, Tfserve, publish, wait_for
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from jupyter_tfserve.model_server.core.policy import LoggingConfig
from jupyter_tfserve.model_server.request_log import RequestLogs


def config(folder: Path, **models: tuple[Path, Path, float]) -> Path:
    """A models.config: base path, log prefix and sampling rate of each model."""
    entries = "".join(
        f"""config {{
          name: "{name}" base_path: "{base}" model_platform: "tensorflow"
          logging_config {{
            log_collector_config {{ type: "tfrecord" filename_prefix: "{prefix}" }}
            sampling_config {{ sampling_rate: {rate} }}
          }}
        }}"""
        for name, (base, prefix, rate) in models.items()
    )
    file = folder / "models.config"
    file.write_text(f"model_config_list {{ {entries} }}")
    return file


def records(prefix: Path) -> list[prediction_log_pb2.PredictionLog]:
    """What has been written so far, through TensorFlow's own reader."""
    found = []
    for file in sorted(glob.glob(f"{prefix}*")):
        assert stat.S_IMODE(Path(file).stat().st_mode) == 0o600
        for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
            found.append(prediction_log_pb2.PredictionLog.FromString(record))
    return found


def counted(one: Tfserve, sample: str) -> int:
    text = one.call("GET", "/monitoring/prometheus/metrics").body.decode()
    found = re.search(rf"^{re.escape(sample)} (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.fixture
def monitoring(tmp_path: Path) -> str:
    file = tmp_path / "monitoring.config"
    file.write_text("prometheus_config { enable: true }")
    return f"--monitoring_config_file={file}"


def test_a_log_is_a_warm_up_file(start: Callable[..., Tfserve], models: Path, tmp_path: Path, monitoring: str) -> None:
    base = tmp_path / "affine"
    publish(models / "affine" / "1", base, 1)
    prefix, silent = tmp_path / "logs" / "affine", tmp_path / "logs" / "silent"
    file = config(tmp_path, affine=(base, prefix, 1.0), silent=(base, silent, 0.0))
    one = start(f"--model_config_file={file}", monitoring).wait_until_ready()
    assert one.predict("affine", [1.0, 2.0]) == [2.0, 3.0]
    assert one.predict("silent", [1.0]) == [2.0]
    assert one.call("POST", "/v1/models/affine:predict", {"instances": ["x"]}).status == 400  # not logged
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "affine"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([5.0]))
    with grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=PATIENCE)
    over_rest, over_grpc = (
        wait_for("both records", lambda: records(prefix) if len(records(prefix)) == 2 else None) or ()
    )
    assert over_grpc.predict_log.request == request
    for record, x in ((over_rest, [1.0, 2.0]), (over_grpc, [5.0])):
        assert tf.make_ndarray(record.predict_log.request.inputs["x"]).tolist() == x
        assert tf.make_ndarray(record.predict_log.response.outputs["y"]).tolist() == [value + 1 for value in x]
        assert record.log_metadata.model_spec.version.value == 1
        assert record.log_metadata.sampling_config.sampling_rate == 1.0
    assert records(silent) == []

    staged = tmp_path / "staged"
    shutil.copytree(models / "affine" / "2", staged / "1")
    (staged / "1" / "assets.extra").mkdir()
    [log] = glob.glob(f"{prefix}*")
    shutil.copy(log, staged / "1" / "assets.extra" / "tf_serving_warmup_requests")
    publish(staged / "1", base, 2)
    one.wait_available("affine", 2)
    sample = f':tensorflow:serving:model_warmup_records_read{{model_path="{base / "2"}",status="OK"}}'
    wait_for("both models of this base path to read both records", lambda: counted(one, sample) == 4)


def test_a_disk_that_fails_fails_no_request(
    start: Callable[..., Tfserve], models: Path, tmp_path: Path, monitoring: str
) -> None:
    (tmp_path / "file").write_text("")
    base, prefix = models / "affine", tmp_path / "log"
    file = config(tmp_path, full=(base, prefix, 1.0), nowhere=(base, tmp_path / "file" / "log", 1.0))
    one = start(f"--model_config_file={file}", monitoring).wait_until_ready()
    assert one.predict("nowhere", [1.0]) == [4.0]
    sample = 'jupyter_tfserve_request_log_records_total{{model_name="{}",status="{}"}}'
    wait_for("the failure to be counted", lambda: counted(one, sample.format("nowhere", "failed")) == 1)
    # The kernel lets this process write no file larger than this: what a full disk does to it.
    limit = 256 * 1024
    psutil.Process(one.process.pid).rlimit(psutil.RLIMIT_FSIZE, (limit, limit))
    rows = [1.0] * 20_000
    for _ in range(20):
        assert one.predict("full", rows) == [4.0] * len(rows)
    wait_for("failures to be counted", lambda: counted(one, sample.format("full", "failed")) > 0)
    assert one.predict("full", [1.0]) == [4.0]
    assert "cannot be logged" in one.said()


def test_sampling_and_rotation(tmp_path: Path) -> None:
    logs = RequestLogs(rotate_bytes=4000)
    half = LoggingConfig(str(tmp_path / "half"), 0.5)
    for _ in range(800):
        logs.offer("m", half, lambda rate: b"x" * 100)
    logs.offer("m", None, lambda rate: b"")
    logs.close()
    files = glob.glob(f"{half.filename_prefix}*")
    sizes = [len(list(tf.data.TFRecordDataset(file).as_numpy_iterator())) for file in files]
    assert 250 < sum(sizes) < 550
    assert sorted(sizes)[1:] == [40] * (len(sizes) - 1)

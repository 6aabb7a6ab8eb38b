"""TensorFlow's own profiler client against a real `tfserve`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from helpers import PATIENCE, Tfserve, environment, wait_for
from profiling import asked_again_and_again, names_in, profile

from jupyter_tfserve.model_server import config_protos

#: As TensorFlow's documentation has it. It imports TensorFlow, and may end badly in a process that has done so already.
TRACE = """
import sys, tensorflow as tf
options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3)  # 2 leaves out ops that are quick
tf.profiler.experimental.client.trace(sys.argv[1], sys.argv[2], 1500, options=options)
"""


def test_tensorflows_client_traces(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    one = start(f"--model_base_path={models / 'affine'}").wait_until_ready()
    logs = tmp_path / "logs"
    with asked_again_and_again(one, [1.0]):
        command = [sys.executable, "-c", TRACE, f"grpc://127.0.0.1:{one.grpc_port}", logs]
        subprocess.run(command, check=True, timeout=PATIENCE, env=environment(), capture_output=True)
    [written] = logs.glob("plugins/profile/*/*.xplane.pb")
    assert written.name == f"127.0.0.1_{one.grpc_port}.xplane.pb"
    assert "SessionRun" in names_in(written)  # what our requests run in


def test_one_at_a_time_and_an_early_end(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    one = start(f"--model_base_path={models / 'affine'}").wait_until_ready()
    fields = {"repository_root": str(tmp_path / "logs"), "host_name": "here"}
    answers: list[bytes] = []

    def capture(session_id: str, duration_ms: int) -> bool:
        try:
            answers.append(profile(one, "Profile", session_id=session_id, duration_ms=duration_ms, **fields))
        except grpc.RpcError as refused:
            assert refused.code() is grpc.StatusCode.ALREADY_EXISTS, refused
            return False
        return True

    asking = threading.Thread(target=lambda: wait_for("the first capture", lambda: capture("first", 50_000)))
    asking.start()
    wait_for("the first capture to run", lambda: not capture("second", 0))
    answers.clear()
    one.predict("default", [1.0])
    profile(one, "Terminate", session_id="first")
    asking.join(PATIENCE)
    assert not config_protos.from_bytes("ProfileResponse", answers[0]).empty_trace
    assert (tmp_path / "logs" / "first" / "here.xplane.pb").exists()


@pytest.mark.parametrize(
    "changed",
    [{"host_name": "../x"}, {"session_id": ".."}, {"session_id": ""}, {"repository_root": "relative"}],
)
def test_what_it_will_not_write(server: Tfserve, tmp_path: Path, changed: dict[str, str]) -> None:
    fields = {"session_id": "s", "host_name": "h", "repository_root": str(tmp_path), "duration_ms": 1, **changed}
    with pytest.raises(grpc.RpcError) as refused:
        profile(server, "Profile", **fields)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert list(tmp_path.iterdir()) == []


def test_it_asks_for_the_bearer_and_can_be_left_out(
    start: Callable[..., Tfserve], models: Path, tmp_path: Path
) -> None:
    hashes = tmp_path / "hashes"
    hashes.write_text(hashlib.sha256(b"secret").hexdigest())
    base = f"--model_base_path={models / 'affine'}"
    fields = {"session_id": "s", "host_name": "h", "repository_root": str(tmp_path), "duration_ms": 1}
    one = start(base, f"--bearer_hashes_file={hashes}").wait_until_ready()
    with pytest.raises(grpc.RpcError) as refused:
        profile(one, "Profile", **fields)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    profile(one, "Profile", (("authorization", "Bearer secret"),), **fields)
    other = start(base, "--enable_profiler=false").wait_until_ready()
    with pytest.raises(grpc.RpcError) as refused:
        profile(other, "Profile", **fields)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED

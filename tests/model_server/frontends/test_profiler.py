"""TensorFlow's own profiler client against a real `tfserve`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from helpers import PATIENCE, Tfserve, environment, wait_for
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from jupyter_tfserve.model_server import config_protos

#: As TensorFlow's documentation has it. It imports TensorFlow, and may end badly in a process that has done so already.
TRACE = "import sys, tensorflow as tf; tf.profiler.experimental.client.trace(sys.argv[1], sys.argv[2], 1500)"


@contextmanager
def load(one: Tfserve) -> Iterator[None]:
    """Requests, one after the other."""
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            one.predict("default", [1.0])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        end.set()
        asking.join()


def profile(one: Tfserve, name: str, metadata: tuple[tuple[str, str], ...] = (), **fields: object) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel:
        call = channel.unary_unary(f"/tensorflow.ProfilerService/{name}")
        request = config_protos.to_bytes("ProfileRequest" if name == "Profile" else "TerminateRequest", **fields)
        answer: bytes = call(request, timeout=PATIENCE, metadata=metadata)
        return answer


def test_tensorflows_client_traces(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    one = start(f"--model_base_path={models / 'affine'}").wait_until_ready()
    logs = tmp_path / "logs"
    with load(one):
        command = [sys.executable, "-c", TRACE, f"grpc://127.0.0.1:{one.grpc_port}", logs]
        subprocess.run(command, check=True, timeout=PATIENCE, env=environment(), capture_output=True)
    [written] = logs.glob("plugins/profile/*/*.xplane.pb")
    assert written.name == f"127.0.0.1_{one.grpc_port}.xplane.pb"
    space = xplane_pb2.XSpace.FromString(written.read_bytes())
    names = {entry.name for plane in space.planes for entry in plane.event_metadata.values()}
    assert any("AddV2" in name for name in names), sorted(names)[:100]


def test_one_at_a_time_and_an_early_end(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    one = start(f"--model_base_path={models / 'affine'}").wait_until_ready()
    fields = {"duration_ms": 50_000, "repository_root": str(tmp_path / "logs"), "host_name": "here"}
    answers: list[bytes] = []
    asking = threading.Thread(target=lambda: answers.append(profile(one, "Profile", session_id="first", **fields)))
    asking.start()

    def busy() -> bool:
        try:
            profile(one, "Profile", session_id="second", **{**fields, "duration_ms": 0})
        except grpc.RpcError as refused:
            assert refused.code() is grpc.StatusCode.ALREADY_EXISTS, refused
            return True
        return False

    wait_for("the first capture to run", busy)
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

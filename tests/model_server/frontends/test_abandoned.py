"""Requests that nobody waits for any more are not run: the deadline passed, or the client went away, while they waited
for a thread.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from helpers import PATIENCE, Tfserve, wait_for
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


@pytest.fixture
def one(start: Callable[..., Tfserve], models: Path) -> Tfserve:
    """With one thread for each protocol."""
    return start(
        f"--model_base_path={models / 'gated'}",
        "--rest_api_num_threads=1",
        "--grpc_max_threads=1",
        "--rest_api_timeout_in_ms=20000",
    ).wait_until_ready()


@contextmanager
def occupied(ask: Callable[[Path], object], folder: Path) -> Iterator[None]:
    """A first request holds the thread inside the block."""
    gate = folder / "first"
    asking = threading.Thread(target=ask, args=(gate,))
    asking.start()
    wait_for("the first request to run", Path(f"{gate}.waits").exists)
    try:
        yield
    finally:
        gate.touch()
        asking.join(PATIENCE)


def test_rest_client_went_away(one: Tfserve, tmp_path: Path) -> None:
    def ask(gate: Path) -> object:
        return one.call("POST", "/v1/models/default:predict", {"inputs": str(gate)})

    body = b'{"inputs": "%s"}' % str(tmp_path / "second").encode()
    with occupied(ask, tmp_path):
        with socket.create_connection(("127.0.0.1", one.rest_port), PATIENCE) as connection:
            connection.sendall(b"POST /v1/models/default:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body))
            connection.sendall(body)
            # Answered by the event loop itself: what came before has been read.
            assert one.call("GET", "/healthz").status == 200
        time.sleep(1)  # it counts as gone once it has waited for a while
    (tmp_path / "third").touch()
    assert ask(tmp_path / "third").status == 200  # type: ignore[attr-defined]
    assert not (tmp_path / "second.waits").exists()


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
def test_grpc_client_went_away(one: Tfserve, tmp_path: Path, how: str) -> None:
    def request(gate: Path) -> predict_pb2.PredictRequest:
        message = predict_pb2.PredictRequest()
        message.model_spec.name = "default"
        message.inputs["gate"].CopyFrom(tf.make_tensor_proto(str(gate)))
        return message

    with grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        other = model_service_pb2_grpc.ModelServiceStub(channel)

        def wait_until_read() -> None:
            """What was sent on the connection before has been read: an answer that takes no thread of the model has."""
            asked = get_model_status_pb2.GetModelStatusRequest()
            asked.model_spec.name = "another"
            with pytest.raises(grpc.RpcError) as refused:
                other.GetModelStatus(asked, timeout=PATIENCE)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND

        with occupied(lambda gate: stub.Predict(request(gate), timeout=PATIENCE), tmp_path):
            call = stub.Predict.future(request(tmp_path / "second"), timeout=1 if how == "deadline" else PATIENCE)
            if how == "cancelled":
                wait_until_read()  # an earlier cancel would never reach the server
                call.cancel()
                wait_until_read()
            else:
                assert call.exception(PATIENCE).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        (tmp_path / "third").touch()
        stub.Predict(request(tmp_path / "third"), timeout=PATIENCE)
    assert not (tmp_path / "second.waits").exists()


def test_a_run_is_stopped_by_its_deadline(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    one = start(f"--model_base_path={models / 'gated'}", "--rest_api_timeout_in_ms=700").wait_until_ready()
    began = time.monotonic()
    answer = one.call("POST", "/v1/models/default:predict", {"inputs": str(tmp_path / "never")})
    assert answer.status == 504, answer
    assert time.monotonic() - began < 15  # the model itself would give up after 30

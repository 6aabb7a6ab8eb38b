"""Requests whose client goes away on the way through a front: the worker is told, and does not run those that wait."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from fronts import Front
from helpers import PATIENCE, wait_for
from tensorflow_serving.apis import predict_pb2


def by_rest(front: Front, gate: Path) -> Callable[[], None]:
    """Ask; returns what goes away without an answer."""
    body = b'{"inputs": "%s"}' % str(gate).encode()
    connection = socket.create_connection(("127.0.0.1", front.rest_port), PATIENCE)
    connection.sendall(b"POST /v1/models/gated:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return connection.close


def by_grpc(front: Front, gate: Path) -> Callable[[], None]:
    """The same over gRPC."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "gated"
    request.inputs["gate"].CopyFrom(tf.make_tensor_proto(str(gate)))
    return front.stub.Predict.future(request, timeout=PATIENCE).cancel  # type: ignore[no-any-return]


@pytest.mark.parametrize("ask", [by_rest, by_grpc])
def test_the_client_went_away(ask: Callable[[Front, Path], Callable[[], None]], models: Path, tmp_path: Path) -> None:
    # One thread: what comes second waits for what runs.
    front = Front(tmp_path, "--workers=always", "--rest_api_num_threads=1", "--grpc_max_threads=1")
    try:
        front.wait_until_ready()
        for name in ("gated", "affine"):
            front.register(models / name / "1", name, 1)

        def in_flight(count: int) -> None:
            wait_for(f"{count} in flight", lambda: front.status("gated")["versions"][0]["in_flight"] == count)

        def send(gate: Path) -> None:
            front.call("POST", "/v1/models/gated:predict", {"inputs": str(gate)})

        first = threading.Thread(target=send, args=(tmp_path / "first",))
        first.start()
        wait_for("the first request to run", (tmp_path / "first.waits").exists)
        leave = ask(front, tmp_path / "second")
        in_flight(2)
        leave()
        in_flight(1)
        for _ in range(2):  # the worker that answers has read what came before
            assert front.predict("affine", [1.0]) == [2.0]
        (tmp_path / "first").touch()
        first.join(PATIENCE)
        (tmp_path / "third").touch()
        send(tmp_path / "third")
        assert not (tmp_path / "second.waits").exists()
        in_flight(0)
    finally:
        front.close()

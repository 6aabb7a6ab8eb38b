"""Servers with workers, for tests: real processes, on devices that are the CPU and have names of their own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from helpers import PATIENCE, StoreServer, wait_for
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

#: So that what moves can be tried where there is no GPU.
SIMULATED = {"TFSERVE_SIMULATED_DEVICES": "cpu:1,cpu:2"}


class Front(StoreServer):
    """A front on a store."""

    def __init__(self, folder: Path, *flags: str, **more: Any) -> None:
        flags = flags or ("--isolation=device",)
        super().__init__(folder, *flags, "--max_num_load_retries=0", variables=SIMULATED, **more)
        self._channel: grpc.Channel | None = None

    @property
    def stub(self) -> prediction_service_pb2_grpc.PredictionServiceStub:
        """TensorFlow Serving's own client."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        return prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def workers(self) -> dict[str, dict[str, Any]]:
        """The worker processes by name."""
        with self.client() as client:
            return {p["id"]: dict(p) for p in client.state()["processes"] if p["id"] != "server"}

    def wait_workers(self, *names: str) -> dict[str, dict[str, Any]]:
        """Wait until just these run."""

        def settled() -> dict[str, dict[str, Any]]:
            there = self.workers()
            return there if {n for n, p in there.items() if p["state"] == "running"} == set(names) else {}

        return wait_for(f"the workers {names}", settled) if names else {}

    def status(self, model: str) -> Any:
        """A model's status."""
        with self.client() as client:
            return client.model(model)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        super().close()


class Load:
    """Requests for an `affine` model, over REST and gRPC, one after the other each, and how they were answered."""

    def __init__(self, front: StoreServer, model: str, offset: float, threads: int = 2) -> None:
        self._front = front
        self._model = model
        self._offset = offset
        self._end = threading.Event()
        self.outcomes: Counter[str] = Counter()  #: "OK", "UNAVAILABLE" for a refusal that says so, else what was wrong
        self.seconds: list[float] = []  #: that each answer took
        self._threads = [
            threading.Thread(target=ask) for _ in range(threads) for ask in (self._ask_by_rest, self._ask_by_grpc)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def wait_more(self, count: int) -> None:
        """Until so many more requests have been answered."""
        enough = self.outcomes.total() + count
        wait_for(f"{count} more answers", lambda: self.outcomes.total() >= enough)

    def _ask_by_rest(self) -> None:
        while not self._end.is_set():
            with self._counted():
                answer = self._front.call("POST", f"/v1/models/{self._model}:predict", {"instances": [1.0]})
                if answer.status == 200:
                    assert answer.json == {"predictions": [1.0 + self._offset]}, answer
                else:
                    assert answer.status == 503 and answer.headers["retry-after"], answer
                    raise _RefusedError

    def _ask_by_grpc(self) -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0], tf.float32))
        with grpc.insecure_channel(f"127.0.0.1:{self._front.grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not self._end.is_set():
                with self._counted():
                    try:
                        reply = stub.Predict(request, timeout=PATIENCE)
                    except grpc.RpcError as error:
                        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
                        raise _RefusedError from None
                    assert list(reply.outputs["y"].float_val) == [1.0 + self._offset], reply

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
            self.outcomes["OK"] += 1
            self.seconds.append(time.monotonic() - began)
        except _RefusedError:
            self.outcomes["UNAVAILABLE"] += 1
            time.sleep(0.01)
        except Exception as error:
            self.outcomes[f"{type(error).__name__}: {error}"] += 1


class _RefusedError(Exception):
    """UNAVAILABLE, 503: the caller may come again."""

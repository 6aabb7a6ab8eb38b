"""More requests than a model can take: some are refused, the others are answered, and other models do not notice."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from helpers import StoreServer
from load import Load
from make_models import SLOW_SECONDS
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc, regression_pb2

#: Seconds that a fast model's requests may take beside a slow one that is asked for more than it can do: 99 of 100.
#: Alone they take 1 ms; when slow requests held their threads, it was 3.4 s.
NOTICED = 0.15

LARGE = b" " * 200_000
ONE = {"instances": [1.0]}
EXAMPLE = {"signature_name": "regress", "examples": [{"a": 1.0}]}


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A server with slow and fast models, whose requests are merged as under Jupyter."""
    server = StoreServer(tmp_path_factory.mktemp("overload"), "--auto_batching")
    try:
        server.wait_until_ready()
        for name in ("slow", "affine", "examples", "probed"):
            server.register(models / name / "1", name, 1)
        yield server
    finally:
        server.close()


@pytest.fixture
def grpc_stub(served: StoreServer) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


class GrpcRegressions(threading.Thread):
    """Asks the slow model for regressions, 20 at a time."""

    def __init__(self, stub: Any) -> None:
        super().__init__()
        self._stub = stub
        self._end = threading.Event()
        self.answered = 0

    def run(self) -> None:
        request = regression_request("slow")
        while not self._end.is_set():
            for call in [self._stub.Regress.future(request, timeout=30) for _ in range(20)]:
                assert call.result().result.regressions[0].value == 1.0
                self.answered += 1

    def __enter__(self) -> GrpcRegressions:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end.set()
        self.join()


def regression_request(model: str) -> regression_pb2.RegressionRequest:
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = model, "regress"
    feature = request.input.example_list.examples.add().features.feature["a"]
    feature.float_list.value.append(1.0)
    return request


def slow_load(kind: str, served: StoreServer, stub: Any) -> Any:
    """The slow model with more to do than it can, in one of the ways to ask it."""
    verb = {"predict": "predict", "large": "predict", "regress": "regress"}.get(kind)
    if verb is None:
        return GrpcRegressions(stub)
    body = {"predict": json.dumps(ONE).encode(), "large": json.dumps(ONE).encode() + LARGE}.get(kind, EXAMPLE)
    return Load(served.rest_port, f"/v1/models/slow:{verb}", body, clients=20)


@pytest.mark.parametrize("kind", ["predict", "large", "regress", "grpc"])
def test_a_slow_model_does_not_starve_a_fast_one(served: StoreServer, grpc_stub: Any, kind: str) -> None:
    fast: dict[str, Callable[[], object]] = {
        "quick": lambda: served.predict("affine", [1.0]),
        "with a loop": lambda: served.call(
            "POST", "/v1/models/probed:predict", {"signature_name": "looped", "instances": [1.0]}
        ),
        "large": lambda: served.call("POST", "/v1/models/affine:predict", json.dumps(ONE).encode() + LARGE),
        "regress": lambda: served.call("POST", "/v1/models/examples:regress", EXAMPLE),
        "gRPC": lambda: grpc_stub.Regress(regression_request("examples"), timeout=30),
    }
    for ask in fast.values():
        ask()
    with slow_load(kind, served, grpc_stub) as load:
        time.sleep(3 * SLOW_SECONDS)  # until more waits than there are threads
        for what, ask in fast.items():
            took = []
            end = time.monotonic() + 0.8
            while time.monotonic() < end:
                began = time.monotonic()
                ask()
                took.append(time.monotonic() - began)
                time.sleep(0.005)
            assert len(took) > 3, what
            assert sorted(took)[int(len(took) * 0.99)] < NOTICED, f"{what}: {max(took)}"
    assert getattr(load, "answered", 0) or load.outcome.answered
    if isinstance(load, Load):
        assert not load.outcome.lost


def test_what_waits_is_bounded_also_where_nothing_is_merged(served: StoreServer, grpc_stub: Any) -> None:
    with served.client() as client:
        client.set_batching("slow", {"mode": "off", "max_enqueued_batches": 1})
        try:
            with Load(served.rest_port, "/v1/models/slow:predict", ONE, clients=130) as load:
                load.wait(10)
                full = predict_pb2.PredictRequest()
                full.model_spec.name = "slow"
                full.inputs["x"].dtype = 1
                full.inputs["x"].tensor_shape.dim.add(size=1)
                full.inputs["x"].float_val.append(1.0)
                refused = refusal(lambda: grpc_stub.Predict(full, timeout=30))
        finally:
            client.set_batching("slow", {"mode": None, "max_enqueued_batches": None})
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    assert ("retry-after", "1") in [tuple(one) for one in refused.trailing_metadata()]
    assert not load.outcome.lost
    assert load.outcome.refused.total() > 0
    [text] = load.outcome.refused
    assert text == (
        "503 The batch scheduling queue to which this task was submitted is full Try again in a moment; "
        "max_enqueued_batches says how much may wait."
    )


def refusal(ask: Callable[[], object]) -> Any:
    """What a call ends with that is asked until it is refused."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            ask()
        except grpc.RpcError as error:
            return error
    raise AssertionError("it was never refused")

"""Requests that come in one burst, over REST and gRPC, are run as one, and each gets what it would get alone."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from helpers import PATIENCE, StoreServer, converse, replies, wait_for
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from jupyter_tfserve.client import Client

CLOSE = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module", params=["--auto_batching", "--enable_batching"])
def merging(request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    server = StoreServer(tmp_path_factory.mktemp("merging"), request.param)
    try:
        server.wait_until_ready()
        for name in ("affine", "limited", "several", "chain"):
            server.register(models / name / "1", name, 1)
        server.register(models / "affine" / "2", "affine", 2, policy={"all": {}}, labels={"two": 2})
        yield server
    finally:
        server.close()


def request(body: bytes | str, path: str = "affine", *headers: str) -> bytes:
    body = body.encode() if isinstance(body, str) else body
    lines = [f"POST /v1/models/{path}:predict HTTP/1.1", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def burst(server: StoreServer, requests: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """The answers to requests that the server reads in one piece."""
    answers = replies(converse(server.rest_port, b"".join([*requests, CLOSE])), ["POST"] * len(requests) + ["GET"])
    return [(answer.status, answer.body) for answer in answers[:-1]]


def quick(server: StoreServer, *models: str) -> None:
    """A signature runs in the frontend's thread once it was seen to be quick."""
    for model in models:
        width = 64 if model == "chain" else 0
        body = json.dumps({"instances": [[0.5] * width if width else 0.5]})
        for _ in range(5):
            assert burst(server, [request(body, model)])[0][0] == 200


def states(client: Client) -> dict[int, str]:
    """What has become of the versions of affine."""
    return {version["version"]: version["state"] for version in client.model("affine")["versions"]}


def sizes(server: StoreServer, model: str) -> dict[str, int]:
    """Runs by their rows."""
    with server.client() as client:
        found: dict[str, int] = {}
        for sample in client.stats()["samples"].get(model, []):
            for size, runs in (sample or {"batch_sizes": {}})["batch_sizes"].items():
                found[size] = found.get(size, 0) + int(runs)
        return found


def test_a_burst_is_one_run(merging: StoreServer) -> None:
    quick(merging, "affine")
    bodies = [json.dumps({"instances": [float(n)] * (1 + n % 2)}) for n in range(16)]
    answers = burst(merging, [request(body) for body in bodies])
    assert [json.loads(body)["predictions"] for _, body in answers] == [[n + 2.0] * (1 + n % 2) for n in range(16)]
    wait_for("a run of 24 rows to be counted", lambda: sizes(merging, "affine").get("32"))


BODIES = [
    '{"instances": [1.5]}',
    '{"instances": [2, 3]}',
    '{"instances":[4e0]}',
    '{"instances": [ 5 ] }',
    '{"instances": [[6.5]]}',
    '{"instances": [[1, 2]]}',
    '{"instances": [[1, 2], [3, 4]]}',
    '{"instances": [[[1, 2]]]}',
    '{"inputs": [7, 8]}',
    '{"inputs": 9}',
    '{"inputs": {"x": [7]}}',
    '{"signature_name": "serving_default", "instances": [10]}',
    '{"signature_name": "nosuch", "instances": [10]}',
    '{"instances": [{"x": 11}]}',
    '{"instances": []}',
    '{"instances": [[]]}',
    '{"instances": [200]}',
    '{"instances": [1, 200]}',
    '{"instances": [[1], [2, 3]]}',
    '{"instances": ["x"]}',
    '{"instances": [true]}',
    '{"instances": [null]}',
    '{"instances": [{}]}',
    '{"instances": [NaN]}',
    '{"instances": [1e999]}',
    '{"instances": [1e39]}',
    '{"instances": 5, [1]}',
    '{"instances": [1}',
    '{"instances": 2]}',
    '{"instances": [1], [2]}',
    '{"instances": ], [}',
    '{"instances": [1]} ',
    '{"instances": [1]}}',
    '{"instances": [1]}, {"instances": [2]}',
    '{"instances": \x0c[1]}',
    '{"instances": [1,]}',
    '{"instances": [,1]}',
    '{"instances": [1 2]}',
    '{"instances": [' + ", ".join(["0.25"] * 300) + "]}",
    '{"instances": [' + ", ".join(["0.25"] * 30000) + "]}",
    "{}",
    "",
    "[1]",
]


def test_each_gets_what_it_would_get_alone(merging: StoreServer) -> None:
    """Whoever its neighbours are: also those whose bodies would be something else with a neighbour's."""
    paths = ("affine", "limited", "affine/versions/2", "affine/labels/two", "nosuch")
    quick(merging, "affine", "limited")
    alone = {(path, body): burst(merging, [request(body, path)])[0] for path in paths for body in BODIES}
    assert {status for status, _ in alone.values()} == {200, 400, 404}
    rng = random.Random(5)
    for _ in range(120):
        asked = [(rng.choice(paths[:2] if rng.random() < 0.9 else paths), rng.choice(BODIES)) for _ in range(12)]
        if rng.random() < 0.5:
            asked = [(asked[0][0], body if rng.random() < 0.3 else BODIES[0]) for _, body in asked]
        answers = burst(merging, [request(body, path) for path, body in asked])
        assert answers == [alone[one] for one in asked], asked


def test_the_error_of_one_is_not_its_neighbours(merging: StoreServer) -> None:
    quick(merging, "limited")
    bodies = ['{"instances": [1]}', '{"instances": [100]}', '{"instances": [2]}', '{"instances": [3, 300]}']
    answers = burst(merging, [request(body, "limited") for body in bodies])
    assert [status for status, _ in answers] == [200, 400, 200, 400]
    assert json.loads(answers[2][1]) == {"predictions": [3.0]}
    assert b"x is too large" in answers[3][1]


def test_what_differs_in_its_headers_meets(merging: StoreServer) -> None:
    quick(merging, "chain")
    rows = [[[0.001 * (n + 1)] * 64 for _ in range(1 + n % 3)] for n in range(9)]
    before = sum(sizes(merging, "chain").values())
    answers = burst(
        merging, [request(json.dumps({"instances": row}), "chain", f"X-Number: {n}") for n, row in enumerate(rows)]
    )
    assert [len(json.loads(body)["predictions"]) for _, body in answers] == [len(row) for row in rows]
    wait_for("the runs to be counted", lambda: sum(sizes(merging, "chain").values()) > before)
    assert sum(sizes(merging, "chain").values()) - before < len(rows)


def test_a_client_that_went_away_takes_nobody_along(merging: StoreServer) -> None:
    quick(merging, "affine")
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", merging.rest_port), PATIENCE) as gone:
            gone.sendall(request('{"instances": [1]}') * 5)
        assert burst(merging, [request('{"instances": [2]}')]) == [(200, b'{\n    "predictions": [4.0]\n}')]
    with merging.client() as client:
        client.register("affine", {"policy": {"specific": {"versions": [2]}}})  # what was held is released
        wait_for("version 1 to be unloaded", lambda: states(client)[1] == "END")
        client.register("affine", {"policy": {"all": {}}})
        client.model("affine", wait=1, timeout=PATIENCE)


# gRPC.


def message(
    values: Any, model: str = "affine", dtype: Any = np.float32, name: str = "x", typed: bool = False, **spec: Any
) -> predict_pb2.PredictRequest:
    array = np.array(values, dtype)
    made = predict_pb2.PredictRequest()
    made.model_spec.name = model
    made.model_spec.signature_name = spec.get("signature", "")
    if "version" in spec:
        made.model_spec.version.value = spec["version"]
    made.output_filter.extend(spec.get("output_filter", []))
    if typed:
        tensor = made.inputs[name]
        tensor.dtype = tf.as_dtype(array.dtype).as_datatype_enum
        for size in array.shape:
            tensor.tensor_shape.dim.add().size = size
        tensor.float_val.extend(array.ravel().tolist())
    else:
        made.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    return made


@pytest.fixture
def stub(merging: StoreServer) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{merging.grpc_port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def outcomes(stub: Any, messages: Sequence[predict_pb2.PredictRequest]) -> list[Any]:
    """What becomes of calls that are made at once."""
    found: list[Any] = []
    for call in [stub.Predict.future(one, timeout=PATIENCE) for one in messages]:
        try:
            found.append(call.result())
        except grpc.RpcError as error:
            found.append((error.code(), error.details()))
    return found


MESSAGES = [
    message([1.5]),
    message([2.5]),
    message([1.5, 2.5]),
    message([[1.5]]),
    message([1.5], typed=True),
    message([2.5], typed=True),
    message([3.5, 4.5], typed=True),
    message([0.0, 0.0]),
    message([[0.0, 0.0], [1.0, 2.0]]),
    message([1.5], version=2),
    message([1.5], version=9),
    message([1.5], signature="serving_default"),
    message([1.5], signature="nosuch"),
    message([1.5], output_filter=["y"]),
    message([1.5], output_filter=["nosuch"]),
    message([1.5], name="nosuch"),
    message([1.5], dtype=np.float64),
    message([1], dtype=np.int32),
    message(["a"], dtype=object),
    message(1.5),
    message([]),
    message([1.5], "limited"),
    message([200.0], "limited"),
    message([300.0], "limited", typed=True),
    message([1.5], "nosuch"),
    message([0.5] * 64, "chain"),
    message([[0.5] * 64], "chain"),
    message([[0.25] * 64] * 3, "chain"),
    message(np.zeros([100, 64]), "chain"),
]


def test_each_call_gets_what_it_would_get_alone(merging: StoreServer, stub: Any) -> None:
    for _ in range(5):
        outcomes(stub, [message([1.0]), message([1.0], "limited"), message([[0.5] * 64], "chain")])
    alone = [outcomes(stub, [one])[0] for one in MESSAGES]
    again = [outcomes(stub, [one])[0] for one in MESSAGES]
    assert again == alone  # with the frames known
    rng = random.Random(3)
    for _ in range(40):
        asked = [rng.randrange(len(MESSAGES)) for _ in range(24)]
        if rng.random() < 0.5:
            asked = [asked[0] if rng.random() < 0.7 else place for place in asked]
        answers = outcomes(stub, [MESSAGES[place] for place in asked])
        for place, answer in zip(asked, answers, strict=True):
            assert answer == alone[place], MESSAGES[place]


def test_calls_of_a_burst_are_one_run(merging: StoreServer, stub: Any) -> None:
    for _ in range(5):
        outcomes(stub, [message([[0.5] * 64], "chain")])

    def is_merged() -> bool:
        found = outcomes(stub, [message([[number / 100] * 64], "chain") for number in range(32)])
        assert all(one.outputs["y"].tensor_shape.dim[0].size == 1 for one in found)
        return any(int(size) > 1 for size in sizes(merging, "chain"))

    wait_for("calls to be run together", is_merged)


def test_a_call_that_is_cancelled_takes_nobody_along(merging: StoreServer, stub: Any) -> None:
    for _ in range(20):
        calls = [stub.Predict.future(message([float(number)]), timeout=PATIENCE) for number in range(8)]
        for call in calls[::2]:
            call.cancel()
        for number, call in list(enumerate(calls))[1::2]:
            assert tf.make_ndarray(call.result().outputs["y"]).tolist() == [number + 2.0]
    with merging.client() as client:
        client.register("affine", {"policy": {"specific": {"versions": [1]}}})  # what was held is released
        wait_for("version 2 to be unloaded", lambda: states(client)[2] == "END")
        client.register("affine", {"policy": {"all": {}}})
        client.model("affine", wait=2, timeout=PATIENCE)

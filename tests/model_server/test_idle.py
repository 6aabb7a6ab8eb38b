"""`--unload_idle_seconds`: versions leave memory when nobody asks them, or where another one needs the room, and the
requests that come then wait for them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from helpers import PATIENCE, StoreServer, publish, wait_for
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    """One in which versions are idle soon."""
    one = StoreServer(tmp_path, "--unload_idle_seconds=0.5", "--auto_batching")
    one.wait_until_ready()
    yield one
    one.close()


def version(server: StoreServer, name: str) -> Any:
    with server.client() as client:
        return client.model(name)["versions"][0]


def wait_idle(server: StoreServer, name: str) -> None:
    wait_for(f"{name} to be idle", lambda: version(server, name)["idle"])


def by_grpc(server: StoreServer, name: str) -> list[float]:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        reply = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=PATIENCE)
    return list(tf.make_ndarray(reply.outputs["y"]).tolist())


def test_idle_versions_come_back(server: StoreServer, models: Path) -> None:
    server.register(models / "affine" / "1", "affine", 1)
    for _ in range(20):  # until its runs are known to be quick: the next one is not to hold up the event loop
        assert server.predict("affine", [1.0]) == [2.0]
    for ask in (lambda: server.predict("affine", [1.0]), lambda: by_grpc(server, "affine")):
        wait_idle(server, "affine")
        told = version(server, "affine")
        assert (told["state"], told["memory"]) == ("AVAILABLE", None)
        assert server.states("affine") == {1: "AVAILABLE"}
        assert server.call("GET", "/v1/models/affine/metadata").status == 200
        assert version(server, "affine")["idle"]  # to be told about wakes nobody
        assert ask() == [2.0]
    text = server.said()
    assert "Version 1 of affine is idle and has left memory" in text
    assert "Version 1 of affine is asked again" in text


def test_one_load_for_all_that_wait(server: StoreServer, models: Path) -> None:
    server.register(models / "affine" / "1", "affine", 1)
    wait_idle(server, "affine")
    before = server.said().count("is asked again")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: server.predict("affine", [1.0]), range(8)))
    assert found == [[2.0]] * 8
    assert server.said().count("is asked again") == before + 1


def test_a_new_version_takes_over_from_an_idle_one(server: StoreServer, models: Path) -> None:
    server.register(models / "affine" / "1", "affine", 1)
    wait_idle(server, "affine")
    server.register(models / "affine" / "2", "affine", 2)
    assert server.predict("affine", [1.0]) == [3.0]
    server.wait_available("affine", 2)
    wait_for("the old one to be gone", lambda: server.states("affine").get(1) in (None, "END"))


def test_one_that_cannot_come_back_says_why(server: StoreServer, models: Path) -> None:
    server.register(models / "affine" / "1", "affine", 1)
    wait_idle(server, "affine")
    graph = server.store / "affine" / "1" / "saved_model.pb"
    moved = graph.rename(server.store / "kept.pb")
    answer = server.call("POST", "/v1/models/affine:predict", {"instances": [1.0]})
    assert answer.status == 404 and "Could not find SavedModel" in answer.json["error"], answer
    shutil.move(moved, graph)
    assert server.predict("affine", [1.0]) == [2.0]


def test_the_one_that_was_asked_the_longest_ago_makes_room(models: Path, tmp_path: Path) -> None:
    server = StoreServer(tmp_path, "--unload_idle_seconds=1000", "--memory_budget_mb=150", "--max_num_load_retries=0")
    try:
        server.wait_until_ready()
        server.register(models / "large" / "1", "first", 1)
        server.register(models / "large" / "1", "second", 1)
        assert server.predict("first", [1.0]) == [2.0]
        publish(models / "large" / "1", server.store / "third", 1)
        server.register(models / "large" / "1", "fourth", 1)
        with server.client() as client:
            client.register("third", {})
            [third] = client.model("third", wait=1, timeout=PATIENCE)["versions"]
        assert third["state"] == "AVAILABLE", third
        assert version(server, "second")["idle"]
        for name in ("first", "second", "third", "fourth"):
            assert server.predict(name, [1.0]) == [2.0]
    finally:
        server.close()

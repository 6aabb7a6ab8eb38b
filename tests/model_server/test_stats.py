"""What the models did in each of the last seconds."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from helpers import StoreServer, publish, wait_for

from jupyter_tfserve import api
from jupyter_tfserve.client import Client, TFServeError
from jupyter_tfserve.model_server import metrics
from jupyter_tfserve.model_server.stats import KEPT, Sampler


class Load(threading.Thread):
    """Requests, one after the other, until the block ends."""

    def __init__(self, server: StoreServer, model: str, body: object) -> None:
        super().__init__()
        self._server, self._model, self._body = server, model, body
        self._end = threading.Event()
        self.sent = self.refused = 0

    def run(self) -> None:
        with self._server.client() as client:
            while not self._end.is_set():
                try:
                    client.predict(self._model, self._body)
                except TFServeError:
                    self.refused += 1
                self.sent += 1

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self.join()


def own(server: StoreServer, models: Path, name: str) -> str:
    """A model that just one test uses."""
    server.register(models / "affine" / "1", name, 1)
    return name


def samples(client: Client, name: str) -> list[api.Sample]:
    return [sample for sample in client.stats()["samples"].get(name, []) if sample is not None]


def test_every_request_is_in_one_sample(server: StoreServer, models: Path) -> None:
    name = own(server, models, "sampled")
    with server.client() as client:
        client.set_batching(name, {"mode": "on"})
        events = client.events(stats=True)
        with Load(server, name, {"instances": [1.0, 2.0, 3.0]}) as load:
            live = [event for _, event in zip(range(3), (e for e in events if e["type"] == "stats"), strict=False)]
        events.close()

        def all_there() -> bool:
            return sum(sample["requests"] for sample in samples(client, name)) >= load.sent

        wait_for("the last second", all_there, 5)
        found = samples(client, name)
        history = client.stats()
    assert sum(sample["requests"] for sample in found) == load.sent
    assert sum(sum(sample["batch_sizes"].values()) for sample in found) == load.sent
    busy = max(found, key=lambda sample: sample["requests"])
    assert busy["errors"] == 0
    assert busy["p50_ms"] is not None and busy["p99_ms"] is not None and busy["queue_ms"] is not None
    assert 0 < busy["p50_ms"] <= busy["p99_ms"] < 1000
    assert busy["queue_ms"] < busy["p99_ms"]
    assert list(busy["batch_sizes"]) == ["1", "2", "4"] and busy["batch_sizes"]["1"] == busy["batch_sizes"]["2"] == 0
    assert [len(values) for values in history["samples"].values()] == [KEPT] * len(history["samples"])
    assert 0.8 < live[2]["time"] - live[1]["time"] < 1.9
    assert live[2]["samples"][name] in found


def test_errors_are_counted_apart(server: StoreServer, models: Path) -> None:
    name = own(server, models, "refusing")
    with server.client() as client:
        with Load(server, name, {"instances": ["no number"]}) as load:
            wait_for("some refusals", lambda: load.refused > 10)

        def all_there() -> bool:
            return sum(sample["requests"] for sample in samples(client, name)) >= load.sent

        wait_for("the last second", all_there, 5)
        found = samples(client, name)
    assert sum(sample["errors"] for sample in found) == sum(sample["requests"] for sample in found) == load.refused
    assert {(sample["p50_ms"], sample["queue_ms"]) for sample in found} == {(None, None)}


def test_who_waits_is_seen(server: StoreServer, models: Path, tmp_path: Path) -> None:
    """A request in flight is something that happens, though no counter moves."""
    publish(models / "gated" / "1", server.store / "held", 1)
    with server.client() as client:
        client.register("held", {})
        client.model("held", wait=1, timeout=60)
        gate = tmp_path / "gate"
        with server.client() as asking:
            thread = threading.Thread(target=lambda: asking.predict("held", {"inputs": str(gate)}))
            thread.start()
            try:
                wait_for("a sample with it", lambda: any(s["in_flight"] == 1 for s in samples(client, "held")), 10)
            finally:
                gate.touch()
                thread.join()


def test_those_who_did_not_ask_get_no_samples(server: StoreServer, models: Path) -> None:
    name = own(server, models, "unasked")
    with server.client() as client, Load(server, name, {"instances": [1.0]}):
        seen = []

        def listen() -> None:
            for event in client.events():
                seen.append(event)
                if event["type"] == "model":
                    return

        listening = threading.Thread(target=listen)
        listening.start()
        with server.client() as other:
            before = other.stats()["time"]
            wait_for("two samples more", lambda: other.stats()["time"] > before + 1.5, 10)
            other.set_batching(name, {"mode": "off"})
        listening.join(10)
    assert [event["type"] for event in seen] == ["model"]


@pytest.mark.parametrize("seconds", ["0", "121", "-1", "x"])
def test_seconds_are_checked(server: StoreServer, seconds: str) -> None:
    with server.client() as client, pytest.raises(TFServeError) as refused:
        client.stats(seconds)  # type: ignore[arg-type]
    assert refused.value.status == 400


def test_a_second_of_many_models_costs_little() -> None:
    """200 models with five children each: idle and busy, in the thread of the sampler."""
    names = [f"many-{number}" for number in range(200)]
    children = [
        metric.child(*labels)
        for name in names
        for metric, labels in (
            (metrics.REQUEST_LATENCY, (name, "predict", "REST")),
            (metrics.REQUEST_LATENCY, (name, "Predict", "GRPC")),
            (metrics.QUEUE_TIME, (name, "1", "serving_default")),
            (metrics.BATCH_SIZE, (name, "1", "serving_default")),
        )
    ]
    sampler = Sampler(lambda: dict.fromkeys(names, (0, 0)))
    for child in children:
        child.observe_all([100.0] * 50)
    began = time.perf_counter()
    busy = sampler.take()
    busy_took = time.perf_counter() - began
    began = time.perf_counter()
    idle = sampler.take()
    idle_took = time.perf_counter() - began
    assert len(busy) == 200 and idle == {}
    assert busy[names[0]]["requests"] == 100
    assert busy_took < 0.5 and idle_took < 0.05, (busy_took, idle_took)  # measured: 0.03 and 0.001

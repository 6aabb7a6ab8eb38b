"""Batching that is changed while the server serves: at once, for good, or not at all."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import PATIENCE, StoreServer, publish, wait_for

from jupyter_tfserve.api import Batching
from jupyter_tfserve.client import TFServeError

Start = Callable[..., StoreServer]


@pytest.fixture(scope="module")
def one(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """Serves y = x + 1 as m/1; batching as stock: off. Shared: a test that needs to know how it begins says so."""
    server = StoreServer(tmp_path_factory.mktemp("batching"))
    try:
        server.wait_until_ready()
        server.register(models / "affine" / "1", "m", 1)
        yield server
    finally:
        server.close()


def batching(server: StoreServer, name: str = "m", **request: Any) -> Batching:
    """What is in force, after a change if there is one."""
    with server.client() as client:
        status = client.set_batching(name, request) if request else client.model(name)  # type: ignore[arg-type]
    return status["batching"]


def runs(server: StoreServer, version: int = 1) -> tuple[int, int]:
    """How many runs there were with merging on, and their rows."""
    page = server.call("GET", "/monitoring/prometheus/metrics").body.decode()
    labels = re.escape(f'{{model_name="m",version="{version}",signature="serving_default"}}')
    found = [re.search(rf"^jupyter_tfserve_batch_size_{key}{labels} (\S+)$", page, re.M) for key in ("count", "sum")]
    count, rows = (int(float(match[1])) if match else 0 for match in found)
    return count, rows


class Load:
    """Clients that ask all the time; each answer is checked."""

    def __init__(self, server: StoreServer, clients: int = 8) -> None:
        self._server = server
        self._end = threading.Event()
        self.failures: list[object] = []
        self.answers = 0
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.rest_port, timeout=PATIENCE)
        body = json.dumps({"instances": [float(number)]})
        while not self._end.is_set():
            connection.request("POST", "/v1/models/m:predict", body)
            reply = connection.getresponse()
            text = reply.read()
            if reply.status != 200 or json.loads(text) != {"predictions": [number + 1.0]}:
                self.failures.append((reply.status, text))
            self.answers += 1
        connection.close()


def test_knobs_turn_under_load(one: StoreServer) -> None:
    assert batching(one)["mode"] == "off"
    with Load(one) as load:
        wait_for("requests to be answered", lambda: load.answers > 50)
        assert runs(one) == (0, 0), "nothing is merged yet"
        assert batching(one, mode="on", batch_timeout_micros=3000)["signatures"] == {"serving_default": ""}

        def some_were_merged() -> bool:
            count, rows = runs(one)
            return rows > 2 * count > 20

        wait_for("requests to be merged", some_were_merged)
        batching(one, max_batch_size=2, batch_timeout_micros=None, max_enqueued_batches=100)
        before = runs(one)
        wait_for("more runs", lambda: runs(one)[0] > before[0] + 50)
        after = runs(one)
        assert after[1] - before[1] <= 2 * (after[0] - before[0] + 1), "more rows in a run than allowed"
        for mode in ("auto", "off", "on", "off"):
            batching(one, mode=mode)
        answers, ended = load.answers, runs(one)
        wait_for("requests to be answered", lambda: load.answers > answers + 100)
        assert runs(one)[0] <= ended[0] + 8, "what was waiting is run; then nothing is merged"
    assert load.failures == []


def test_a_change_is_for_good(start_store: Start, models: Path) -> None:
    one = start_store()
    one.wait_until_ready()
    one.register(models / "affine" / "1", "m", 1, policy={"all": {}})
    wanted = {"mode": "on", "max_batch_size": 8, "allowed_batch_sizes": [4, 8], "pad_variable_length_inputs": True}
    assert wanted.items() <= batching(one, **wanted).items()
    one.register(models / "affine" / "2", "m", 2)  # loaded later
    assert wanted.items() <= batching(one).items()
    assert one.predict("m", [1.0]) == [3.0]
    assert runs(one, 2) == (1, 4), "one row, padded to an allowed size"
    one.end()
    again = start_store(store=one.store)
    again.wait_until_ready()
    again.wait_available("m", 1, 2)
    assert wanted.items() <= batching(again).items()
    assert batching(again, mode=None, allowed_batch_sizes=None)["mode"] == "off"
    assert json.loads((one.store / "m" / ".batching").read_text()) == {
        "max_batch_size": 8,
        "pad_variable_length_inputs": True,
    }
    with again.client() as client:
        client.unregister("m", files=True)
    again.register(models / "affine" / "1", "m", 1)
    assert batching(again)["max_batch_size"] == 1000, "a removed model takes its settings along"


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"mode": "sometimes"}, "mode is one of on, auto, off"),
        ({"mode": ["on"]}, "mode is one of"),
        ({"max_batch_size": 0}, "max_batch_size must be positive"),
        ({"max_batch_size": True}, "max_batch_size is a whole number"),
        ({"num_batch_threads": 1.5}, "num_batch_threads is a whole number"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros must not be negative"),
        ({"batch_timeout_micros": 10**12}, "up to 2147483647"),
        ({"allowed_batch_sizes": [2, 1]}, "positive and ascending"),
        ({"allowed_batch_sizes": [2, 4]}, "must match max_batch_size"),
        ({"allowed_batch_sizes": "2,4"}, "is a list of whole numbers"),
        ({"pad_variable_length_inputs": 1}, "is true or false"),
        ({"max_execution_batch_size": 4}, "needs enable_large_batch_splitting"),
        ({"max_batch_sise": 4}, "has no 'max_batch_sise'"),
    ],
)
def test_what_cannot_be_is_refused(one: StoreServer, request_: dict[str, Any], said: str) -> None:
    before = batching(one, mode="on", max_batch_size=64)
    with pytest.raises(TFServeError, match=re.escape(said)) as refused:
        batching(one, **{"max_enqueued_batches": 3, **request_})
    assert refused.value.status == 400
    assert batching(one) == before


def test_an_unknown_model(one: StoreServer) -> None:
    with pytest.raises(TFServeError, match="no model 'nobody'") as refused:
        batching(one, "nobody", mode="on")
    assert refused.value.status == 404
    assert not (one.store / "nobody").exists()


def test_auto_at_run_time_probes_what_is_loaded(one: StoreServer, models: Path) -> None:
    one.register(models / "probed" / "1", "probed", 1)
    assert set(batching(one, "probed")["signatures"].values()) == {"batching is off"}
    found = batching(one, "probed", mode="auto")["signatures"]
    assert found["serving_default"] == "" and "depend on each other" in found["mean"]
    assert set(batching(one, "probed", mode="on")["signatures"].values()) == {""}


def test_a_store_that_was_edited_is_no_trouble(one: StoreServer, models: Path) -> None:
    (one.store / "edited").mkdir()
    (one.store / "edited" / ".batching").write_text('{"mode": "on", "max_batch_size": -3}')
    one.register(models / "affine" / "2", "edited", 2)
    assert batching(one, "edited")["mode"] == "off"
    assert "is left out: " in one.said() and "max_batch_size must be positive" in one.said()
    assert batching(one, "edited", max_batch_size=9)["max_batch_size"] == 9


def test_events_tell(one: StoreServer) -> None:
    with one.client() as client, one.client() as changing:
        events = client.events()
        changer = threading.Timer(0.2, lambda: changing.set_batching("m", {"mode": "on"}))
        changer.start()
        event = next(event for event in events if event["type"] == "model")
        changer.join(PATIENCE)
    assert (event["model"], event["state"]) == ("m", "changed")


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (("--auto_batching",), "auto"),
        (("--enable_batching", "--auto_batching"), "on"),
        (("--enable_batching", "--enable_per_model_batching_parameters"), "on"),
    ],
)
def test_the_default(start_store: Start, models: Path, tmp_path: Path, flags: tuple[str, ...], mode: str) -> None:
    server = start_store(*flags)
    server.wait_until_ready()
    folder = publish(models / "affine" / "1", tmp_path / "staged", 1)
    (folder / "batching_params.pbtxt").write_text("max_batch_size { value: 16 }")
    server.register(folder, "m", 1)
    found = batching(server)
    assert (found["mode"], found["max_batch_size"]) == (mode, 16 if "per_model" in " ".join(flags) else 1000)

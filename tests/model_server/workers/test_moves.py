"""Moves between devices, under load: nothing is lost, the old place is given back, a failure changes nothing."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from fronts import Front, Load
from helpers import PATIENCE, publish, wait_for

from jupyter_tfserve.api import Event
from jupyter_tfserve.client import Client, TFServeError


class Events:
    """The events of a server, as they come."""

    def __init__(self, client: Client) -> None:
        self.seen: list[Event] = []
        self._thread = threading.Thread(target=self._listen, args=(client,), daemon=True)
        self._thread.start()

    def _listen(self, client: Client) -> None:
        with contextlib.suppress(TFServeError):  # until the client is closed
            for event in client.events():
                self.seen.append(event)

    def moves(self, model: str) -> list[str]:
        """The states of the moves of a model."""
        return [event["state"] for event in self.seen if event["type"] == "move" and event["model"] == model]


def test_a_move_under_load(front: Front, models: Path) -> None:
    front.register(models / "affine" / "2", "moving", 2, placement={"device": "cpu:1"})
    there = front.wait_workers("cpu", "cpu:1")
    old = psutil.Process(there["cpu:1"]["pid"])
    assert old.memory_info().rss > 100e6
    with front.client() as client, front.client() as listener:
        events = Events(listener)
        wait_for("the stream", lambda: client.set_batching("moving", {"mode": "auto"}) and events.seen)
        with Load(front, "moving", 2.0) as load:
            load.wait_more(50)
            status = client.set_device("moving", {"device": "cpu:2"}, timeout=PATIENCE)
            load.wait_more(50)
        wait_for("the end of the move", lambda: events.moves("moving")[-1:] == ["done"])
    assert set(load.outcomes) == {"OK"}, load.outcomes
    assert status["placement"]["device"] == "cpu:2" and not status["placement"]["moving_to"]
    assert [version["devices"] for version in status["versions"]] == [["cpu:2"]]
    assert events.moves("moving") == ["loading", "switched", "draining", "done"]
    # The worker held nothing any more: it has ended, and its memory is free.
    front.wait_workers("cpu", "cpu:2")
    wait_for("the old worker's end", lambda: not old.is_running())
    assert json.loads((front.store / "moving" / ".device").read_text())["device"] == "cpu:2"


def test_a_move_answers_when_it_has_begun(front: Front, models: Path) -> None:
    front.register(models / "affine" / "1", "begun", 1)
    with front.client() as client:
        status = client.set_device("begun", {"device": "cpu:1"})
        assert status["placement"]["moving_to"] == "cpu:1"
        assert [version["devices"] for version in status["versions"]] == [["cpu"]]
        with pytest.raises(TFServeError, match="moving to cpu:1 just now") as refused:
            client.set_device("begun", {"device": "cpu:2"})
        assert refused.value.status == 409
        wait_for("the move", lambda: not client.model("begun")["placement"]["moving_to"])
        assert client.model("begun")["versions"][0]["devices"] == ["cpu:1"]
        client.unregister("begun")
    wait_for("the worker to end that holds nothing", lambda: "cpu:1" not in front.workers())


def test_a_move_that_fails_changes_nothing(front: Front, models: Path) -> None:
    front.register(models / "affine" / "2", "staying", 2)
    saved = front.store / "staying" / "2" / "saved_model.pb"
    content = saved.read_bytes()
    saved.write_bytes(b"nonsense")  # what is loaded answers; another load cannot
    with front.client() as client:
        with Load(front, "staying", 2.0) as load:
            load.wait_more(20)
            status = client.set_device("staying", {"device": "cpu:1"}, timeout=PATIENCE)
            load.wait_more(20)
        assert set(load.outcomes) == {"OK"}
        assert status["placement"]["device"] == "auto"
        assert "saved_model.pb" in status["placement"]["error"]
        assert [version["devices"] for version in status["versions"]] == [["cpu"]]
        wait_for("the new worker to end", lambda: "cpu:1" not in front.workers())
        saved.write_bytes(content)
        status = client.set_device("staying", {"device": "cpu:1"}, timeout=PATIENCE)
        assert status["placement"]["device"] == "cpu:1" and status["placement"]["error"] == ""
        client.unregister("staying")


@pytest.mark.parametrize(
    "request_, message, status",
    [
        ({"device": "gpu:7"}, "There is no device 'gpu:7'", 404),
        ({"device": 3}, "device cannot be 3", 400),
        ({"replicas": 0}, "replicas cannot be 0", 400),
        ({"memory_limit": "1G"}, "memory_limit cannot be '1G'", 400),
        ({"colour": "red"}, "has no 'colour'", 400),
    ],
)
def test_what_cannot_be_is_refused(front: Front, request_: Any, message: str, status: int) -> None:
    with front.client() as client:
        with pytest.raises(TFServeError, match=message) as refused:
            client.set_device("affine", request_)
        assert refused.value.status == status and refused.value.remedy
        with pytest.raises(TFServeError, match=message):
            client.register("new", {"placement": request_})
        assert "new" not in [model["name"] for model in client.state()["models"]]


def test_where_a_model_is_outlives_the_server(start_front: Callable[..., Front], models: Path) -> None:
    first = start_front("--isolation=device")
    first.register(models / "affine" / "1", "kept", 1, placement={"device": "cpu:2"})
    first.end()
    second = Front(first.folder / "again", "--isolation=device", store=first.store)
    try:
        second.wait_until_ready()
        second.wait_available("kept", 1)
        second.wait_workers("cpu:2")
    finally:
        second.close()


def test_new_versions_are_loaded_where_the_model_is(front: Front, models: Path) -> None:
    front.register(models / "affine" / "1", "growing", 1, placement={"device": "cpu:1"})
    publish(models / "affine" / "2", front.store / "growing", 2)
    front.wait_available("growing", 2)
    assert front.status("growing")["versions"][0]["devices"] == ["cpu:1"]
    with front.client() as client:
        client.unregister("growing")

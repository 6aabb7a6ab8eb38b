"""Events to many listeners: the samples come to those who ask, from one stream of the model server's."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import publish, wait_for
from jupyter_process import HEADERS, JupyterServer, read_events

from jupyter_tfserve.api import Event


@contextmanager
def listening(jupyter: JupyterServer, query: str = "?stats=true") -> Iterator[Iterator[bytes]]:
    """The lines of a stream of events that has begun."""
    connection = http.client.HTTPConnection("127.0.0.1", jupyter.port, timeout=30)
    connection.request("GET", f"{jupyter.base_url}tfserve/api/events{query}", headers=HEADERS)
    lines = iter(connection.getresponse().readline, b"")
    assert next(lines) == b": connected\n"
    try:
        yield lines
    finally:
        connection.close()


def upstreams(jupyter: JupyterServer) -> int:
    """Connections at the model server's socket, the idle ones included."""
    info = jupyter.info()
    server = psutil.Process(info["pid"])
    return sum(connection.laddr == info["socket"] for connection in server.net_connections("unix")) - 1


def is_stats(event: Event) -> bool:
    return event["type"] == "stats"


def test_samples_for_who_asks(jupyter: JupyterServer) -> None:
    with listening(jupyter) as one, listening(jupyter) as two, listening(jupyter, "") as plain:
        assert jupyter.call("POST", "/tfserve/v1/models/affine:predict", {"instances": [1.0]}).status == 200
        samples = read_events(one, lambda event: is_stats(event) and "affine" in event["samples"])[-1]["samples"]
        assert samples["affine"]["requests"] >= 1
        times = [read_events(two, is_stats)[-1]["time"] for _ in range(2)]
        assert times[1] > times[0]
        jupyter.call("PUT", "/tfserve/api/models/affine/batching", {"max_batch_size": None})
        assert [event["type"] for event in read_events(plain, lambda event: event["type"] == "model")] == ["model"]


def test_one_upstream_for_all_and_none_for_nobody(start_jupyter: Callable[..., JupyterServer], models: Path) -> None:
    jupyter = start_jupyter()
    jupyter.register(models / "affine" / "1", "affine")
    jupyter.state()
    alone = upstreams(jupyter)
    with listening(jupyter) as one:
        read_events(one, is_stats)
        first = upstreams(jupyter)
        assert first <= alone + 1
        with listening(jupyter) as two, listening(jupyter) as three:
            for lines in (two, three):
                read_events(lines, is_stats)
            assert upstreams(jupyter) == first
        # The last one still hears, also of the model server after this one.
        read_events(one, is_stats)
        jupyter.call("POST", "/tfserve/api/server", {"action": "restart"})
        read_events(one, lambda event: event.get("state") == "running")
        read_events(one, is_stats)
        before = upstreams(jupyter)
    wait_for("the stream of samples to end", lambda: upstreams(jupyter) < before)


def wish(verb: str, path: str, body: Any) -> Callable[[JupyterServer], Any]:
    return lambda jupyter: jupyter.call(verb, f"/tfserve/api/models/changing{path}", body)


@pytest.mark.parametrize(
    "change",
    [
        wish("PUT", "/policy", {"all": {}}),
        wish("PATCH", "/labels", {"stable": 1}),
        wish("PATCH", "/labels", {"stable": None}),
        wish("PUT", "/policy", {"latest": {"num_versions": 1}}),
        wish("PUT", "/batching", {"max_batch_size": 8}),
        lambda jupyter: publish(jupyter.store / "affine" / "1", jupyter.store / "changing", 0),
    ],
    ids=["policy", "label", "no label", "policy back", "batching", "a version on disk"],
)
def test_every_change_is_told(jupyter: JupyterServer, models: Path, change: Callable[[JupyterServer], Any]) -> None:
    if not (jupyter.store / "changing").exists():
        jupyter.register(models / "affine" / "1", "changing")
    with listening(jupyter, "") as lines:
        change(jupyter)
        told = read_events(lines, lambda event: event.get("model") == "changing" and event["type"] == "model")
        assert told[-1]["state"] == "changed"


def test_nothing_of_it_is_activity(jupyter: JupyterServer) -> None:
    """A panel that follows and polls must not keep an idle server alive."""

    def last_activity() -> str:
        answer = jupyter.call("GET", "/api/status?no_track_activity=1")
        return str(json.loads(answer.body)["last_activity"])

    before = last_activity()
    with listening(jupyter) as lines:
        read_events(lines, is_stats)
        for path in ("/state", "/stats", "/models/affine", "/models/affine/example", "/logs", "/shares"):
            answer = jupyter.call("GET", f"/tfserve/api{path}")
            assert answer.status == 200, answer
            assert answer.headers["cache-control"] == "no-store"
            assert "etag" not in answer.headers
    assert last_activity() == before

"""The panel follows what is served, and steers it: real widgets and threads, a real Jupyter Server and model server."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import traitlets
from helpers import publish, wait_for
from ipywidgets.widgets.widget import _instances
from jupyter_process import JupyterServer
from panels import button, field, in_sight, serve, text

from jupyter_tfserve.api import ModelStatus
from jupyter_tfserve.client import Client, TFServeError
from jupyter_tfserve.kernel.panel import Panel

Show = Callable[..., Panel]


@pytest.fixture
def client(jupyter: JupyterServer) -> Any:
    one = jupyter.client()
    yield one
    one.close()


def test_it_shows_what_is_served(show: Show) -> None:
    panel = show("affine")
    assert panel.model == "affine" and panel.version == 3 and panel.server == "running"
    assert set(panel.models) >= {"affine"}
    words = text(panel)
    for number in (1, 2, 3):
        assert f" {number} " in words
    assert "serving version 3" in words and words.count("available") == 3
    assert "requests without a version go to version 2 then" in words


def test_it_follows_changes_made_elsewhere_within_a_second(
    show: Show, jupyter: JupyterServer, models: Path, client: Client
) -> None:
    name = serve(jupyter, models, "elsewhere")
    panel = show(name)
    panel.section = "Labels"
    client.set_labels(name, {"stable": 2})
    wait_for("the label", lambda: "stable → 2" in text(panel), 1.0)
    client.set_policy(name, {"specific": {"versions": [1, 2]}})
    wait_for("the version", lambda: panel.version == 2, 1.0)
    panel.section = "Batching"
    client.set_batching(name, {"max_batch_size": 17})
    wait_for("the knob", lambda: field(panel, "Max batch size").value == "17", 1.0)
    publish(models / "affine" / "1", jupyter.store / name, 9)
    panel.section = "Versions"
    wait_for("the new version on disk", lambda: " 9 " in text(panel), 1.5)
    client.unregister(name)
    wait_for("its end", lambda: panel.status is None and "not served" in text(panel), 1.0)


def test_versions_are_loaded_and_unloaded(show: Show, jupyter: JupyterServer, models: Path) -> None:
    name = serve(jupyter, models, "toggled")
    panel = show(name)
    button(panel, "Unload version 3").click()
    wait_for("version 2 to answer", lambda: panel.version == 2)
    effect = "from then on just the versions 3, 2 and 1 are served, and requests without a version go to 3"
    wait_for("version 3 to be unloaded", lambda: effect in text(panel))
    panel.unload(1)
    with pytest.raises(TFServeError) as refused:
        panel.unload(2)
    assert "stop_serving" in refused.value.remedy
    assert button(panel, "Unload version 2").disabled
    button(panel, "Load version 1").click()
    wait_for(
        "version 1",
        lambda: "policy" in str(panel.status) and panel.status["policy"] == {"specific": {"versions": [1, 2]}},
    )  # type: ignore[index]
    field(panel, "Stop serving").click()
    wait_for("the end", lambda: panel.status is None)
    field(panel, "Serve").click()
    wait_for("it to be served again", lambda: panel.version is not None)
    assert panel.status is not None and panel.status["policy"] == {"specific": {"versions": [1, 2]}}
    panel.stop_serving()


def test_an_update_makes_no_widgets_and_closing_leaves_none(
    show: Show, jupyter: JupyterServer, models: Path, client: Client
) -> None:
    """A widget costs milliseconds here and in the page, and is kept until it is closed."""
    name = serve(jupyter, models, "steady")
    before = set(_instances)
    panel = show(name)
    for section in ("Shares", "Labels", "Batching", "Device", "Try it", "Calls", "Log", "Versions"):
        panel.section = section
    shares = [client.share({"models": [name], "kind": "key"})["share"]["id"] for _ in range(2)]
    panel.section = "Shares"
    wait_for("the shares", lambda: text(panel).count("not used yet") == 2)
    panel.section = "Versions"
    kept = set(_instances)
    for turn in range(3):
        client.set_labels(name, {"stable": 1 + turn})
        wait_for("the label", lambda turn=turn: panel.status["labels"] == {"stable": 1 + turn})  # type: ignore[index,misc]
    with panel._lock:  # it is shown, too
        assert set(_instances) == kept
    panel.section = "Shares"
    for share in shares:
        client.unshare(share)
    panel.refresh()
    wait_for("the shares to be gone", lambda: "shared with nobody" in text(panel))
    assert len(set(_instances) - before) < len(kept - before)
    panel.close()
    wait_for("the panel's threads to end", lambda: not panel.following)
    assert set(_instances) <= before
    client.unregister(name)


def test_the_policy_is_set(show: Show, jupyter: JupyterServer, models: Path) -> None:
    name = serve(jupyter, models, "ruled")
    panel = show(name)
    field(panel, "Serve").value = "specific"
    field(panel, "Versions").value = "2, 1"
    button(panel, "Serve these versions").click()
    wait_for("the policy", lambda: panel.models[name]["policy"] == {"specific": {"versions": [1, 2]}})
    with panel._lock:  # it is shown, too
        pass
    field(panel, "Versions").value = "two"
    button(panel, "Serve these versions").click()
    wait_for("the refusal", lambda: "no list of versions" in panel.error)
    assert "What to do: For example: 4, 3" in text(panel)
    panel.set_policy({"latest": {"num_versions": 2}})
    assert field(panel, "Serve").value == "latest" and field(panel, "How many").value == 2
    assert field(panel, "Serve").value == "latest"


def test_a_label_is_moved_and_the_effect_is_said_before(
    show: Show, jupyter: JupyterServer, models: Path, client: Client
) -> None:
    name = serve(jupyter, models, "labelled")
    client.set_labels(name, {"stable": 2})
    panel = show(name)
    panel.section = "Labels"
    field(panel, "Label").value = "stable"
    field(panel, "to version").value = 3
    assert "stable: 2 → 3; requests to /labels/stable go to version 3 at once." in text(panel)
    assert client.model(name)["labels"] == {"stable": 2}
    field(panel, "Apply").click()
    wait_for("the label", lambda: client.model(name)["labels"] == {"stable": 3})
    wait_for("the words", lambda: "stable is at 3 already." in text(panel))
    panel.move_label("stable", None)
    assert client.model(name)["labels"] == {}


def test_knobs_act_at_once_and_are_checked(show: Show, jupyter: JupyterServer, models: Path, client: Client) -> None:
    name = serve(jupyter, models, "knobs")
    panel = show(name)
    panel.section = "Batching"
    field(panel, "Mode").value = "on"
    wait_for("the mode", lambda: client.model(name)["batching"]["mode"] == "on")
    field(panel, "Allowed sizes").value = "2, 4"
    wait_for("the refusal", lambda: "largest" in panel.error or "max_batch_size" in panel.error)
    assert field(panel, "Allowed sizes").value == ""  # what is so, not what was refused
    field(panel, "Max batch size").value = "4"
    wait_for("the size", lambda: client.model(name)["batching"]["max_batch_size"] == 4)
    field(panel, "Allowed sizes").value = "2, 4"
    wait_for("the sizes", lambda: client.model(name)["batching"]["allowed_batch_sizes"] == [2, 4])
    field(panel, "Window (µs)").value = "soon"
    wait_for("the refusal", lambda: "no whole number" in panel.error)
    field(panel, "Allowed sizes").value = ""
    wait_for("the default", lambda: client.model(name)["batching"]["allowed_batch_sizes"] == [])
    assert "merged" in text(panel)


def test_numbers_under_load(show: Show, jupyter: JupyterServer, models: Path, client: Client) -> None:
    name = serve(jupyter, models, "busy")
    panel = show(name)
    assert "No requests in the last minute." in text(panel)
    ended = threading.Event()

    def load() -> None:
        own = jupyter.client()
        while not ended.is_set():
            own.predict(name, {"instances": [1.0, 2.0, 3.0]})
        own.close()

    loads = [threading.Thread(target=load) for _ in range(2)]
    for one in loads:
        one.start()
    try:
        wait_for("the sample", lambda: panel.sample.get("requests", 0) > 20)
        wait_for("sizes", lambda: re.search("up to [48]", text(panel)), 10)  # two at once are merged
    finally:
        ended.set()
        for one in loads:
            one.join()
    page = "".join(one.value for one in in_sight(panel) if hasattr(one, "value") and isinstance(one.value, str))
    assert "role='img'" in page and "aria-label='Requests/s: " in page


def test_a_request_is_tried(show: Show) -> None:
    panel = show("affine")
    panel.section = "Try it"
    wait_for("the example", lambda: field(panel, "Request").value == '{"instances": [0.0]}')
    field(panel, "Request").value = '{"instances": [1.0, 2.0]}'
    assert [value for _, value in field(panel, "Version").options] == ["", "3", "2", "1"]
    field(panel, "Version").value = "2"
    field(panel, "Send").click()
    wait_for("the answer", lambda: "Answer in" in text(panel))
    assert "3 1 4" in text(panel)  # x + 2, with the rows' numbers
    field(panel, "Request").value = "{"
    field(panel, "Send").click()
    wait_for("the refusal", lambda: "not JSON" in panel.error)
    assert panel.try_it({"instances": [5.0]}) == {"predictions": [7.0]}


def test_a_failed_load_says_what_to_do(
    show: Show, jupyter: JupyterServer, models: Path, client: Client, tmp_path: Path
) -> None:
    name = serve(jupyter, models, "broken", (1,))
    panel = show(name)
    shutil.copytree(models / "affine" / "2", tmp_path / "torn")
    shutil.rmtree(tmp_path / "torn" / "variables")
    publish(tmp_path / "torn", jupyter.store / name, 2)
    wait_for("the failure", lambda: " failed " in text(panel))
    assert "What to do: Files are missing" in text(panel)
    assert panel.version == 1
    shutil.copytree(models / "affine" / "2" / "variables", jupyter.store / name / "2" / "variables")
    button(panel, "Load version 2 again").click()
    wait_for("version 2", lambda: panel.version == 2)


def test_shares(show: Show) -> None:
    panel = show("affine")
    panel.section = "Shares"
    wait_for("the list", lambda: "shared with nobody" in text(panel))
    field(panel, "Share").click()
    wait_for("the share", lambda: "whoever has the key" in text(panel) and "not used yet" in text(panel))
    shared = panel.endpoint.client.shares()["shares"]
    key = Path(next(iter(Path(text(panel).split("in the file ")[1].split(",")[0]).parents))).glob("*.key")
    secret = next(key).read_text()
    assert len(shared) == 1 and secret
    assert secret not in json.dumps([one.get_state() for one in in_sight(panel)], default=str)  # outputs are saved
    field(panel, "Revoke").click()
    wait_for("the end of it", lambda: "shared with nobody" in text(panel))


def test_the_log_is_followed_only_in_sight(show: Show, client: Client, jupyter: JupyterServer, models: Path) -> None:
    panel = show("affine")
    panel.section = "Log"
    wait_for("the log", lambda: "is available" in text(panel))
    serve(jupyter, models, "logged", (1,))
    wait_for("what is written", lambda: "of logged is available" in text(panel))
    followers = [thread for thread in threading.enumerate() if thread.name == "tfserve-panel-log"]
    assert followers
    panel.section = "Versions"
    wait_for("its end", lambda: not any(thread.is_alive() for thread in followers))


def test_devices(show: Show) -> None:
    panel = show("affine")
    panel.section = "Device"
    wait_for("the list", lambda: "serves" in text(panel))
    assert "free of" in text(panel)
    assert "cpu" in [value for _, value in field(panel, "Device").options]


def test_calls_hold_no_token(show: Show, jupyter: JupyterServer) -> None:
    panel = show("affine")
    panel.section = "Calls"
    wait_for("the call", lambda: "curl" in text(panel) and "instances" in text(panel))
    for language in ("curl", "Python", "gRPC", "JavaScript"):
        field(panel, "Language").value = language
        assert jupyter.token not in text(panel) and jupyter.owner_key not in text(panel)
        assert "affine" in text(panel)


def test_it_is_scriptable(show: Show) -> None:
    panel = show()
    seen: list[Any] = []
    panel.observe(lambda change: seen.append(change["new"]), ["version", "model"])
    panel.model = "affine"
    panel.section = "Calls"
    with pytest.raises(traitlets.TraitError):
        panel.section = "Nonsense"
    with pytest.raises(traitlets.TraitError):
        panel.version = 7
    panel.model = "no_such_model"
    assert "There is no model no_such_model." in text(panel)
    assert seen[-1] == "no_such_model" and None in seen


def test_nothing_runs_before_it_is_displayed_nor_after_it_is_closed(endpoint: Any) -> None:
    panel = Panel("affine", endpoint=endpoint)
    assert not panel.following
    panel._repr_mimebundle_()
    wait_for("it to follow", lambda: panel.status is not None)
    panel.close()
    wait_for("its threads to end", lambda: not panel.following, 2.0)
    assert panel.comm is None


def test_nothing_is_sent_where_nothing_changes(
    show: Show, jupyter: JupyterServer, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A panel of idle models is silent, and its objects stay the same, so that what has the focus keeps it."""
    panel = show(serve(jupyter, models, "idle"))
    wait_for("the samples", lambda: len(panel._history) == 60)
    time.sleep(0.5)  # what came at the start is through
    sent: list[Any] = []
    for one in list(in_sight(panel)):
        monkeypatch.setattr(one, "send_state", lambda key=None, one=one: sent.append((one, key)))
    before, told = list(in_sight(panel)), panel._history[-1]
    wait_for("two seconds more", lambda: panel._history[-1] is not told)
    panel.refresh()
    told = panel._history[-1]
    wait_for("another second", lambda: panel._history[-1] is not told)
    assert sent == []
    assert list(in_sight(panel)) == before


def test_a_server_that_is_gone_and_comes_back(
    show: Show, endpoint: Any, jupyter: JupyterServer, client: Client
) -> None:
    panel = show("affine")
    client.server({"action": "stop"})
    wait_for("the word", lambda: "The model server is stopped." in text(panel), 2.0)
    assert panel.server == "stopped"
    field(panel, "Start").click()
    wait_for("it to be back", lambda: panel.server == "running" and panel.version == 3)


def test_updates_of_many_models_are_quick(show: Show) -> None:
    """50 models of 4 versions at 500 requests/s: only the one in sight has widgets, and an update takes few ms."""
    panel = show("affine")
    made = len(list(in_sight(panel)))
    status: ModelStatus = panel.models["affine"]
    version = status["versions"][0]
    many = [
        {
            **status,
            "name": f"model-{n}",
            "versions": [{**version, "version": v} for v in range(4)],
            "on_disk": [3, 2, 1, 0],
        }
        for n in range(50)
    ]
    sample = {"requests": 10, "errors": 1, "p50_ms": 1.0, "p99_ms": 2.0, "queue_ms": 0.5, "in_flight": 1, "queued": 0}
    state = {**panel.endpoint.state(), "models": many}
    panel.model = "model-7"
    took = []
    for second in range(60):
        began = time.perf_counter()
        samples = {m["name"]: {**sample, "p50_ms": 1.0 + second, "batch_sizes": {"1": second}} for m in many}
        panel.on_samples(samples)  # type: ignore[arg-type]
        took.append(time.perf_counter() - began)
        began = time.perf_counter()
        panel.on_state(state)  # type: ignore[arg-type]
        took.append(time.perf_counter() - began)
    assert len(list(in_sight(panel))) < made + 20
    assert sorted(took)[len(took) // 2] < 0.1, took  # measured: 1 to 3 ms

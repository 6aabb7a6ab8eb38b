"""The management API: who may use it, what it answers while the model server runs, uploads and events."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import PATIENCE, Answer, Tfserve, call, publish, wait_for
from jupyter_process import HEADERS, JupyterServer, open_files, read_events

from jupyter_tfserve.api import UploadFile, UploadRequest
from jupyter_tfserve.client import Client, TFServeError
from jupyter_tfserve.model_server import config

#: Every operation there is.
OPERATIONS = [
    ("GET", "/api/state", None),
    ("GET", "/api/models/affine", None),
    ("PUT", "/api/models/affine", {}),
    ("DELETE", "/api/models/nothing", None),
    ("PUT", "/api/models/nothing/policy", {"all": {}}),
    ("PUT", "/api/models/nothing/batching", {"mode": "on"}),
    ("PUT", "/api/models/nothing/device", {"device": "cpu"}),
    ("PATCH", "/api/models/nothing/labels", {}),
    ("GET", "/api/devices", None),
    ("GET", "/api/models/affine/example", None),
    ("GET", "/api/stats?seconds=5", None),
    ("GET", "/api/config", None),
    ("PUT", "/api/config", b"nonsense {"),
    ("GET", "/api/events", None),
    ("POST", "/api/server", {"action": "start"}),
    ("GET", "/api/logs", None),
    ("POST", "/api/uploads", {}),
    ("PUT", "/api/uploads/0?path=x&offset=0", b""),
    ("POST", "/api/uploads/0", None),
    ("DELETE", "/api/uploads/0", None),
    ("POST", "/api/saved_models", {}),
    ("GET", "/monitoring/prometheus/metrics", None),
    ("POST", "/monitoring/prometheus/metrics", None),
]


@pytest.fixture
def client(jupyter: JupyterServer) -> Iterator[Client]:
    one = jupyter.client()
    yield one
    one.close()


@pytest.mark.parametrize(("verb", "path", "body"), OPERATIONS)
def test_strangers_are_refused(jupyter: JupyterServer, verb: str, path: str, body: Any) -> None:
    for headers in ({}, {"Authorization": "token wrong"}):
        answer = jupyter.call(verb, "/tfserve" + path, body, headers)
        assert answer.status == 403, answer
        assert answer.json["message"]
        assert "Authorization" in answer.json["remedy"]


def test_the_owner_key_opens_everything(jupyter: JupyterServer) -> None:
    headers = {"Authorization": f"Bearer {jupyter.owner_key}", "Host": "tfserve"}
    for verb, path, body in OPERATIONS:
        if path != "/api/events":  # it does not end
            answer = jupyter.call(verb, "/tfserve" + path, body, headers)
            assert answer.status in (200, 204, 400, 404), (verb, path, answer)


def test_the_owner_key_opens_nothing_else(jupyter: JupyterServer) -> None:
    for path in ("/api/contents", "/api/kernels", "/api/status", "/api/me"):
        answer = jupyter.call("GET", path, headers={"Authorization": f"token {jupyter.owner_key}"})
        assert answer.status == 403, path


def test_state(jupyter: JupyterServer, models: Path) -> None:
    publish(models / "affine" / "1", jupyter.store / "unserved", 1)
    state = jupyter.state()
    server = state["server"]
    assert server is not None
    assert (server["state"], server["rest_port"], server["grpc_port"]) == (
        "running",
        jupyter.rest_port,
        jupyter.grpc_port,
    )
    assert server["store"] == str(jupyter.store)
    assert server["store_id"] == (jupyter.store / ".store_id").read_text()
    assert Path(server["token_file"]).read_text() == jupyter.owner_key
    assert {"affine", "several"} <= {model["name"] for model in state["models"]}
    assert "unserved" in state["stored"]
    assert set(state["versions"]) == {"tensorflow", "jupyter_tfserve"}


def test_registering(jupyter: JupyterServer, models: Path, client: Client) -> None:
    publish(models / "affine" / "1", jupyter.store / "mine", 1)
    publish(models / "affine" / "2", jupyter.store / "mine", 2)
    client.register("mine", {"policy": {"all": {}}, "python": "/no/such/python"})
    for version in (1, 2):
        status = client.model("mine", wait=version, timeout=PATIENCE)
    assert [v["state"] for v in status["versions"]] == ["AVAILABLE", "AVAILABLE"]
    assert client.set_labels("mine", {"stable": 1})["labels"] == {"stable": 1}
    assert client.predict("mine", {"instances": [1]}, label="stable") == {"predictions": [2.0]}
    assert client.set_policy("mine", {"latest": {"num_versions": 2}})["policy"] == {"latest": {"num_versions": 2}}
    batching = client.set_batching("mine", {"max_batch_size": 7})["batching"]
    assert (batching["mode"], batching["max_batch_size"], batching["signatures"]) == (
        "auto",
        7,
        {"serving_default": ""},
    )
    assert '"mine"' in client.config()
    state = client.set_config(client.config())
    assert state["server"] is not None
    assert state["server"]["state"] == "running"
    client.unregister("mine", files=True)
    with pytest.raises(TFServeError) as refused:
        client.model("mine")
    assert refused.value.status == 404
    assert not (jupyter.store / "mine").exists()


@pytest.mark.parametrize(
    ("verb", "path", "body", "status"),
    [
        ("PUT", "/api/models/.hidden", {}, 400),
        ("PUT", "/api/models/a%20b", {}, 400),
        ("PUT", "/api/models/m", b"no JSON", 400),
        ("PUT", "/api/models/m", b"[]", 400),
        ("PUT", "/api/models/m", {"python": 3}, 400),
        ("PUT", "/api/models/m", {"policy": {"newest": {}}}, 400),
        ("PUT", "/api/models/affine/batching", {"max_batch_size": 0}, 400),
        ("PUT", "/api/models/nothing/batching", {}, 404),
        ("GET", "/api/models/nothing", None, 404),
        ("DELETE", "/api/models/nothing", None, 404),
        ("PUT", "/api/config", b"nonsense {", 400),
        ("POST", "/api/server", {"action": "explode"}, 400),
        ("POST", "/api/server", b"?", 400),
        ("GET", "/api/logs?lines=0", None, 400),
        ("GET", "/api/logs?lines=x", None, 400),
        ("PUT", "/api/uploads/0?path=x&offset=x", b"", 400),
        ("PUT", "/api/uploads/0?path=x&offset=0", b"", 404),
        ("POST", "/api/uploads", {"model": "m", "files": [{"path": "../x", "size": 0, "sha256": "0" * 64}]}, 400),
        ("DELETE", "/api/state", None, 405),
    ],
)
def test_refusals_say_what_is_wrong(jupyter: JupyterServer, verb: str, path: str, body: Any, status: int) -> None:
    answer = jupyter.call(verb, "/tfserve" + path, body)
    assert answer.status == status, answer
    assert set(answer.json) == {"message", "remedy"}
    assert answer.json["message"]


def test_logs(client: Client) -> None:
    assert len(client.logs(3).splitlines()) == 3
    assert "REST on" in client.logs(1000)


def test_an_uploaded_version_is_served(jupyter: JupyterServer, models: Path, client: Client) -> None:
    """Through the same client as the kernel's, with a break on the way."""
    source = models / "affine" / "2"
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    request = UploadRequest(
        model="uploaded",
        version=5,
        files=[
            UploadFile(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in files.items()
        ],
    )
    begun = client.begin_upload(request)
    client.upload_part(begun["id"], "saved_model.pb", 0, files["saved_model.pb"][:100])
    assert client.begin_upload(request)["received"]["saved_model.pb"] == 100
    with pytest.raises(TFServeError, match="have arrived"):
        client.finish_upload(begun["id"])
    for name, data in files.items():
        there = client.begin_upload(request)["received"].get(name, 0)
        client.upload_part(begun["id"], name, there, data[there:])
    done = client.finish_upload(begun["id"])
    assert done["published"] == str(jupyter.store / "uploaded" / "5")
    client.register("uploaded", {})
    assert client.model("uploaded", wait=5, timeout=PATIENCE)["versions"][0]["state"] == "AVAILABLE"
    assert client.predict("uploaded", {"instances": [1]}) == {"predictions": [3.0]}


@contextmanager
def listening(jupyter: JupyterServer) -> Iterator[Iterator[bytes]]:
    connection = http.client.HTTPConnection("127.0.0.1", jupyter.port, timeout=PATIENCE)
    connection.request("GET", f"{jupyter.base_url}tfserve/api/events", headers={**HEADERS, "Accept-Encoding": "gzip"})
    reply = connection.getresponse()
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/event-stream"
    lines = iter(reply.readline, b"")
    assert next(lines) == b": connected\n"
    try:
        yield lines
    finally:
        connection.close()


def test_events(jupyter: JupyterServer, models: Path, client: Client) -> None:
    process = psutil.Process(jupyter.process.pid)
    before = open_files(process)
    publish(models / "affine" / "1", jupyter.store / "watched", 3)
    with listening(jupyter) as one, listening(jupyter) as two:
        client.register("watched", {})
        for lines in (one, two):
            events = read_events(lines, lambda e: e.get("model") == "watched" and e.get("state") == "AVAILABLE")
            states = [e["state"] for e in events if e["type"] == "version" and e["model"] == "watched"]
            assert states == ["START", "LOADING", "AVAILABLE"]
            assert all(e["version"] == 3 and e["time"] > 0 for e in events if e["type"] == "version")
    wait_for("the listeners to be forgotten", lambda: open_files(process) <= before + 1)
    assert "Traceback" not in jupyter.said()


CONFIG = """
model_config_list {{
  config {{
    name: "m"
    base_path: "{base}"
    model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: [1, 2, 3] }} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 3 }}
    logging_config {{
      log_collector_config {{ type: "any" filename_prefix: "{logs}" }}
      sampling_config {{ sampling_rate: 0.25 }}
    }}
  }}
  config: < name: 'Ä "b"', base_path: "{base}"; model_type: TENSORFLOW >  # as old files have it
}}
"""


def test_a_models_config_moves_both_ways(
    start: Callable[..., Tfserve], start_jupyter: Callable[..., JupyterServer], models: Path, tmp_path: Path
) -> None:
    """Between `tfserve` by hand and the store, labels and all."""
    text = CONFIG.format(base=models / "affine", logs=tmp_path / "log")
    file = tmp_path / "models.config"
    file.write_text(text)
    # As tensorflow_model_server would be started on it; labels at the start are applied once their version is loaded.
    one = start(f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1").wait_until_ready()
    jupyter = start_jupyter()
    answer = jupyter.call("PUT", "/tfserve/api/config", text.encode())
    assert answer.status == 200, answer

    def labels(call: Callable[..., Answer], prefix: str = "") -> list[Any]:
        paths = [f"{prefix}/v1/models/m/labels/{label}:predict" for label in ("stable", "canary")]
        answers = [call("POST", path, {"instances": [0.0]}) for path in paths]
        return [answer.json["predictions"][0] if answer.status == 200 else answer.status for answer in answers]

    for ask, prefix in ((one.call, ""), (jupyter.call, "/tfserve")):
        wait_for("the labels to answer", lambda ask=ask, prefix=prefix: labels(ask, prefix) == [1.0, 3.0])
    back = jupyter.call("GET", "/tfserve/api/config").body.decode()
    assert config.parse(back) == config.parse(text)
    assert (jupyter.store / "models.config").read_text() == back

    client = jupyter.client()
    client.set_labels("m", {"stable": 2, "canary": None})
    client.close()
    file.write_bytes(jupyter.call("GET", "/tfserve/api/config").body)
    wait_for("the labels to move", lambda: labels(one.call) == [2.0, 400])


def test_the_metrics_page(jupyter: JupyterServer) -> None:
    jupyter.call("POST", "/tfserve/v1/models/affine:predict", {"instances": [1]})
    path = "/monitoring/prometheus/metrics"
    answer = jupyter.call("GET", "/tfserve" + path)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain")
    counted = re.search(rb':request_count\{model_name="affine",status="OK"\} (\d+)', answer.body)
    assert counted is not None and int(counted[1]) >= 1
    assert call(jupyter.rest_port, "GET", path, headers=HEADERS).status == 200
    for verb, target, status in (("HEAD", path, 200), ("POST", path, 200), ("GET", path + "?x=1", 400)):
        assert jupyter.call(verb, "/tfserve" + target).status == status


def test_polling_is_no_activity_but_a_prediction_is(jupyter: JupyterServer) -> None:
    def last_activity() -> str:
        # this request itself counts only once it is answered
        return str(json.loads(jupyter.call("GET", "/api/status?no_track_activity=1").body)["last_activity"])

    before = last_activity()
    for path in ("/api/state", "/api/models/affine", "/api/logs", "/monitoring/prometheus/metrics"):
        jupyter.call("GET", "/tfserve" + path)
    assert last_activity() == before
    jupyter.call("POST", "/tfserve/v1/models/affine:predict", {"instances": [1]})
    assert last_activity() > before

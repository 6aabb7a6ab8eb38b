"""Audit events for every share, refusal and change; and no secret anywhere that others could read."""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from grpc_web import PREDICT
from helpers import wait_for
from jupyter_process import JupyterServer

Start = Callable[..., JupyterServer]


def test_events_and_secrets(start_jupyter: Start, models: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "config").mkdir(parents=True)
    events = home / "events.jsonl"
    (home / "config" / "jupyter_server_config.py").write_text(
        f"import logging\nc.EventLogger.handlers = [logging.FileHandler({str(events)!r})]\n"
        "c.ServerApp.log_level = 'DEBUG'\n"
    )
    one = start_jupyter()
    one.register(models / "affine" / "1", "affine")
    with contextlib.closing(one.client()) as client:
        made = client.share({"models": ["affine"], "note": "a note"})
        other = client.share({"models": ["affine"]})
    key = made["key"]
    bearer = {"Authorization": f"Bearer {key}"}
    body = {"instances": [4711.0]}
    assert one.call("POST", "/tfserve/v1/models/affine:predict", body, bearer).status == 200
    assert one.call("POST", "/tfserve/v1/models/echo:predict", body, bearer).status == 403
    assert one.call("POST", f"/tfserve/v1/models/affine:predict?token={key}", body, bearer).status == 401
    assert one.call("GET", "/tfserve/api/state", headers=bearer).status in (401, 403)
    assert one.call("POST", "/tfserve" + PREDICT, b"", {}).status == 401
    # The model of the message is none of the key's: an answer of status 200 that holds a refusal.
    web = one.call("POST", "/tfserve" + PREDICT, b"\0" * 5, {**bearer, "Content-Type": "application/grpc-web+proto"})
    assert web.status == 200 and b"grpc-status:7" in web.body and "x-tfserve-refused" not in web.headers
    assert one.call("GET", "/tfserve/grpc-tunnel", headers={}).status == 401
    assert one.call("PATCH", "/tfserve/api/models/affine/labels", {"stable": 1}).status == 200
    assert one.call("DELETE", f"/tfserve/api/shares/{other['share']['id']}").status == 204

    def told() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in events.read_text().splitlines()]
        return [line for line in lines if line["__schema__"].endswith("jupyter_tfserve/access/v1")]

    wait_for("the last event", lambda: any(event["action"] == "unshared" for event in told()))
    found = told()
    shares = [event for event in found if event["action"] == "shared"]
    assert [event["share"] for event in shares] == [made["share"]["id"], other["share"]["id"]]
    assert shares[0]["models"] == ["affine"] and shares[0]["kind"] == "key" and shares[0]["who"]
    assert [event["share"] for event in found if event["action"] == "unshared"] == [other["share"]["id"]]
    refused = [(event["status"], event["path"], event["who"]) for event in found if event["action"] == "refused"]
    who = f"key {made['share']['id']}"
    assert (403, "/tfserve/v1/models/echo:predict", who) in refused
    assert (401, "/tfserve/v1/models/affine:predict", "") in refused
    assert (401, "/tfserve" + PREDICT, "") in refused
    assert (403, "/tfserve" + PREDICT, who) in refused
    assert (401, "/tfserve/grpc-tunnel", "") in refused
    assert [path for _, path, _ in refused if path == "/tfserve/api/state"]
    changed = [(event["method"], event["path"]) for event in found if event["action"] == "changed"]
    assert ("PATCH", "/tfserve/api/models/affine/labels") in changed
    assert ("PUT", "/tfserve/api/models/affine") in changed

    # Nothing leaks, with Jupyter's log at its most talkative; the token in a URL was the caller's doing.
    secrets = [key, other["key"], one.token, one.owner_key]
    assert "4711" not in events.read_text()
    assert not [secret for secret in secrets if secret in events.read_text()]
    logs = [one.log, *one.folder.rglob("model_server.log")]
    assert len(logs) == 2
    for log in logs:
        text = log.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text.replace(f"?token={one.token}", "")], log
        assert "Traceback" not in text
    for process in [psutil.Process(one.process.pid), *one.processes()]:
        command = process.cmdline()
        ours = [argument for argument in command if not argument.startswith("--IdentityProvider.token=")]
        assert not [secret for secret in secrets for argument in ours if secret in argument], command
    for path in [*one.store.rglob("*"), *one.own_runtime.rglob("*"), one.endpoint_file]:
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in (one.store / ".shares.json", one.own_runtime / "bearer_hashes", one.own_runtime / "token"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path

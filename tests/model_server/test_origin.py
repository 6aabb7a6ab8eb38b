"""Where a version comes from, in a folder that may come from anybody."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import StoreServer, publish

from jupyter_tfserve.model_server import origin
from jupyter_tfserve.store import LINEAGE

WHOLE = {"notebook": "/home/ada/digits.ipynb", "cell": 7, "user": "ada", "time": 1.7e9, "expression": "model"}


def write(folder: Path, content: Any) -> Path:
    file = folder / LINEAGE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def test_it_is_read(tmp_path: Path) -> None:
    assert origin.read(write(tmp_path, WHOLE)) == {
        "notebook": "/home/ada/digits.ipynb",
        "cell": 7,
        "user": "ada",
        "time": 1.7e9,
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"nothing",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"time": NaN}',
        b'{"time": 1e999}',
        {**WHOLE, "time": "now"},
        {**WHOLE, "time": True},
        {**WHOLE, "time": -1},
        {"notebook": "x"},
        json.dumps({**WHOLE, "padding": "x" * (1 << 20)}).encode(),
    ],
)
def test_what_is_none(tmp_path: Path, content: Any) -> None:
    assert origin.read(write(tmp_path, content)) is None


def test_odd_values_are_left_out(tmp_path: Path) -> None:
    odd = {"notebook": ["x"], "cell": "7", "user": "a\nb\u202e\ud800" + "c" * 9999, "time": 0}
    found = origin.read(write(tmp_path, odd))
    assert found is not None
    assert (found["notebook"], found["cell"], found["time"]) == ("", None, 0.0)
    assert found["user"].startswith("a b ") and len(found["user"]) == 1024
    found["user"].encode()
    for cell in (True, -1, 1 << 40):
        found = origin.read(write(tmp_path, {**WHOLE, "cell": cell}))
        assert found is not None and found["cell"] is None


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_text(json.dumps(WHOLE))
    path.symlink_to(secret)


@pytest.mark.parametrize("make", [make_pipe, make_link, Path.mkdir])
def test_what_is_no_file_is_not_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / LINEAGE).parent.mkdir()
    make(tmp_path / LINEAGE)
    assert origin.read(tmp_path) is None


def test_the_status_tells_it(server: StoreServer, models: Path) -> None:
    write(publish(models / "affine" / "1", server.store / "made", 1), WHOLE)
    publish(models / "affine" / "1", server.store / "made", 2)
    with server.client() as client:
        client.register("made", {"policy": {"all": {}}})
        for version in (1, 2):
            status = client.model("made", wait=version, timeout=60)
        made = {version["version"]: version["origin"] for version in status["versions"]}
        assert made[2] is None
        assert made[1] is not None and made[1]["notebook"] == "/home/ada/digits.ipynb"
        client.unregister("made")

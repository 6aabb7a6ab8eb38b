"""SavedModels of the file browser: what is copied and served, and what is refused with nothing left behind."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import PATIENCE, Answer, wait_for
from jupyter_process import JupyterServer

from jupyter_tfserve.client import Client, TFServeError

Start = Callable[..., JupyterServer]

#: Lets the user in but for what is in `denied`.
AUTHORIZER = """
from jupyter_server.auth import Authorizer

class Record(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        return (action, resource) not in {denied}

c.ServerApp.authorizer_class = Record
"""


@pytest.fixture
def files(jupyter: JupyterServer, models: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder among the server's files with a SavedModel of the test's own, `files/model`."""
    folder = jupyter.folder / "root" / request.node.originalname
    shutil.copytree(models / "affine" / "2", folder / "model")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def client(jupyter: JupyterServer) -> Iterator[Client]:
    one = jupyter.client()
    yield one
    one.close()


def ask(server: JupyterServer, path: str, name: str = "unborn", **more: Any) -> Answer:
    return server.call("POST", "/tfserve/api/saved_models", {"path": path, "name": name, **more})


def is_refused(server: JupyterServer, answer: Answer, status: int, text: str) -> None:
    """And nothing is left behind."""
    assert answer.status == status, answer
    assert text in answer.json["message"]
    assert answer.json["remedy"]
    assert not (server.store / "unborn").exists()
    assert not [path for path in server.store.glob(".staging/unborn*") if "-removed-" not in path.name]
    assert "unborn" not in {model["name"] for model in server.state()["models"]}


def test_a_copy_is_served_and_labelled(jupyter: JupyterServer, client: Client, files: Path) -> None:
    (files / "model" / ".ipynb_checkpoints").mkdir()
    (files / "model" / ".ipynb_checkpoints" / "x").write_text("no part of it")
    path = f"{files.name}/model"
    made = client.serve_saved_model({"path": f"/{path}/", "name": "copied", "labels": ["stable"]})
    assert made["name"] == "copied"
    client.model("copied", wait=made["version"], timeout=PATIENCE)
    shutil.rmtree(files / "model" / "variables")  # the user's files are the user's
    assert client.predict("copied", {"instances": [1.0]}, label="stable")
    kept = jupyter.store / "copied" / str(made["version"])
    assert {entry.name for entry in kept.iterdir()} >= {"saved_model.pb", "variables"}
    assert not (kept / ".ipynb_checkpoints").exists()
    client.unregister("copied", files=True)


def test_a_number_is_kept_and_taken_once(jupyter: JupyterServer, client: Client, files: Path) -> None:
    request: Any = {"path": f"{files.name}/model", "name": "numbered", "version": 7}
    assert client.serve_saved_model(request) == {"name": "numbered", "version": 7}
    with pytest.raises(TFServeError, match="exists already") as refused:
        client.serve_saved_model(request)
    assert refused.value.status == 409
    assert os.listdir(jupyter.store / "numbered") == ["7"]
    client.unregister("numbered", files=True)


def test_several_at_once_are_versions_of_their_own(jupyter: JupyterServer, client: Client, files: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(jupyter, f"{files.name}/model", "at_once"), range(4)))
    assert [answer.status for answer in answers] == [201] * 4
    versions = {answer.json["version"] for answer in answers}
    assert len(versions) == 4
    assert versions <= set(client.model("at_once")["on_disk"])
    client.unregister("at_once", files=True)


def test_paths_that_are_not_shown(jupyter: JupyterServer, models: Path, files: Path) -> None:
    outside = jupyter.folder / "root-of-another"
    shutil.copytree(models / "affine" / "1", outside, dirs_exist_ok=True)
    shutil.copytree(files / "model", files / ".hidden" / "model")
    for path in (
        "nowhere",
        "../root-of-another",
        f"{files.name}/../../root-of-another",
        "../store/affine/1",
        str(models / "affine" / "1"),
        "a\0b",
        f"{files.name}/.hidden/model",
        f"{files.name}/model/saved_model.pb",
    ):
        is_refused(jupyter, ask(jupyter, path), 404, "There is no folder")


def test_folders_that_are_no_savedmodel(jupyter: JupyterServer, models: Path, files: Path) -> None:
    is_refused(jupyter, ask(jupyter, f"{files.name}/model/variables"), 400, "no saved_model.pb")
    shutil.copytree(models / "affine" / "1", files / "3")
    answer = ask(jupyter, files.name)
    is_refused(jupyter, answer, 400, "no saved_model.pb")
    assert f"{files.name}/3" in answer.json["remedy"]
    pipe = files / "model" / "assets.extra" / "pipe"
    pipe.parent.mkdir(exist_ok=True)
    os.mkfifo(pipe)
    is_refused(jupyter, ask(jupyter, f"{files.name}/model"), 400, "no file that could be copied")
    pipe.unlink()
    (files / "model" / "around").symlink_to(files)
    is_refused(jupyter, ask(jupyter, f"{files.name}/model"), 400, "a link to a folder around it")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"path": None}, "'path'"),
        ({"name": None}, "'name'"),
        ({"version": "1"}, "no version"),
        ({"version": True}, "no version"),
        ({"version": -1}, "no version"),
        ({"version": 2**63}, "no version"),
        ({"labels": "stable"}, "'labels'"),
        ({"labels": [1]}, "'labels'"),
    ],
)
def test_requests_that_make_no_sense(jupyter: JupyterServer, changed: dict[str, Any], text: str) -> None:
    answer = jupyter.call("POST", "/tfserve/api/saved_models", {"path": "x", "name": "unborn", **changed})
    assert answer.status == 400
    assert text in answer.json["message"]


def test_what_the_model_server_refuses_is_taken_back(jupyter: JupyterServer, files: Path) -> None:
    answer = ask(jupyter, f"{files.name}/model", labels=["a/b"])
    assert answer.status == 400, answer
    assert not (jupyter.store / "unborn").exists()
    is_refused(jupyter, ask(jupyter, f"{files.name}/model", "../unborn"), 400, "cannot be the name")


def test_who_may_not_read_files_or_change_models(start_jupyter: Start, models: Path, tmp_path: Path) -> None:
    config = tmp_path / "home" / "config" / "jupyter_server_config.py"
    config.parent.mkdir(parents=True)
    config.write_text(AUTHORIZER.format(denied={("read", "contents")}))
    server = start_jupyter()
    shutil.copytree(models / "affine" / "1", server.folder / "root" / "model")
    answer = ask(server, "model")
    assert answer.status == 403
    assert "contents" in answer.json["message"]
    config.write_text(AUTHORIZER.format(denied={("write", "jupyter_tfserve")}))
    server.close()
    assert ask(start_jupyter(), "model").status == 403
    assert not (server.store / "unborn").exists()


def test_the_disk_is_full(start_jupyter: Start, models: Path, small_disk: Path) -> None:
    """Known before the copy, and met by it."""
    server = start_jupyter(store=small_disk / "store")
    source = server.folder / "root" / "model"
    shutil.copytree(models / "affine" / "1", source)
    with open(source / "variables" / "large", "wb") as file:
        file.truncate(40 << 20)
    is_refused(server, ask(server, "model"), 507, "the store's disk has")
    (source / "variables" / "large").unlink()
    for number in range(200):  # each takes a page, whatever its size
        (source / "variables" / str(number)).write_bytes(b"x")
    filler = small_disk / "filler"
    with open(filler, "wb") as file:
        file.write(bytes(shutil.disk_usage(small_disk).free - (200 << 10)))
    is_refused(server, ask(server, "model"), 507, "The disk of the store is full.")
    filler.unlink()
    made = ask(server, "model")
    assert made.status == 201, made
    wait_for("it to answer", lambda: server.call("POST", "/tfserve/v1/models/unborn:predict", {"instances": [1.0]}))

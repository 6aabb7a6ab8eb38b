"""Versions in pieces: what may come, what is refused, and going on after a break. No server needed."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from jupyter_tfserve.extension import uploads
from jupyter_tfserve.extension.uploads import UploadRefused, Uploads
from jupyter_tfserve.store import Store, StoreError

#: A SavedModel as far as its wire format goes: 5000 bytes, one field that says nothing.
GRAPH = b"\x7a\x85\x27" + (b"graph" * 1000)[:4997]

FILES = {"saved_model.pb": GRAPH, "variables/variables.data-00000-of-00001": b"x" * 3000, "assets/empty": b""}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def there(store: Store) -> Uploads:
    return Uploads(store)


def announced(files: dict[str, bytes] = FILES, model: str = "m", version: int | None = None) -> dict[str, Any]:
    return {
        "model": model,
        "version": version,
        "files": [
            {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in files.items()
        ],
    }


def send(there: Uploads, upload: str, files: dict[str, bytes] = FILES, size: int = 1024) -> None:
    for path, data in files.items():
        for offset in range(0, len(data), size):
            there.write(upload, path, offset, data[offset : offset + size])


def test_a_version_arrives(there: Uploads, store: Store) -> None:
    begun = there.begin(announced())
    assert begun["model"] == "m"
    assert begun["received"] == {"assets/empty": 0}
    assert begun["published"] == ""
    assert abs(begun["version"] - time.time()) < 60
    send(there, begun["id"])
    done = there.finish(begun["id"])
    assert done["published"] == str(store.root / "m" / str(done["version"]))
    assert {
        path.relative_to(done["published"]).as_posix(): path.read_bytes()
        for path in Path(done["published"]).rglob("*")
        if path.is_file()
    } == FILES
    assert store.names() == ["m"]


def test_it_goes_on_where_it_stopped(there: Uploads, store: Store) -> None:
    begun = there.begin(announced(version=7))
    there.write(begun["id"], "saved_model.pb", 0, FILES["saved_model.pb"][:1000])
    again = Uploads(store).begin(announced(version=7))
    assert again["id"] == begun["id"]
    assert again["received"] == {"assets/empty": 0, "saved_model.pb": 1000}
    # The answer to a part was lost: it comes again, longer.
    there.write(begun["id"], "saved_model.pb", 500, FILES["saved_model.pb"][500:])
    assert there.begin(announced(version=7))["received"]["saved_model.pb"] == 5000
    with pytest.raises(UploadRefused, match="only 0 bytes have arrived") as refused:
        there.write(begun["id"], "variables/variables.data-00000-of-00001", 10, b"x")
    assert refused.value.status == 409
    send(there, begun["id"])
    assert there.finish(begun["id"])["version"] == 7
    assert there.begin(announced(version=8))["id"] != begun["id"]


def test_a_lost_answer_makes_no_second_version(there: Uploads, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = there.begin(announced())
    send(there, begun["id"])
    done = there.finish(begun["id"])
    assert there.finish(begun["id"]) == done
    again = there.begin(announced())
    assert again == {**done, "received": {path: len(data) for path, data in FILES.items()}}
    assert len(list((store.root / "m").iterdir())) == 1
    monkeypatch.setattr(uploads, "REMEMBERED", 0.0)  # later it is a version of its own
    assert there.begin(announced())["published"] == ""


def test_wrong_bytes_are_not_published(there: Uploads, store: Store) -> None:
    begun = there.begin(announced())
    send(there, begun["id"], {**FILES, "saved_model.pb": b"evil!" * 1000})
    with pytest.raises(UploadRefused, match="SHA-256") as refused:
        there.finish(begun["id"])
    assert refused.value.status == 409
    assert store.names() == []
    assert "saved_model.pb" not in there.begin(announced())["received"]
    send(there, begun["id"])
    assert there.finish(begun["id"])["published"]


def test_an_incomplete_version_is_not_published(there: Uploads, store: Store) -> None:
    begun = there.begin(announced())
    with pytest.raises(UploadRefused, match="0 of 5000 bytes"):
        there.finish(begun["id"])
    assert store.names() == []


def test_a_version_that_exists_is_not_replaced(there: Uploads, store: Store) -> None:
    (store.root / "m" / "3").mkdir(parents=True)
    begun = there.begin(announced(version=3))
    send(there, begun["id"])
    with pytest.raises(UploadRefused, match="exists already") as refused:
        there.finish(begun["id"])
    assert refused.value.status == 409


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        "",
        ".",
        "a/./b",
        "a\\b",
        "a\0b",
        "x" * 300,
        "a/" * 600 + "b",
        3,
    ],
)
def test_paths_that_leave_the_folder(there: Uploads, store: Store, path: Any) -> None:
    with pytest.raises(UploadRefused, match="no path inside") as refused:
        there.begin({"model": "m", "version": None, "files": [{"path": path, "size": 1, "sha256": "0" * 64}]})
    assert refused.value.status == 400
    assert not store.staging.exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"files": []},
        {"files": "x"},
        {"files": [1]},
        {"files": [{"path": "a", "size": -1, "sha256": "0" * 64}]},
        {"files": [{"path": "a", "size": True, "sha256": "0" * 64}]},
        {"files": [{"path": "a", "size": 1, "sha256": "0" * 63}]},
        {"files": [{"path": "a", "size": 1, "sha256": "0" * 64}] * 2},
        {"files": [{"path": p, "size": 1, "sha256": "0" * 64} for p in ("a/b", "a")]},
        {"version": -1},
        {"version": 2**63},
        {"version": "1"},
        {"version": True},
        {"model": None},
    ],
)
def test_announcements_that_make_no_sense(there: Uploads, changed: dict[str, Any]) -> None:
    with pytest.raises(UploadRefused) as refused:
        there.begin({**announced(), **changed})
    assert refused.value.status == 400


def test_names_that_cannot_be_served(there: Uploads) -> None:
    with pytest.raises(StoreError):
        there.begin(announced(model="../x"))


def test_nothing_beyond_what_was_announced(there: Uploads) -> None:
    begun = there.begin(announced())
    for path, offset, part in [("other", 0, b"x"), ("saved_model.pb", 4999, b"xy"), ("saved_model.pb", -1, b"x")]:
        with pytest.raises(UploadRefused) as refused:
            there.write(begun["id"], path, offset, part)
        assert refused.value.status == 400


def test_links_are_not_followed(there: Uploads, store: Store, tmp_path: Path) -> None:
    """Nobody can make one through us; another program in the store could."""
    begun = there.begin(announced())
    (tmp_path / "victim").write_text("precious")
    os.symlink(tmp_path / "victim", store.staging / f"upload-{begun['id']}" / "version" / "saved_model.pb")
    with pytest.raises(OSError, match="symbolic links"):
        there.write(begun["id"], "saved_model.pb", 0, b"x")
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("upload", ["0" * 32, "..", "x"])
def test_unknown_uploads(there: Uploads, upload: str) -> None:
    for attempt in (lambda: there.write(upload, "a", 0, b""), lambda: there.finish(upload)):
        with pytest.raises(UploadRefused) as refused:
            attempt()
        assert refused.value.status == 404
    there.abort(upload)


def test_giving_up(there: Uploads, store: Store) -> None:
    begun = there.begin(announced())
    there.abort(begun["id"])
    assert list(store.staging.iterdir()) == []
    with pytest.raises(UploadRefused):
        there.finish(begun["id"])


def test_abandoned_ones_are_swept(there: Uploads, store: Store) -> None:
    begun = there.begin(announced())
    folder = store.staging / f"upload-{begun['id']}"
    os.utime(folder, (0, 0))
    there.write(begun["id"], "saved_model.pb", 0, b"g")  # not abandoned
    store.create()
    assert folder.exists()
    os.utime(folder, (0, 0))
    there.begin(announced(model="another"))
    assert not folder.exists()


def test_no_space(there: Uploads, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UploadRefused, match="100 are allowed") as refused:
        Uploads(store, max_bytes=100).begin(announced())
    assert refused.value.status == 413
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(UploadRefused, match="10 left") as refused:
        there.begin(announced())
    assert refused.value.status == 507

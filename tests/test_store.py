"""The store, used by several processes at once: nothing is lost, nothing half-done is ever seen."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jupyter_tfserve import store as module
from jupyter_tfserve.store import STALE_SECONDS, Store, StoreError, check_name, versions_in, write_atomically


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


def staged(store: Store, name: str, content: str = "model") -> Path:
    """A staged version that nobody cleans up."""
    folder = store.staging / f"{name}-{content}"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_text(content)
    (folder / "variables" / "variables.index").write_text(content)
    return folder


def in_processes(code: str, count: int, *arguments: object) -> list[str]:
    """Run the same code in several processes that begin together; returns what each printed. Fails if one fails."""
    gate = (
        "import sys\nfrom pathlib import Path\nfrom jupyter_tfserve.store import *\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", gate + code, *map(str, arguments), str(index)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    return printed


# Names and versions.


@pytest.mark.parametrize(
    "name", ["digits", "a", "_x", "9lives", "half_plus_two.v2", "A-b.c_d", "x" * 128, "digits-2026"]
)
def test_names_that_can_be_served(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".staging",
        "-x",
        "a/b",
        "a b",
        "a:predict",
        "é",
        "x" * 129,
        "models.config",
        "other.config",
        "a\n",
    ],
)
def test_names_that_cannot_are_refused_with_one_that_can(name: str) -> None:
    with pytest.raises(StoreError) as refused:
        check_name(name)
    better = refused.value.remedy.split("'")[-2]
    assert check_name(better) == better


def test_versions_are_whole_numbers_of_64_bits(tmp_path: Path) -> None:
    for name in ("1", "0", "0002", "2", str(2**63 - 1), str(2**63), "-1", "1.0", "1a", "v1", ".keep", "٣"):
        (tmp_path / name).mkdir()
    found = versions_in(tmp_path)
    assert sorted(found) == [0, 1, 2, 2**63 - 1]
    assert found[2].name == "2"


def test_no_folder_has_no_versions(tmp_path: Path) -> None:
    assert versions_in(tmp_path / "nowhere") == {}


def test_next_version_is_the_time_but_always_above_the_newest(store: Store) -> None:
    before = int(time.time())
    assert before <= store.next_version("digits") <= time.time()
    (store.root / "digits" / str(before + 1000)).mkdir(parents=True)
    assert store.next_version("digits") == before + 1001


# Publishing.


def test_a_version_appears_whole(store: Store) -> None:
    with store.stage("digits") as folder:
        assert folder.parent == store.staging
        assert store.names() == []
        (folder / "saved_model.pb").write_text("model")
        number, path = store.publish(folder, "digits", 7)
    assert (number, path) == (7, store.root / "digits" / "7")
    assert (path / "saved_model.pb").read_text() == "model"
    assert store.names() == ["digits"]
    assert list(store.staging.iterdir()) == []


def test_an_interrupted_export_leaves_nothing(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.stage("digits") as folder:
        (folder / "saved_model.pb").write_text("half")
        raise KeyboardInterrupt
    assert list(store.staging.iterdir()) == []
    assert not (store.root / "digits").exists()


def test_a_version_is_never_overwritten(store: Store) -> None:
    store.publish(staged(store, "digits", "first"), "digits", 7)
    second = staged(store, "digits", "second")
    with pytest.raises(StoreError, match=r"Version 7 of 'digits' exists") as refused:
        store.publish(second, "digits", 7)
    assert "above 7" in refused.value.remedy
    assert (store.root / "digits" / "7" / "saved_model.pb").read_text() == "first"
    assert second.exists()


def test_a_version_with_zeros_before_its_number_is_taken_too(store: Store) -> None:
    (store.root / "digits" / "0007").mkdir(parents=True)
    with pytest.raises(StoreError, match="exists"):
        store.publish(staged(store, "digits"), "digits", 7)


def test_processes_that_publish_at_once_get_versions_of_their_own(store: Store) -> None:
    code = """
store, index = Store(sys.argv[1]), sys.argv[2]
for turn in range(10):
    with store.stage("digits") as folder:
        (folder / "saved_model.pb").write_text(f"{index}.{turn}")
        number, path = store.publish(folder, "digits")
    assert (path / "saved_model.pb").read_text() == f"{index}.{turn}"
    print(number)
"""
    numbers = [int(line) for printed in in_processes(code, 4, store.root) for line in printed.split()]
    assert len(set(numbers)) == 40
    found = versions_in(store.root / "digits")
    assert set(found) == set(numbers)
    contents = {(path / "saved_model.pb").read_text() for path in found.values()}
    assert contents == {f"{index}.{turn}" for index in range(4) for turn in range(10)}
    assert list(store.staging.iterdir()) == []


def test_of_processes_that_want_the_same_number_one_gets_it(store: Store) -> None:
    code = """
store, index = Store(sys.argv[1]), sys.argv[2]
with store.stage("digits") as folder:
    (folder / "saved_model.pb").write_text(index)
    try:
        store.publish(folder, "digits", 5)
        print("mine")
    except StoreError:
        print("taken")
"""
    printed = [text.strip() for text in in_processes(code, 4, store.root)]
    assert sorted(printed) == ["mine", "taken", "taken", "taken"]
    assert (store.root / "digits" / "5" / "saved_model.pb").read_text() == str(printed.index("mine"))


def test_processes_that_create_at_once_agree_on_the_id(tmp_path: Path) -> None:
    code = "print(*[Store(f'{sys.argv[1]}-{turn}').create().id or 'none yet' for turn in range(20)], sep='\\n')"
    seen = [text.splitlines() for text in in_processes(code, 4, tmp_path / "new")]
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert all(len(word) == 32 for word in seen[0])


# Removing.


def test_removing_a_version_and_a_model(store: Store) -> None:
    for version in (1, 2):
        store.publish(staged(store, "digits", str(version)), "digits", version)
    store.remove_version(store.root / "digits" / "1")
    assert sorted(versions_in(store.root / "digits")) == [2]
    store.remove("digits")
    assert not (store.root / "digits").exists()
    assert list(store.staging.iterdir()) == []
    store.remove("digits")  # twice is fine
    store.remove_version(store.root / "digits" / "1")


def test_what_dead_processes_left_is_swept_but_not_what_is_being_written(store: Store) -> None:
    old, young = staged(store, "old"), staged(store, "young")
    long_ago = time.time() - STALE_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    store.create()
    assert not old.exists()
    assert young.exists()


# The rest of what stands in the store.


def test_keep_versions(store: Store) -> None:
    assert store.keep_versions("digits") == 0
    store.set_keep_versions("digits", 3)
    assert store.keep_versions("digits") == 3
    assert store.names() == []
    (store.root / "digits" / ".keep").write_text("nonsense")
    assert store.keep_versions("digits") == 0


def test_batching(store: Store) -> None:
    assert store.batching("digits") == {}
    store.set_batching("digits", {"mode": "on"})
    assert store.batching("digits") == {"mode": "on"}
    assert store.names() == []
    for nonsense in ("nonsense", "[]"):
        (store.root / "digits" / ".batching").write_text(nonsense)
        assert store.batching("digits") == {}


def test_stopped(store: Store) -> None:
    store.set_stopped("digits", "how it was served")  # it lives elsewhere
    assert store.stopped("digits") == ""
    (store.root / "digits" / "1").mkdir(parents=True)
    store.set_stopped("digits", "how it was served")
    assert store.stopped("digits") == "how it was served"
    assert store.names() == ["digits"] and list(versions_in(store.root / "digits")) == [1]
    for _ in range(2):
        store.set_stopped("digits", "")
        assert store.stopped("digits") == ""
    (store.root / "digits" / ".stopped").write_bytes(b"\xff\xfe")
    assert store.stopped("digits") == ""


def test_has_models(store: Store) -> None:
    assert not store.has_models
    write_atomically(store.config, "model_config_list {}")
    assert not store.has_models
    write_atomically(store.config, 'model_config_list { config { name: "digits" base_path: "/x" } }')
    assert store.has_models


def test_only_the_user_can_read_it(store: Store) -> None:
    store.publish(staged(store, "digits"), "digits", 1)
    write_atomically(store.config, "")
    for path in (store.root, store.staging, store.root / "digits"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (store.config, store.root / ".store_id"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_update_is_lost_while_the_lock_is_held(store: Store) -> None:
    counter = store.root / "counter"
    counter.write_text("0")
    code = """
store = Store(sys.argv[1])
for _ in range(50):
    with store.locked():
        count = int((store.root / "counter").read_text())
        write_atomically(store.root / "counter", str(count + 1))
"""
    in_processes(code, 4, store.root)
    assert counter.read_text() == "200"


def test_the_lock_of_a_killed_process_is_free(store: Store) -> None:
    code = (
        "import sys\nfrom jupyter_tfserve.store import Store\n"
        "with Store(sys.argv[1]).locked():\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    with store.locked():
        pass


def test_readers_see_the_old_or_the_new_never_a_part(store: Store) -> None:
    texts = [json.dumps({"turn": turn, "fill": "x" * 50_000}) for turn in range(2)]
    path = store.root / "some.json"
    write_atomically(path, texts[0])
    code = """
path = Path(sys.argv[1]) / "some.json"
texts = ['{"turn": %d, "fill": "%s"}' % (turn, "x" * 50_000) for turn in range(2)]
for turn in range(100):
    if sys.argv[2] == "0":
        write_atomically(path, texts[turn % 2])
    assert path.read_text() in texts
"""
    in_processes(code, 3, store.root)
    assert path.read_text() in texts
    assert [entry.name for entry in store.root.iterdir() if entry.name.startswith(".some.json")] == []


def test_a_failed_write_leaves_the_old_text(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(store.config, "old")

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomically(store.config, "new")
    assert store.config.read_text() == "old"
    assert [entry.name for entry in store.root.iterdir() if entry.name.startswith(".models.config")] == []


def test_what_is_named_is_on_the_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order, whenever the power is cut: the files, the folders that name them, and only then the version."""
    synced: list[tuple[Path, bool]] = []
    base = store.model("cut")
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{fd}")), (base / "3").exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with store.stage("cut") as staged:
        (staged / "variables").mkdir()
        (staged / "variables" / "variables.index").write_text("w")
        store.publish(staged, "cut", 3)
    file, folder = staged / "variables" / "variables.index", staged / "variables"
    before = [path for path, published in synced if not published]
    assert {file, folder, staged} <= set(before) and before.index(file) < before.index(folder)
    assert [path for path, published in synced if published] == [base, store.root]
    synced.clear()
    write_atomically(store.config, "model_config_list {}")
    assert [path for path, _ in synced][-1] == store.root and len(synced) == 2


def test_a_folder_that_cannot_be_made_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made") as refused:
        Store(tmp_path / "file" / "store").create()
    assert "JUPYTER_TFSERVE_STORE" in refused.value.remedy

"""Registrations on a real model server that this process owns."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jupyter_tfserve.client import TFServeError
from jupyter_tfserve.kernel.endpoint import OwnedEndpoint
from jupyter_tfserve.kernel.errors import KernelError, LoadError
from jupyter_tfserve.store import Store, versions_in

ROWS = np.array([1.0, 2.0], np.float32)


def times(factor: float) -> Callable[[Any], Any]:
    """A Python function of a tensor; `ROWS` is an example."""
    return lambda x: x * factor


@pytest.fixture
def store(owned: OwnedEndpoint) -> Store:
    found = owned.store()
    assert found is not None
    return found


@pytest.fixture
def name(owned: OwnedEndpoint, request: pytest.FixtureRequest) -> Iterator[str]:
    """A model's name of the test's own; the model is gone afterwards."""
    name = request.node.name.partition("[")[0][:100]
    yield name
    try:
        owned.remove(name)
    except TFServeError:
        pass


def staged(store: Store) -> list[str]:
    return os.listdir(store.staging)


def test_versions_and_labels(owned: OwnedEndpoint, store: Store, name: str) -> None:
    lines: list[str] = []
    first = owned.register(name, times(2), example=ROWS, labels=["stable"], progress=lines.append, expression="double")
    assert first.version in versions_in(store.model(name))
    assert first.url == f"{owned.url}/v1/models/{name}"
    assert first.labels == {"stable": first.version}
    assert first.example == {"instances": [1.0]}
    assert first.signatures["serving_default"]["inputs"] == {"x": {"dtype": "float32", "shape": [-1]}}
    assert any(line.startswith("Exporting") for line in lines) and any(line.startswith("Loading") for line in lines)
    second = owned.register(name, times(3), example=ROWS)
    assert second.version > first.version
    assert owned.predict(name, ROWS).tolist() == [3.0, 6.0]
    third = owned.register(name, times(4), example=ROWS, labels=["stable"])
    assert third.labels == {"stable": third.version}
    assert owned.predict(name, ROWS, label="stable").tolist() == [4.0, 8.0]
    assert staged(store) == []
    report = owned.status(name)
    assert report.lineages[third.version]["object"].startswith("builtins.function")
    assert f"{name}" in str(report) and "Version" in report._repr_html_()


def test_number_of_ones_own(owned: OwnedEndpoint, store: Store, name: str) -> None:
    assert owned.register(name, times(2), example=ROWS, version=7).version == 7
    with pytest.raises(KernelError, match=r"Version 7 .* exists already") as caught:
        owned.register(name, times(2), example=ROWS, version=7)
    assert "above 7" in caught.value.remedy
    older = owned.register(name, times(3), example=ROWS, version=5)
    assert "stored but not served" in older.warnings[0]
    assert owned.predict(name, ROWS).tolist() == [2.0, 4.0]
    owned.register(name, times(5), example=ROWS, version=6, policy={"specific": {"versions": [6]}})
    assert owned.predict(name, ROWS).tolist() == [5.0, 10.0]


def test_no_request_fails_while_a_version_takes_over(owned: OwnedEndpoint, name: str) -> None:
    owned.register(name, times(1), example=ROWS)
    answers: list[float] = []
    errors: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                answers.append(float(owned.predict(name, ROWS)[0]))
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    for factor in (2, 3, 4):
        owned.register(name, times(factor), example=ROWS)
    done.set()
    thread.join()
    assert errors == []
    assert answers == sorted(answers), "the answers changed back"
    assert len(set(answers)) > 1


def broken(saved_model: Path, folder: Path) -> Path:
    """A SavedModel whose graph is nonsense."""
    shutil.copytree(saved_model, folder)
    (folder / "saved_model.pb").write_bytes(b"\x0a\xff\xff nonsense")
    return folder


def test_version_that_does_not_load(
    owned: OwnedEndpoint, store: Store, name: str, saved_model: Path, tmp_path: Path
) -> None:
    good = owned.register(name, saved_model, labels=["stable"])
    with pytest.raises(LoadError, match="could not be loaded") as caught:
        owned.register(name, broken(saved_model, tmp_path / "broken"), labels=["stable"])
    assert f"Version {good.version} goes on serving" in caught.value.message
    assert "folder was removed" in caught.value.message
    assert "logs" in caught.value.remedy
    assert list(versions_in(store.model(name))) == [good.version]
    assert owned.predict(name, ROWS, label="stable").tolist() == [2.0, 4.0]
    assert staged(store) == []


def test_first_version_that_does_not_load(
    owned: OwnedEndpoint, store: Store, name: str, saved_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(LoadError):
        owned.register(name, broken(saved_model, tmp_path / "broken"))
    assert name not in [model["name"] for model in owned.state()["models"]]
    assert not store.model(name).exists()


def test_interrupt_while_it_loads(owned: OwnedEndpoint, store: Store, name: str, saved_model: Path) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("Loading"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        owned.register(name, saved_model, progress=interrupt)
    assert not store.model(name).exists()
    assert staged(store) == []


def test_base_path_is_served_in_place(
    owned: OwnedEndpoint, store: Store, name: str, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved_model, tmp_path / "models" / "3")
    monkeypatch.chdir(tmp_path)
    done = owned.register(name, "models")
    assert (done.version, done.path) == (3, str(tmp_path / "models" / "3"))
    assert owned.predict(name, ROWS).tolist() == [2.0, 4.0]
    with pytest.raises(KernelError, match="own numbers"):
        owned.register(name, "models", version=4)
    # An export under the same name moves to the store.
    owned.register(name, times(5), example=ROWS)
    assert owned.predict(name, ROWS).tolist() == [5.0, 10.0]
    assert list(versions_in(tmp_path / "models")) == [3]


def test_what_the_store_holds_is_served_again(owned: OwnedEndpoint, name: str, saved_model: Path) -> None:
    version = owned.register(name, saved_model).version
    owned.unload(name)
    assert name in owned.state()["stored"]
    with pytest.raises(TFServeError):
        owned.predict(name, ROWS)
    assert owned.register(name).version == version
    assert owned.predict(name, ROWS).tolist() == [2.0, 4.0]
    owned.remove(name)
    with pytest.raises(KernelError, match="holds no version") as caught:
        owned.register(name)
    assert f"%tfserve {name} OBJECT" in caught.value.remedy


def test_fixed_number_of_rows_is_warned_of(owned: OwnedEndpoint, name: str) -> None:
    import tensorflow as tf

    done = owned.register(name, lambda x: tf.reshape(x, [int(x.shape[0]), 1]), example=ROWS)
    assert "takes exactly 2 rows" in done.warnings[0] and "None" in done.warnings[0]


def test_old_versions_are_removed_as_wished(owned: OwnedEndpoint, store: Store, name: str, saved_model: Path) -> None:
    for _ in range(4):
        last = owned.register(name, saved_model, keep=2)
    assert len(versions_in(store.model(name))) <= 3
    assert last.version in versions_in(store.model(name))


@pytest.mark.parametrize("bad", ["a/b", "", ".hidden", "models.config", "ä"])
def test_names_that_no_url_can_hold(owned: OwnedEndpoint, bad: str, saved_model: Path) -> None:
    with pytest.raises(KernelError, match="cannot be the name") as caught:
        owned.register(bad, saved_model)
    assert "for example" in caught.value.remedy


def test_killed_model_server_comes_back_and_the_user_is_told(
    owned: OwnedEndpoint, name: str, saved_model: Path
) -> None:
    owned.register(name, saved_model)
    owned.news()
    pid = owned.info()["pid"]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    deadline = threading.Event()
    for _ in range(1000):
        if owned.info()["last_exit"] is not None and owned.info()["state"] == "running":
            break
        deadline.wait(0.05)
    (news,) = owned.news()
    assert "was killed by SIGKILL" in news and "serves again" in news
    assert owned.news() == []
    assert owned.predict(name, ROWS).tolist() == [2.0, 4.0]


def test_large_model_is_not_copied_into_memory(owned: OwnedEndpoint, name: str) -> None:
    import tensorflow as tf

    class Large(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.weights = tf.Variable(tf.zeros([50_000_000]))  # 200 MB

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return x + self.weights[0]

    model = Large()
    process = psutil.Process()
    before = process.memory_info().rss
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        path = owned.register(name, model).path
        owned.register(name, path, keep=1)
    finally:
        done.set()
        thread.join()
    assert peak - before < 100_000_000

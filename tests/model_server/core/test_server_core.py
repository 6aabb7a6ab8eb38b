"""From a configuration to servables, with a loader that only looks at the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_for

from jupyter_tfserve.model_server.core.manager import RetryPolicy, Version
from jupyter_tfserve.model_server.core.policy import All, ModelConfig
from jupyter_tfserve.model_server.core.server_core import CoreOptions, ServerCore
from jupyter_tfserve.model_server.errors import Code, ServingError


class Folder:
    """A servable."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def close(self) -> None:
        """Nothing to free."""


def load(name: str, number: int, path: Path) -> Any:
    if (path / "broken").exists():
        raise ServingError(Code.DATA_LOSS, "broken")
    return Folder(path)


@pytest.fixture
def make() -> Iterator[Callable[..., ServerCore]]:
    made: list[ServerCore] = []

    def core(loader: Any = load, on_model: Any = lambda name, change: None, **options: Any) -> ServerCore:
        options.setdefault("retry", RetryPolicy(0, 0))
        options.setdefault("file_system_poll_wait_seconds", 0.02)
        one = ServerCore(loader, CoreOptions(**options), on_model=on_model)
        one.start()
        made.append(one)
        return one

    yield core
    for one in made:
        one.close(5)


def model(folder: Path, *versions: int, **options: Any) -> ModelConfig:
    for number in versions:
        (folder / str(number)).mkdir(parents=True)
    return ModelConfig(folder.name, folder, **options)


def answers(core: ServerCore, name: str, *numbers: int) -> None:
    wait_for(f"{numbers} of {name}", lambda: sorted(core.manager.available(name)) == sorted(numbers))


def test_reload_replaces_everything(make: Callable[..., ServerCore], tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    core = make(on_model=lambda name, change: told.append((name, change)))
    a, b, c = (model(tmp_path / name, 1) for name in "abc")
    assert core.reload([a, b]) == {}
    assert core.wait(["a", "b"], 30) == {}
    with core.use("a") as version:
        assert isinstance(version, Version) and version.number == 1
    core.reload([ModelConfig("b", b.base_path, policy=All()), c])
    assert core.wait(["c"], 30) == {}
    answers(core, "a")
    assert core.manager.wait(lambda: (life := core.manager.life("a", 1)) is not None and life.state == "END", 30)
    assert told == [("a", "served"), ("b", "served"), ("a", "removed"), ("b", "changed"), ("c", "served")]
    core.reload([])
    answers(core, "b")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": ""}, "without a name"),
        ({"base_path": Path("rel")}, "to have an absolute path or URI; got base_path"),
        ({"platform": "other"}, "Illegal to change a model's platform"),
        ({"name": "new", "platform": "other"}, "Unknown platform 'other'"),
        ({"labels": {"s": 9}}, "label s to version 9 of model m, which is not currently available for inference"),
    ],
)
def test_a_refused_configuration_changes_nothing(
    make: Callable[..., ServerCore], tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    core = make()
    good = model(tmp_path / "m", 1)
    core.reload([good])
    assert core.wait(["m"], 30) == {}
    fields = {"name": "m", "base_path": good.base_path, "platform": "tensorflow", "labels": {}, **changed}
    with pytest.raises(ServingError, match=said):
        core.reload([ModelConfig(**fields), model(tmp_path / "fine", 1)])
    assert dict(core.models) == {"m": good}
    with pytest.raises(ServingError, match="multiple times"):
        core.reload([good, good])
    answers(core, "m", 1)
    core.reload([good, model(tmp_path / "later", 1)])  # and the next one is accepted
    assert core.wait(["later"], 30) == {}


def test_labels_for_versions_that_are_not_there_yet(make: Callable[..., ServerCore], tmp_path: Path) -> None:
    core = make(allow_version_labels_for_unavailable_models=True)
    path = tmp_path / "m"
    core.reload([model(path, 1)])
    assert core.wait(["m"], 30) == {}
    core.reload([ModelConfig("m", path, policy=All(), labels={"stable": 1, "next": 2})])
    with pytest.raises(ServingError, match="label stable to version 2"):  # one in use does not move there
        core.reload([ModelConfig("m", path, policy=All(), labels={"stable": 2})])
    (path / "2").mkdir()
    answers(core, "m", 1, 2)
    with core.use("m", label="next") as version:
        assert version.number == 2


def test_one_bad_model_does_not_touch_another(make: Callable[..., ServerCore], tmp_path: Path) -> None:
    core = make()
    good, bad, empty = model(tmp_path / "good", 1), model(tmp_path / "bad", 1), model(tmp_path / "empty")
    (bad.base_path / "1" / "broken").touch()
    empty.base_path.mkdir()
    errors = core.reload([ModelConfig("missing", tmp_path / "missing"), bad, empty, good])
    assert set(errors) == {"missing", "empty"}
    failures = core.wait(["missing", "bad", "empty", "good"], 30)
    assert set(failures) == {"missing", "bad", "empty"}
    assert failures["bad"] == "version 1: broken"
    (good.base_path / "2").mkdir()
    answers(core, "good", 2)
    # What was wrong is forgotten when it is right.
    model(tmp_path / "missing", 1)
    answers(core, "missing", 1)
    assert core.error("missing") == "" and core.error("empty")
    # A base path that goes away takes nothing with it.
    good.base_path.rename(tmp_path / "away")
    (tmp_path / "missing" / "5").mkdir()
    answers(core, "missing", 5)
    answers(core, "good", 2)
    assert core.error("good") == ""


def test_while_the_models_of_the_start_load(make: Callable[..., ServerCore], tmp_path: Path) -> None:
    gate = threading.Event()

    def slow(name: str, number: int, path: Path) -> Any:
        assert gate.wait(30)
        return load(name, number, path)

    core = make(slow)
    core.reload([model(tmp_path / "m", 1), ModelConfig("gone", tmp_path / "gone")], starting=True)
    with pytest.raises(ServingError, match="Model m is still loading") as refused, core.use("m"):
        pass
    assert refused.value.code is Code.UNAVAILABLE
    with pytest.raises(ServingError, match=r"Latest\(gone\)") as refused, core.use("gone"):
        pass
    assert refused.value.code is Code.NOT_FOUND
    gate.set()
    assert set(core.wait(["m", "gone"], 30)) == {"gone"}
    with core.use("m") as version:
        assert version.number == 1
    with pytest.raises(ServingError, match=r"Specific\(m, 7\)") as refused, core.use("m", 7):
        pass
    assert refused.value.code is Code.NOT_FOUND


def test_a_wait_that_is_interrupted_says_so(make: Callable[..., ServerCore], tmp_path: Path) -> None:
    gate = threading.Event()

    def slow(name: str, number: int, path: Path) -> Any:
        assert gate.wait(30)
        return load(name, number, path)

    core = make(slow)
    core.reload([model(tmp_path / "m", 1)])
    core.manager.interrupt()
    assert core.wait(["m"]) == {"m": "it is still loading"}
    gate.set()

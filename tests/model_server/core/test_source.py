"""What the source sees on the disk, and when it says so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from helpers import wait_for

from jupyter_tfserve.model_server.core.policy import All, Latest, ModelConfig, Specific
from jupyter_tfserve.model_server.core.source import FileSystemSource

Heard = dict[str, list[int]]


@pytest.fixture
def heard() -> Heard:
    """The versions that were aspired to last, by model."""
    return {}


@pytest.fixture
def make(heard: Heard) -> Iterator[Callable[..., FileSystemSource]]:
    made: list[FileSystemSource] = []

    def hear(name: str, versions: Mapping[int, Path]) -> None:
        heard[name] = sorted(versions)

    def source(seconds: float = 0.0, keep_labelled: bool = False) -> FileSystemSource:
        one = FileSystemSource(hear, seconds, keep_labelled)
        made.append(one)
        return one

    yield source
    for one in made:
        one.stop()


def base(folder: Path, *versions: str) -> Path:
    for version in versions:
        (folder / version).mkdir(parents=True)
    return folder


def test_a_look(make: Callable[..., FileSystemSource], heard: Heard, tmp_path: Path) -> None:
    source = make()
    a = base(tmp_path / "a", "1", "2", "x", "1.5", "-3", "+4", " 5", "99999999999999999999", ".6")
    b = base(tmp_path / "b", "1", "2")
    errors = source.set_models(
        {
            "a": ModelConfig("a", a, policy=All()),
            "b": ModelConfig("b", b, policy=Specific(frozenset({1, 7}))),
            "c": ModelConfig("c", b, policy=Specific(frozenset({7}))),
        }
    )
    assert heard == {"a": [1, 2], "b": [1], "c": []}
    assert errors == {"c": f"No versions of servable c found under base path {b}"}
    source.set_models({"a": ModelConfig("a", a)})
    assert heard == {"a": [2], "b": [], "c": []}


def test_of_equal_numbers_the_name_that_sorts_last(make: Callable[..., FileSystemSource], tmp_path: Path) -> None:
    seen: list[Mapping[int, Path]] = []
    source = FileSystemSource(lambda name, versions: seen.append(versions), 0)
    source.set_models({"a": ModelConfig("a", base(tmp_path / "a", "2", "0002"))})
    assert seen == [{2: tmp_path / "a" / "2"}]


def test_labelled_versions_where_they_are_to_be_kept(
    make: Callable[..., FileSystemSource], heard: Heard, tmp_path: Path
) -> None:
    config = ModelConfig("a", base(tmp_path / "a", "1", "2", "3"), labels={"stable": 1})
    make(keep_labelled=False).set_models({"a": config})
    assert heard == {"a": [3]}
    make(keep_labelled=True).set_models({"a": config})
    assert heard == {"a": [1, 3]}
    named = ModelConfig("a", config.base_path, policy=Specific(frozenset({2})), labels={"stable": 1})
    make(keep_labelled=True).set_models({"a": named})
    assert heard == {"a": [2]}, "a policy that names its versions means them"


@pytest.mark.parametrize("missing", ["/no/such/folder", "/" + "x" * 5000, "/with/\0/in/it"])
def test_a_base_path_that_cannot_be_touches_no_other(
    make: Callable[..., FileSystemSource], heard: Heard, tmp_path: Path, missing: str
) -> None:
    source = make(0.02)
    source.start()
    a = base(tmp_path / "a", "1")
    errors = source.set_models({"gone": ModelConfig("gone", Path(missing)), "a": ModelConfig("a", a)})
    assert errors == {"gone": f"Could not find base path {missing} for servable gone"}
    assert source.error("gone") and not source.error("a")
    base(a, "2")
    wait_for("the other model's new version", lambda: heard["a"] == [2])


def test_a_base_path_that_vanishes_keeps_its_versions_and_one_that_comes_is_seen(
    make: Callable[..., FileSystemSource], heard: Heard, tmp_path: Path
) -> None:
    source = make(0.02)
    source.start()
    path = base(tmp_path / "a", "1")
    source.set_models({"a": ModelConfig("a", path)})
    path.rename(tmp_path / "away")
    wait_for("the error", lambda: "Could not find base path" in source.error("a"))
    assert heard == {"a": [1]}
    base(tmp_path / "away", "2")
    (tmp_path / "away").rename(path)
    wait_for("the new version", lambda: heard == {"a": [2]})
    assert source.error("a") == ""


def test_a_change_is_seen_at_once(make: Callable[..., FileSystemSource], heard: Heard, tmp_path: Path) -> None:
    source = make(3600.0)  # polling would take an hour
    a, b = base(tmp_path / "a", "1"), base(tmp_path / "b", "1")
    source.start()
    source.set_models({"a": ModelConfig("a", a, policy=Latest(2))})
    source.set_models({"a": ModelConfig("a", a, policy=Latest(2)), "b": ModelConfig("b", b)})

    def appear(path: Path, name: str) -> bool:
        """The watch may begin a moment after `set_models`: what appears before is the next poll's business."""
        number = max(map(int, os.listdir(path))) + 1
        (path / str(number)).mkdir()
        try:
            wait_for("the event", lambda: number in heard[name], 1)
        except AssertionError:
            return False
        return True

    for path, name in ((b, "b"), (a, "a")):
        wait_for(f"a new version of {name} to be seen", lambda path=path, name=name: appear(path, name))
    newest = max(map(int, os.listdir(a)))
    os.rmdir(a / str(newest))
    wait_for("its end to be seen", lambda: newest not in heard["a"])


def test_without_polling_only_when_asked(make: Callable[..., FileSystemSource], heard: Heard, tmp_path: Path) -> None:
    source = make(0)
    source.start()
    path = base(tmp_path / "a", "1")
    source.set_models({"a": ModelConfig("a", path)})
    base(path, "2")
    assert heard == {"a": [1]}
    assert source.look("a") == ""
    assert heard == {"a": [2]}
    assert source.look("nobody") == ""

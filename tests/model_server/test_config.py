"""ModelServerConfig as text, and the changes made to it; a core with a loader that loads nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_for

from jupyter_tfserve.model_server import config as module
from jupyter_tfserve.model_server.config import ConfigStore, parse, to_models
from jupyter_tfserve.model_server.core.policy import All, Latest, ModelConfig, Specific
from jupyter_tfserve.model_server.core.server_core import CoreOptions, ServerCore
from jupyter_tfserve.model_server.errors import Code, ServingError
from jupyter_tfserve.store import Store


class Nothing:
    """A servable."""

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., tuple[ServerCore, ConfigStore]]]:
    cores: list[ServerCore] = []

    def both(store: Store | None = None) -> tuple[ServerCore, ConfigStore]:
        loader: Any = lambda name, number, path: Nothing()  # noqa: E731
        core = ServerCore(loader, CoreOptions(0, keep_labelled=store is not None))
        cores.append(core)
        return core, ConfigStore(core, store)

    yield both
    for core in cores:
        core.close(5)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


def version(store: Store, name: str, *numbers: int) -> None:
    for number in numbers:
        (store.root / name / str(number)).mkdir(parents=True)


def served(core: ServerCore, name: str, *numbers: int) -> None:
    wait_for(f"{numbers} of {name}", lambda: sorted(core.manager.available(name)) == sorted(numbers))


def test_to_models() -> None:
    text = """
    # a comment
    model_config_list {
      config { name: "a" base_path: "/a" model_platform: "tensorflow" version_labels { key: "s" value: 3 } }
      config { name: "b" base_path: "/b" model_type: TENSORFLOW model_version_policy { all {} } }
      config { name: "c" base_path: "/c" model_platform: "tensorflow"
               model_version_policy { specific { versions: 1 versions: 2 } } }
      config { name: "d" base_path: "/d" model_platform: "tensorflow"
               model_version_policy { latest { num_versions: 0 } } }
    }
    """
    assert to_models(parse(text)) == [
        ModelConfig("a", Path("/a"), labels={"s": 3}),
        ModelConfig("b", Path("/b"), policy=All()),
        ModelConfig("c", Path("/c"), policy=Specific(frozenset({1, 2}))),
        ModelConfig("d", Path("/d"), policy=Latest(1)),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model_config_list { config { nam: 'x' } }", "nam"),
        ("model_config_list {", "Error parsing text-format"),
        (
            "custom_model_config { [type.googleapis.com/tensorflow.serving.ModelServerConfig] { " * 300 + "}}" * 300,
            "nested too deeply",
        ),
        ("custom_model_config {}", "custom_model_config is not supported"),
        ("model_config_list { config { name: 'a' base_path: '/a' } }", "Illegal setting neither"),
        (
            "model_config_list { config { name: 'a' base_path: '/a' model_type: TENSORFLOW model_platform: 'x' } }",
            "Illegal setting both",
        ),
    ],
)
def test_refused_texts(text: str, said: str) -> None:
    with pytest.raises(ServingError, match=said) as refused:
        to_models(parse(text))
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="No such file"):
        module.read(tmp_path / "missing")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ServingError, match="is no text"):
        module.read(tmp_path / "bytes")


def test_register_policy_labels_unregister(make: Callable[..., tuple[ServerCore, ConfigStore]], store: Store) -> None:
    core, configs = make(store)
    version(store, "m", 1, 2, 3)
    configs.register("m", {})
    served(core, "m", 3)
    configs.set_policy("m", {"specific": {"versions": [1, 2]}})
    served(core, "m", 1, 2)
    configs.set_labels("m", {"stable": 1})
    configs.set_policy("m", {"latest": {"num_versions": 1}})
    served(core, "m", 1, 3)  # in a store a labelled version stays
    configs.set_labels("m", {"stable": None})
    served(core, "m", 3)
    configs.set_policy("m", {"all": {}})
    served(core, "m", 1, 2, 3)
    text = configs.text()
    assert text == store.config.read_text() and "all" in text

    # Another process on the same store.
    other_core, other = make(store)
    assert other.load() == {}
    served(other_core, "m", 1, 2, 3)
    other.unregister("m", files=True)
    assert not (store.root / "m").exists() and not other_core.models
    configs.follow()
    served(core, "m")
    assert not core.models


def test_what_was_stopped_comes_back_as_it_was(
    make: Callable[..., tuple[ServerCore, ConfigStore]], store: Store, tmp_path: Path
) -> None:
    core, configs = make(store)
    version(store, "m", 1, 2, 3)
    configs.register("m", {"policy": {"specific": {"versions": [1, 2]}}})
    served(core, "m", 1, 2)
    configs.set_labels("m", {"stable": 1, "canary": 2})
    before = configs.text()
    configs.unregister("m", files=False)
    served(core, "m")
    configs.register("m", {})
    served(core, "m", 1, 2)
    assert configs.text() == before
    assert core.manager.labels("m") == {"stable": 1, "canary": 2}
    assert store.stopped("m") == ""

    # What is not there any more is left out, and what is asked for comes before what was.
    configs.unregister("m", files=False)
    (store.root / "m" / "2").rmdir()
    configs.register("m", {"labels": {"stable": None, "new": 1}})
    served(core, "m", 1)
    [model] = parse(configs.text()).model_config_list.config
    assert list(model.model_version_policy.specific.versions) == [1] and dict(model.version_labels) == {"new": 1}
    configs.unregister("m", files=False)
    (store.root / "m" / "1").rmdir()
    configs.register("m", {})
    served(core, "m", 3)

    # A model that is served from elsewhere is another one, and one whose files are gone is forgotten.
    configs.set_policy("m", {"all": {}})
    configs.unregister("m", files=False)
    (tmp_path / "elsewhere" / "7").mkdir(parents=True)
    configs.register("m", {"base_path": str(tmp_path / "elsewhere")})
    served(core, "m", 7)
    configs.unregister("m", files=False)
    configs.register("m", {})
    served(core, "m", 3)
    configs.unregister("m", files=True)
    version(store, "m", 4, 5)
    configs.register("m", {})
    served(core, "m", 5)

    for nonsense in ("nonsense {", 'model_config_list { config { name: "other" base_path: "/other" } }'):
        configs.unregister("m", files=False)
        store.set_stopped("m", nonsense)
        configs.register("m", {})
        served(core, "m", 5)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"policy": {}}, "exactly one of the keys"),
        ({"policy": []}, "exactly one of the keys"),
        ({"policy": 7}, "exactly one of the keys"),
        ({"policy": {"newest": {}}}, "exactly one of the keys"),
        ({"policy": {"latest": {}, "all": {}}}, "exactly one of the keys"),
        ({"policy": {"latest": {"num_versions": "x"}}}, "Not a policy"),
        ({"policy": {"latest": 7}}, "Not a policy"),
        ({"policy": {"specific": {"versions": []}}}, "at least one version"),
        ({"labels": ["a"]}, "labels is an object"),
        ({"labels": {"a": "1"}}, "needs a version's number"),
        ({"labels": {"a": True}}, "needs a version's number"),
        ({"labels": {"a/b": 1}}, "cannot be a label"),
        ({"labels": {"": 1}}, "cannot be a label"),
        ({"keep_versions": -1}, "keep_versions"),
        ({"keep_versions": "2"}, "keep_versions"),
        ({"base_path": "relative"}, "absolute path"),
        ({"platform": "onnx"}, "platform"),
    ],
)
def test_refused_registrations_change_nothing(
    make: Callable[..., tuple[ServerCore, ConfigStore]], store: Store, request_: Any, said: str
) -> None:
    core, configs = make(store)
    version(store, "m", 1)
    configs.register("m", {})
    served(core, "m", 1)
    before = store.config.read_bytes()
    for name in ("m", "new"):
        with pytest.raises(ServingError, match=said) as refused:
            configs.register(name, request_)
        assert refused.value.code is Code.INVALID_ARGUMENT
    assert store.config.read_bytes() == before
    assert not (store.root / "new").exists()
    assert list(core.models) == ["m"]


@pytest.mark.parametrize("name", ["", "a/b", "a b", "..", ".hidden", "models.config", "-x"])
def test_names_that_cannot_be(make: Callable[..., tuple[ServerCore, ConfigStore]], store: Store, name: str) -> None:
    _, configs = make(store)
    for request_ in ({}, {"base_path": "/somewhere"}):
        with pytest.raises(ServingError, match="cannot be the name of a model") as refused:
            configs.register(name, request_)  # type: ignore[arg-type]
        assert refused.value.remedy


def test_labels_only_move_to_loaded_versions(make: Callable[..., tuple[ServerCore, ConfigStore]], store: Store) -> None:
    core, configs = make(store)
    version(store, "m", 1)
    configs.register("m", {})
    served(core, "m", 1)
    with pytest.raises(ServingError, match="version 9 of 'm': that version is not loaded") as refused:
        configs.set_labels("m", {"stable": 9})
    assert refused.value.code is Code.FAILED_PRECONDITION and "Loaded: 1" in refused.value.remedy
    for verb in (configs.set_labels, configs.set_policy):
        with pytest.raises(ServingError, match="There is no model 'nobody'") as refused:
            verb("nobody", {"all": {}} if verb == configs.set_policy else {})  # type: ignore[operator]
        assert refused.value.code is Code.NOT_FOUND


def test_without_a_store(make: Callable[..., tuple[ServerCore, ConfigStore]], tmp_path: Path) -> None:
    core, configs = make()
    (tmp_path / "m" / "4").mkdir(parents=True)
    with pytest.raises(ServingError, match="base_path is needed"):
        configs.register("m", {})
    configs.register("m", {"base_path": str(tmp_path / "m")})
    served(core, "m", 4)
    configs.unregister("m", files=False)
    served(core, "m")
    assert (tmp_path / "m" / "4").exists()


def test_prune(make: Callable[..., tuple[ServerCore, ConfigStore]], store: Store) -> None:
    core, configs = make(store)
    version(store, "m", *range(1, 8))
    configs.register("m", {"policy": {"specific": {"versions": [2, 7]}}})
    served(core, "m", 2, 7)
    configs.set_labels("m", {"old": 2})
    configs.register("m", {"policy": {"latest": {"num_versions": 1}}, "keep_versions": 2})
    left = {path.name for path in (store.root / "m").iterdir()}
    assert left == {"2", "6", "7", ".keep"}, "kept: the two newest, and one that is labelled"
    configs.register("m", {"keep_versions": 0})
    version(store, "m", 8)
    configs.register("m", {})
    served(core, "m", 2, 8)
    configs.prune("m")
    assert (store.root / "m" / "6").exists()


def test_prune_only_in_the_store(
    make: Callable[..., tuple[ServerCore, ConfigStore]], store: Store, tmp_path: Path
) -> None:
    core, configs = make(store)
    for number in (1, 2, 3):
        (tmp_path / "mine" / str(number)).mkdir(parents=True)
    configs.register("m", {"base_path": str(tmp_path / "mine"), "keep_versions": 1})
    served(core, "m", 3)
    configs.prune("m")
    assert len(list((tmp_path / "mine").iterdir())) == 3


def test_a_bad_file_changes_nothing(make: Callable[..., tuple[ServerCore, ConfigStore]], store: Store) -> None:
    core, configs = make(store)
    version(store, "m", 1)
    configs.register("m", {})
    store.config.write_text("model_config_list { nonsense }")
    configs.follow()
    served(core, "m", 1)
    with pytest.raises(ServingError, match="Error parsing"):
        configs.register("other", {})
    assert store.config.read_text() == "model_config_list { nonsense }"


def test_no_write_is_lost(make: Callable[..., tuple[ServerCore, ConfigStore]], store: Store) -> None:
    """Many threads of two processes' worth of config stores, and the followers of both meanwhile."""
    pairs = [make(store), make(store)]
    names = [f"m{number}" for number in range(24)]
    for name in names:
        version(store, name, 1)
    stop = threading.Event()
    missing: list[str] = []

    def follow(configs: ConfigStore) -> None:
        while not stop.is_set():
            configs.follow()

    def register(index: int, part: list[str]) -> None:
        core, configs = pairs[index]
        done: list[str] = []
        for name in part:
            configs.register(name, {})
            done.append(name)
            missing.extend(name for name in done if name not in core.models)

    followers = [threading.Thread(target=follow, args=(configs,)) for _, configs in pairs]
    threads = [threading.Thread(target=register, args=(n % 2, names[n::4])) for n in range(4)]
    for thread in (*followers, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    for thread in followers:
        thread.join()
    assert not missing, "what was registered must not be taken back by an older look at the file"
    assert sorted(model.name for model in to_models(module.read(store.config))) == sorted(names)

"""models.config without protobuf."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from jupyter_tfserve.extension import models_config
from jupyter_tfserve.store import Store

TEXT = """\
# model_config_list { config { name: "comment" } }
model_config_list {
  config {
    name: "digits"
    base_path: "/models/digits {config { name: 'no' }"
    model_version_policy { specific { versions: 1 versions: 2 } }
    version_labels { key: "name" value: 2 }
  }
  config: {
    base_path: '/models/it\\'s'
    name : 'other'  # } config {
    logging_config { log_collector_config { name: "nested" } }
  }
}
"""


def test_names() -> None:
    assert models_config.names(TEXT) == ["digits", "other"]
    assert models_config.names("") == []
    assert models_config.names("} } {") == []


@pytest.mark.parametrize("name", ["digits", "other"])
def test_without(name: str) -> None:
    less = models_config.without(TEXT, name)
    assert models_config.names(less) == [left for left in ("digits", "other") if left != name]
    assert less.startswith("# model_config_list { config")
    assert models_config.without(less, name) == less


def test_protobuf_agrees() -> None:
    # TF Serving's own messages have no `name` in what is nested; all else parses.
    text = TEXT.replace('log_collector_config { name: "nested" }', 'log_collector_config { type: "nested" }')
    for name in ("digits", "other"):
        wanted = text_format.Parse(text, ModelServerConfig())
        for entry in list(wanted.model_config_list.config):
            if entry.name == name:
                wanted.model_config_list.config.remove(entry)
        assert text_format.Parse(models_config.without(text, name), ModelServerConfig()) == wanted
        canonical = text_format.MessageToString(wanted)
        assert models_config.names(canonical) == [entry.name for entry in wanted.model_config_list.config]


def test_remove(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").create()
    store.config.write_text(TEXT)
    (store.root / "digits" / "1").mkdir(parents=True)
    (store.root / "unserved" / "1").mkdir(parents=True)
    assert not models_config.remove(store, "nothing", files=True)
    assert not models_config.remove(store, "unserved", files=False)
    assert models_config.remove(store, "unserved", files=True)
    assert models_config.remove(store, "digits", files=False)
    [stopped] = text_format.Parse(store.stopped("digits"), ModelServerConfig()).model_config_list.config
    assert (stopped.name, dict(stopped.version_labels)) == ("digits", {"name": 2})
    assert store.names() == ["digits"]
    assert models_config.names(models_config.read(store)) == ["other"]
    assert models_config.remove(store, "digits", files=True)
    assert store.names() == []

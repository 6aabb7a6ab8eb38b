"""TF1, TF2 and Keras SavedModels, and one that only TF2's loader can run, through a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import StoreServer, Tfserve, wait_for

from jupyter_tfserve.model_server.platforms import saved_model


@pytest.mark.parametrize(
    ("name", "instances", "expected"),
    [
        ("tf1", [1.0, 2.0], [2.5, 3.0]),
        ("affine", [1.0], [2.0]),
        ("keras_export", [[1.0, 2.0, 3.0]], [[7.0]]),
        ("keras_saved", [[1.0, 2.0, 3.0]], [[7.0]]),
    ],
)
def test_saved_models(server: StoreServer, name: str, instances: list[object], expected: list[object]) -> None:
    assert server.predict(name, instances) == expected


def test_an_op_that_only_the_whole_of_tensorflow_has(start: Callable[..., Tfserve], models: Path) -> None:
    """The server imports parts of TensorFlow until such a model comes."""
    one = start(f"--model_base_path={models / 'optional_module'}").wait_until_ready()
    answer = one.call("POST", "/v1/models/default:predict", {"inputs": {"x": [0] * 1000}})
    assert answer.status == 200, answer
    assert np.shape(answer.json["outputs"]) == (4, 32)


def test_what_is_no_saved_model(start_store: Callable[..., StoreServer], models: Path) -> None:
    one = start_store("--max_num_load_retries=0").wait_until_ready()
    assert isinstance(one, StoreServer)
    one.register(models / "affine" / "1", "m", 1)
    broken = one.store / "m" / "2"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"\x00\x01 no model")
    wait_for("the broken version to end", lambda: one.states("m").get(2) == "END")
    with one.client() as client:
        failed, works = client.model("m")["versions"]
    assert failed["error_code"] != "OK" and failed["error_message"]
    assert works["state"] == "AVAILABLE"
    assert one.predict("m", [1.0]) == [2.0]


def test_a_signature_is_quick_only_once_it_was_seen_to_be(models: Path) -> None:
    """The first run pays for TensorFlow's executor, so it says nothing, and nothing is taken for granted."""
    servable = saved_model.load(models / "affine" / "1", saved_model.SavedModelOptions())
    signature = servable.signatures["serving_default"]
    rows = [np.ones(1, np.float32)]
    assert not servable.is_quick(signature)
    servable.run(signature, rows, signature.output_names)
    assert not servable.is_quick(signature)
    assert any(
        servable.run(signature, rows, signature.output_names) and servable.is_quick(signature) for _ in range(1000)
    )
    servable.close()

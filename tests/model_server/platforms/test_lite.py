"""TFLite models behind the flag, through a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import Tfserve

from jupyter_tfserve.model_server.errors import Code, ServingError
from jupyter_tfserve.model_server.platforms import lite

ROW = [1.0, 2.0, 3.0]


@pytest.fixture(scope="module")
def preferring(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tfserve]:
    folder = tmp_path_factory.mktemp("preferring")
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{models / name}" model_platform: "tensorflow" }}\n'
        for name in ("lite", "lite_serving", "affine")
    )
    (folder / "models.config").write_text(f"model_config_list {{ {entries} }}")
    flags = (f"--model_config_file={folder / 'models.config'}", "--prefer_tflite_model", "--num_tflite_pools=2")
    one = Tfserve(folder, *flags)
    try:
        yield one.wait_until_ready()
    finally:
        one.close()


def test_the_flag_decides(start: Callable[..., Tfserve], preferring: Tfserve, models: Path) -> None:
    """And a version without such a file is served as without the flag."""
    assert preferring.predict("lite", [ROW, ROW]) == [[2.0, 4.0, 6.0]] * 2
    assert preferring.predict("affine", [1.0]) == [4.0]
    plain = start(f"--model_base_path={models / 'lite'}").wait_until_ready()
    assert plain.predict("default", [1.0]) == [2.0]


def test_signatures(preferring: Tfserve) -> None:
    for rows in (1, 3, 1):  # inputs are resized, in both directions
        body = {"signature_name": "both", "instances": [{"a": 5, "b": 3}] * rows}
        answer = preferring.call("POST", "/v1/models/lite:predict", body)
        assert answer.json == {"predictions": [{"sum": 8, "difference": 2}] * rows}
    body = {"signature_name": "text", "inputs": ["a", {"b64": "/w=="}]}
    answer = preferring.call("POST", "/v1/models/lite:predict", body)
    assert answer.json == {"outputs": [{"b64": "YQ=="}, {"b64": "/w=="}]}
    metadata = preferring.call("GET", "/v1/models/lite/metadata").json["metadata"]["signature_def"]["signature_def"]
    assert set(metadata) == {"serving_default", "both", "text"}
    assert metadata["serving_default"]["method_name"] == "tensorflow/serving/predict"
    assert metadata["serving_default"]["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "3", "name": ""}], "unknown_rank": False},
        "name": "serving_default_x:0",
    }


def test_signatures_that_were_written_for_tensorflow_serving(preferring: Tfserve) -> None:
    body = {"signature_name": "served", "instances": [{"in": ROW}, {"in": ROW}]}
    answer = preferring.call("POST", "/v1/models/lite_serving:predict", body)
    assert answer.json == {"predictions": [[2.0, 4.0, 6.0]] * 2}


def test_many_at_once(preferring: Tfserve) -> None:
    def ask(i: int) -> bool:
        return preferring.predict("lite", [[float(i), 1.0, 2.0]]) == [[2.0 * i, 2.0, 4.0]]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(64)))


@pytest.mark.parametrize(
    "body",
    [{"instances": ["x"]}, {"instances": [{"a": 1}]}, {"signature_name": "nosuch", "instances": [ROW]}],
)
def test_bad_input(preferring: Tfserve, body: object) -> None:
    answer = preferring.call("POST", "/v1/models/lite:predict", body)
    assert answer.status == 400
    assert list(answer.json) == ["error"]


def test_no_model_at_all(tmp_path: Path) -> None:
    assert not lite.found(tmp_path)
    (tmp_path / lite.MODEL_FILE).write_bytes(b"no model")
    assert lite.found(tmp_path)
    with pytest.raises(ServingError, match="cannot be loaded") as refused:
        lite.load(tmp_path, 1)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_a_request_waits_no_longer_than_it_may(models: Path) -> None:
    servable = lite.load(models / "lite" / "1", 1)
    signature = servable.signatures["serving_default"]
    inputs = [np.ones((1, 3), np.float32)]
    with servable._interpreter(0):  # type: ignore[attr-defined]
        with pytest.raises(ServingError) as refused:
            servable.run(signature, inputs, ("y",), timeout_ms=20)
        assert refused.value.code is Code.DEADLINE_EXCEEDED
    assert servable.run(signature, inputs, ("y",), timeout_ms=20)[0].tolist() == [[2.0, 2.0, 2.0]]
    servable.close()

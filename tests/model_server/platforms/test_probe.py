"""Which signatures `auto` batching merges: real SavedModels, as a real server sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import PATIENCE, StoreServer, publish

#: By signature of the model `probed`: what the reason says, "" where requests are merged.
DECISIONS = {
    "serving_default": "",
    "text": "",
    "table": "",
    "looped": "",
    "whole_numbers": "",
    "not_a_number": "",
    "images": "",
    "alike": "",  # answers closer than the tolerance of a comparison
    "alike_mean": "all had the same answer",
    "mean": "the rows of output 'y' depend on each other",
    "first": "the rows of output 'z' depend on each other",
    "cumulated": "the rows of output 'y' depend on each other",
    "total": "output 'y' has no open leading dimension",
    "fixed": "input 'x' has no open leading dimension",
    "shortened": "output 'y' does not have a row for each row of the inputs",
    "counted": "AssignAddVariableOp, which keeps state",
    "count": "",  # the same number in all runs, whatever the rows are
    "random": "RandomUniform",
    "in_a_branch": "RandomUniform",
    "same_answer": "all had the same answer",
    "parsed": "the probe could not run it: ",
}


@pytest.fixture(scope="module")
def auto(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """With all models that the probe is to judge."""
    one = StoreServer(tmp_path_factory.mktemp("auto"), "--auto_batching")
    try:
        one.wait_until_ready()
        for name in ("probed", "tf1", "affine", "keras_export", "keras_saved"):
            one.register(models / name / "1", name, 1)
        yield one
    finally:
        one.close()


def reasons(server: StoreServer, model: str) -> dict[str, str]:
    with server.client() as client:
        batching = client.model(model)["batching"]
    assert batching["mode"] == "auto"
    return batching["signatures"]


def test_what_is_merged(auto: StoreServer) -> None:
    found = reasons(auto, "probed")
    assert found.keys() == DECISIONS.keys()
    for name, why in DECISIONS.items():
        assert bool(found[name]) == bool(why) and why in found[name], (name, found[name])
    assert "\n" not in found["parsed"]


@pytest.mark.parametrize("name", ["tf1", "affine", "keras_export"])
def test_usual_models_are_merged(auto: StoreServer, name: str) -> None:
    assert set(reasons(auto, name).values()) == {""}


def test_what_the_tf2_loader_loads_is_not_merged(auto: StoreServer) -> None:
    assert set(reasons(auto, "keras_saved").values()) == {"its graph cannot be looked at"}


def test_state_is_left_as_it_was(auto: StoreServer) -> None:
    """The first request counts from 0."""

    def ask(signature: str) -> list[float]:
        body = {"signature_name": signature, "instances": [1.0]}
        answer = auto.call("POST", "/v1/models/probed:predict", body)
        assert answer.status == 200, answer
        predictions: list[float] = answer.json["predictions"]
        return predictions

    assert ask("count") == [0.0]
    assert ask("counted") == [1.0]
    assert ask("count") == [1.0]


def test_probing_is_not_counted(auto: StoreServer, models: Path) -> None:
    auto.register(models / "affine" / "1", "uncounted", 1)
    page = auto.call("GET", "/monitoring/prometheus/metrics").body.decode()
    assert "tensorflow" in page
    assert 'model="uncounted"' not in "\n".join(line for line in page.splitlines() if "load" not in line), page


def test_rows_of_warm_up_requests(auto: StoreServer, models: Path) -> None:
    auto.register(models / "probed" / "2", "warm", 2)
    found = reasons(auto, "warm")
    assert found["parsed"] == ""
    assert found["mean"] == DECISIONS["mean"]


def test_a_broken_warm_up_file_is_said_by_the_warm_up(auto: StoreServer, models: Path) -> None:
    folder = publish(models / "affine" / "1", auto.folder / "staged", 1)
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no records" * 10)
    publish(folder, auto.store / "broken", 1)
    with auto.client() as client:
        client.register("broken", {})
        status = client.model("broken", wait=1, timeout=PATIENCE)
    assert "is no TFRecord file" in status["versions"][0]["error_message"]

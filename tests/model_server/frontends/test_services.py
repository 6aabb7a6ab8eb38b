"""Reloading a real server's configuration: over gRPC with TensorFlow Serving's own stubs, and by its polled file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from helpers import PATIENCE, Tfserve, publish, wait_for
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc


class Reloading:
    """A server, and the reloads that it is asked for."""

    def __init__(self, server: Tfserve) -> None:
        self.server = server
        self._channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
        self._stub = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def reload(
        self, *models: tuple[str, Path | str], labels: dict[str, int] | None = None, metrics: tuple[str, ...] = ()
    ) -> dict[str, int]:
        """Serve these (name, base path); the increases of the metrics. "name!" asks for an unknown platform."""
        request = model_management_pb2.ReloadConfigRequest(metric_names=metrics)
        request.config.model_config_list.SetInParent()
        for name, path in models:
            model = request.config.model_config_list.config.add(name=name.rstrip("!"), base_path=str(path))
            model.model_platform = "nonsense" if name.endswith("!") else "tensorflow"
            for label, version in (labels or {}).items():
                model.version_labels[label] = version
        response = self._stub.HandleReloadConfigRequest(request, timeout=PATIENCE)
        assert response.status.error_code == 0
        return {metric.name: metric.int64_value_increase for metric in response.metric}

    def refused(self, *models: tuple[str, Path | str], labels: dict[str, int] | None = None) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as refused:
            self.reload(*models, labels=labels)
        return refused.value

    def close(self) -> None:
        self._channel.close()
        self.server.close()


@pytest.fixture(scope="module")
def started(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloading]:
    folder = tmp_path_factory.mktemp("reloading")
    server = Tfserve(folder, f"--model_base_path={models / 'affine'}", "--max_num_load_retries=0")
    one = Reloading(server)
    try:
        server.wait_until_ready()
        yield Reloading(server)
    finally:
        one.close()


@pytest.fixture
def one(started: Reloading, models: Path) -> Reloading:
    started.reload(("default", models / "affine"))
    return started


def test_metrics_tell_what_the_reload_did(one: Reloading, models: Path) -> None:
    names = ("jupyter_tfserve_loads_total", "/tensorflow/serving/request_count", "/no/such/metric")
    increase = one.reload(("default", models / "affine"), ("new", models / "several"), metrics=names)
    assert increase == {names[0]: 1, names[1]: 0, names[2]: 0}


@pytest.mark.parametrize("missing", ["no folder", "no versions"])
def test_a_model_without_versions_is_told_at_once_and_blocks_nobody(
    one: Reloading, models: Path, tmp_path: Path, missing: str
) -> None:
    base = tmp_path / "base"
    if missing == "no versions":
        base.mkdir()
    error = one.refused(("default", models / "affine"), ("bad", base), ("good", models / "several"))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "1 model(s) did not become available" in error.details()
    assert "name: bad" in error.details() and str(base) in error.details()
    assert one.server.states("good") == {1: "AVAILABLE"}
    assert one.server.predict("default", [1.0]) == [4.0]
    one.reload(("default", models / "affine"), ("other", models / "several"))  # the next one works
    publish(models / "affine" / "1", base, 1)
    one.reload(("default", models / "affine"), ("bad", base))
    assert one.server.predict("bad", [1.0]) == [2.0]


def test_what_was_refused_is_not_compared_with(one: Reloading, models: Path) -> None:
    for bad, phrase in (
        (("fresh!", models / "affine"), "nonsense"),
        (("fresh", "relative/path"), "absolute path"),
        (("default", models / "several"), "multiple times"),
    ):
        error = one.refused(("default", models / "affine"), bad)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert phrase in error.details()
        assert one.server.states("fresh") == {}
        one.reload(("default", models / "affine"))
    one.reload(("default", models / "affine"), ("fresh", models / "affine"))
    assert one.server.predict("fresh", [1.0]) == [4.0]
    error = one.refused(("default", models / "affine"), labels={"stable": 1})
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert one.server.states("fresh") == {3: "AVAILABLE"}, "a refused reload changes nothing"
    one.reload(("default", models / "affine"), labels={"stable": 3})
    assert one.server.predict("default", [1.0], "/labels/stable") == [4.0]


def test_a_version_number_that_was_seen_before_is_loaded_from_its_new_path(
    one: Reloading, models: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "saved_model.pb").write_bytes(b"no model")
    os.utime(broken / "saved_model.pb", (0, 0))
    publish(models / "affine" / "1", tmp_path / "first", 1)
    publish(models / "affine" / "2", tmp_path / "second", 1)
    default = ("default", models / "affine")
    assert one.refused(default, ("moving", broken.parent)).code() is grpc.StatusCode.UNKNOWN
    for folder, answer in (("first", 2.0), ("second", 3.0), ("first", 2.0)):
        one.reload(default, ("moving", tmp_path / folder))

        def moved(answer: float = answer) -> bool:
            reply = one.server.call("POST", "/v1/models/moving:predict", {"instances": [1.0]})
            return reply.status == 200 and bool(reply.json == {"predictions": [answer]})

        wait_for(f"version 1 of {folder} to answer", moved)


def text(*models: tuple[str, Path | str], more: str = "") -> str:
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" {more} }}\n'
        for name, path in models
    )
    return f"model_config_list {{ {entries} }}"


def test_the_polled_file(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    good, label = ("good", models / "affine"), 'version_labels { key: "stable" value: 3 }'
    file.write_text(text(good, ("missing", "/no/such/folder"), more=label))
    one = start(
        f"--model_config_file={file}",
        "--model_config_file_poll_wait_seconds=1",
        "--max_num_load_retries=0",
        ports=True,
    ).wait_until_ready()  # one bad model beside a good one does not stop the start
    assert "/no/such/folder" in one.said()
    assert one.predict("good", [1.0], "/labels/stable") == [4.0]  # given at the start, in force once it is loaded
    assert one.call("GET", "/readyz").status == 503
    for bad, phrase in (
        ("rubbish {", "Error parsing text-format"),
        (text(good, good), "multiple times"),
        (text(good, ("new", "relative")), "absolute path"),
    ):
        file.write_text(bad)
        wait_for(f"{phrase} to be logged", lambda phrase=phrase: phrase in one.said())
        assert one.predict("good", [1.0]) == [4.0]
    file.write_text(text(good, ("missing", "/no/such/other"), ("new", models / "several")))
    wait_for("the new model", lambda: one.states("new") == {1: "AVAILABLE"})
    assert "/no/such/other" in one.said()
    file.write_text(text(good))
    wait_for("the others to go", lambda: one.states("new") == {1: "END"})
    wait_for("readiness", lambda: one.call("GET", "/readyz").status == 200)
    listed = {model["name"] for model in one.call("GET", "/v1/models").json["models"]}
    assert listed == {"good"}

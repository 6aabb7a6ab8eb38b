"""Many versions, many models: each answers, and the time and the memory that they take are told."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from helpers import StoreServer, publish, wait_for
from load import Load

from .conftest import LONG, Figures

VERSIONS = 500
MODELS = 200 if LONG else 60

#: Of the versions, how many are loaded at once.
LOADED = VERSIONS if LONG else 20


def link(source: Path, base_path: Path, version: int) -> None:
    """As `publish`, without copying."""
    shutil.copytree(source, base_path / str(version), copy_function=os.link)


def megabytes(server: StoreServer) -> float:
    return psutil.Process(server.process.pid).memory_full_info().uss / 2**20


def test_many_versions(start_store: Callable[..., StoreServer], models: Path, tmp_path: Path, figures: Figures) -> None:
    store = tmp_path / "store"
    for number in range(1, VERSIONS + 1):
        link(models / "affine" / str(number % 3 + 1), store / "affine", number)
    (store / "models.config").write_text(
        f'model_config_list {{ config {{ name: "affine" base_path: "{store / "affine"}" '
        'model_platform: "tensorflow" } }'
    )
    server = start_store(store=store).wait_until_ready()
    wait_for("the newest", lambda: server.states("affine").get(VERSIONS) == "AVAILABLE")
    assert server.predict("affine", [1.0]) == [1.0 + VERSIONS % 3 + 1]
    before = megabytes(server)
    with server.client() as client:
        began = time.monotonic()
        assert len(client.model("affine")["on_disk"]) == VERSIONS
        listed = time.monotonic() - began
        with Load(server.rest_port, "/v1/models/affine:predict", {"instances": [1.0]}, clients=2) as load:
            load.wait(20)
            began = time.monotonic()
            policy = {"all": {}} if LOADED == VERSIONS else {"latest": {"num_versions": LOADED}}
            client.register("affine", {"policy": policy})  # type: ignore[typeddict-item]
            loaded = range(VERSIONS - LOADED + 1, VERSIONS + 1)
            server.wait_available("affine", *loaded)
            took = time.monotonic() - began
            publish(models / "affine" / "3", store / "affine", VERSIONS + 1)
            wait_for("the next one", lambda: server.predict("affine", [1.0]) == [4.0])
            load.wait(20)
    for number in loaded[1:]:
        assert server.predict("affine", [1.0], f"/versions/{number}") == [1.0 + number % 3 + 1]
    remark = (
        f"listed in {1000 * listed:.0f} ms; {LOADED} loaded in {took:.1f} s, "
        f"{(megabytes(server) - before) / LOADED:.1f} MB each"
    )
    figures.add(f"{VERSIONS} versions on disk", load.outcome, remark)
    assert not load.outcome.lost
    assert not load.outcome.refused


def test_many_models(start_store: Callable[..., StoreServer], models: Path, figures: Figures) -> None:
    server = start_store().wait_until_ready()
    server.register(models / "affine" / "1", "first", 1)
    before = megabytes(server)
    names = [f"m{number}" for number in range(MODELS)]
    for index, name in enumerate(names):
        link(models / "affine" / str(index % 3 + 1), server.store / name, 1)
    with Load(server.rest_port, "/v1/models/first:predict", {"instances": [1.0]}, clients=2) as load:
        load.wait(20)
        began = time.monotonic()
        with server.client() as client:
            for name in names:
                client.register(name, {})
            for name in names:
                [version] = client.model(name, wait=1, timeout=60.0)["versions"]
                assert version["state"] == "AVAILABLE", version
            took = time.monotonic() - began
            began = time.monotonic()
            assert len(client.state()["models"]) == MODELS + 1
            listed = time.monotonic() - began
        load.wait(20)
    for index, name in enumerate(names):
        assert server.predict(name, [1.0]) == [2.0 + index % 3]
    remark = (
        f"registered and loaded in {took:.1f} s, {(megabytes(server) - before) / MODELS:.1f} MB each, "
        f"listed in {1000 * listed:.0f} ms"
    )
    figures.add(f"{MODELS} models", load.outcome, remark)
    assert not load.outcome.lost
    assert not load.outcome.refused

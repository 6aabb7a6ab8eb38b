"""What to do about a SavedModel that is not loaded: with the damage that models really have."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import StoreServer, publish, wait_for

from jupyter_tfserve.api import VersionStatus
from jupyter_tfserve.model_server.platforms.remedies import remedy


def without_variables(version: Path) -> None:
    shutil.rmtree(version / "variables")


def torn_graph(version: Path) -> None:
    file = version / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:200])


def torn_variables(version: Path) -> None:
    file = version / "variables" / "variables.index"
    file.write_bytes(file.read_bytes()[:-20])


def empty(version: Path) -> None:
    (version / "saved_model.pb").unlink()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """As under Jupyter: a load that failed has failed."""
    one = StoreServer(tmp_path_factory.mktemp("server"), "--max_num_load_retries=0")
    one.wait_until_ready()
    yield one
    one.close()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (without_variables, "variables/"),
        (torn_graph, "damaged"),
        (torn_variables, "damaged"),
        (empty, "saved_model.pb"),
    ],
)
def test_the_status_says_what_to_do(
    server: StoreServer, models: Path, damage: Callable[[Path], None], what: str, tmp_path: Path
) -> None:
    name = f"hurt-{damage.__name__}"
    copy = tmp_path / "copy"
    shutil.copytree(models / "affine" / "1", copy)
    damage(copy)
    publish(copy, server.store / name, 1)
    with server.client() as client:
        client.register(name, {})

        def version() -> VersionStatus:
            return client.model(name)["versions"][0]

        # As long as the files are as fresh as this it is tried again by itself: they may be on their way still.
        wait_for("it to be given up", lambda: version()["state"] == "END")
        assert version()["error_message"]
        assert what in version()["error_remedy"], version()
        # Mended and registered again, it is tried again.
        shutil.copytree(models / "affine" / "1", server.store / name / "1", dirs_exist_ok=True)
        client.register(name, {})

        wait_for("it to be loaded", lambda: version()["state"] == "AVAILABLE")
        assert version()["error_message"] == version()["error_remedy"] == ""
        client.unregister(name)


def test_an_op_is_named() -> None:
    said = "Op type not registered 'SentencepieceOp' in binary running on host. Make sure the Op is registered"
    assert "SentencepieceOp" in remedy(said)
    assert remedy("nothing that is known") == ""

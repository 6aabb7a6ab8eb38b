"""The wall clock jumps by hours under load: what waits, batches, watches and beats goes by the other clock; what has a
date is over while the clock says so, and says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import Answer, call, wait_for
from jupyter_process import JupyterServer

from .conftest import Figures, affine_load
from .shim import Shim

HOURS = 3600

BODY = {"instances": [1.0]}


@pytest.fixture
def clock(shim: Shim) -> Iterator[Shim]:
    """The clock is right again afterwards."""
    yield shim
    shim.set()


@pytest.mark.parametrize("seconds", [3 * HOURS, -3 * HOURS], ids=["forward", "backward"])
def test_the_clock_jumps(jupyter: JupyterServer, models: Path, clock: Shim, figures: Figures, seconds: int) -> None:
    name = f"jumping{seconds}"
    before = jupyter.info()
    with affine_load(jupyter) as load:
        load.wait(100)
        clock.set(clock_seconds=seconds)
        load.wait(100)
        jupyter.register(models / "affine" / "1", name)  # is found, loaded and told
        jupyter.register(models / "affine" / "2", name, 2)
        load.wait(100)
        clock.set()
        jupyter.register(models / "affine" / "3", name, 3)
        load.wait(100)
    figures.add(f"clock jumps by {seconds // HOURS:+d} h and back", load.outcome)
    assert not load.outcome.lost
    assert not load.outcome.refused
    after = jupyter.info()
    assert (after["pid"], after["restarts"]) == (before["pid"], before["restarts"])
    answer = jupyter.call("POST", f"/tfserve/v1/models/{name}:predict", BODY)
    assert answer.json == {"predictions": [4.0]}, answer


def test_a_version_that_cannot_be_loaded_fails_also_in_the_past(
    jupyter: JupyterServer, models: Path, clock: Shim
) -> None:
    # Its files are of the future then, which must not be taken for files that are still being written.
    clock.set(clock_seconds=-3 * HOURS)
    folder = jupyter.store / "broken" / "1"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"no SavedModel")
    with contextlib.closing(jupyter.client()) as client:
        client.register("broken", {})
        [version] = client.model("broken", wait=1, timeout=20.0)["versions"]
        assert version["state"] == "END" and version["error_message"], version
        client.unregister("broken")


def test_a_share_is_over_while_the_clock_says_so(jupyter: JupyterServer, clock: Shim) -> None:
    with contextlib.closing(jupyter.client()) as client:
        made = client.share({"models": ["affine"], "expires_in": HOURS})
    headers = {"Authorization": f"Bearer {made['key']}"}
    port = jupyter.info()["rest_port"]
    assert port

    def ask() -> tuple[Answer, Answer]:
        return (
            jupyter.call("POST", "/tfserve/v1/models/affine:predict", BODY, headers),
            call(port, "POST", "/v1/models/affine:predict", BODY, headers),
        )

    wait_for("the key to count", lambda: [answer.status for answer in ask()] == [200, 200])
    clock.set(clock_seconds=3 * HOURS)
    through, direct = ask()
    assert through.status in (401, 403) and direct.status == 401, (through, direct)
    assert "expired" in direct.json["error"], direct
    clock.set()
    assert [answer.status for answer in ask()] == [200, 200]
    with contextlib.closing(jupyter.client()) as client:
        client.unshare(made["share"]["id"])

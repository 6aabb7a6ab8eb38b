"""Disks: full, slow, or emptied under the model server's feet."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from helpers import StoreServer, environment, wait_for
from jupyter_process import JupyterServer
from load import Load

from .conftest import Figures, affine_load
from .shim import Shim

MIB = 2**20

#: Registers models in a kernel's way, with a model server of its own or none: prints what it is told.
EXPORT = """
import sys
import tensorflow as tf
from jupyter_tfserve.kernel.errors import KernelError
from jupyter_tfserve.kernel.endpoint import connect

class Large(tf.Module):
    def __init__(self, mib):
        self.weights = tf.Variable(tf.zeros([mib << 18]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": x + self.weights[0]}

endpoint = connect()
for mib in map(int, sys.argv[1:]):
    try:
        print("registered", endpoint.register("large", Large(mib)).version, flush=True)
    except KernelError as error:
        print("refused", repr(str(error)), flush=True)
"""


def names(folder: Path) -> set[str]:
    """What is in a model's folder, lineage and settings aside."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_the_disk_is_full_during_an_export(
    small_disk: Path, tmp_path: Path, models: Path, start_jupyter: Callable[..., JupyterServer], figures: Figures
) -> None:
    jupyter = start_jupyter(store=small_disk / "store")
    jupyter.register(models / "affine" / "1", "affine")
    with affine_load(jupyter, pause=0.01) as load:
        load.wait(20)
        done = subprocess.run(
            [sys.executable, "-c", EXPORT, "4", "40", "4"],
            capture_output=True,
            text=True,
            env={**environment(), "JUPYTER_TFSERVE_ENDPOINT": str(jupyter.endpoint_file)},
            timeout=120,
        )
        load.wait(20)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first.startswith("registered")
    assert second.startswith("refused")
    assert "full" in second or "space" in second, second
    assert third.startswith("registered")  # what the failed one had written is gone
    assert not [name for name in names(small_disk / "store" / "large") if name.startswith(".") and "stag" in name]
    figures.add("disk full during an export", load.outcome)
    assert not load.outcome.lost
    assert not load.outcome.refused


def test_the_disk_is_full_during_logging(
    small_disk: Path, models: Path, start_store: Callable[..., StoreServer], figures: Figures
) -> None:
    server = start_store(store=small_disk / "store").wait_until_ready()
    server.register(models / "affine" / "1", "affine", 1)
    prefix = small_disk / "log"
    with server.client() as client:
        config = client.config()
        logged = config.replace(
            'name: "affine"',
            'name: "affine" logging_config { log_collector_config { type: "" filename_prefix: "' + str(prefix) + '" } '
            "sampling_config { sampling_rate: 1.0 } }",
        )
        assert logged != config
        client.set_config(logged)
    filler = small_disk / "filler"
    with Load(server.rest_port, "/v1/models/affine:predict", {"instances": [1.0] * 2000}, clients=2) as load:
        load.wait(20)
        # Unbuffered: what a full disk took no more of would be written once more when the file closes.
        with open(filler, "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(64 * 1024))
        load.wait(100)
        filler.unlink()
        load.wait(20)
    figures.add("disk full during request logging", load.outcome)
    assert not load.outcome.lost
    assert not load.outcome.refused
    assert server.process.poll() is None
    assert "Traceback" not in server.said()


def test_the_store_is_deleted_under_its_feet(
    models: Path, start_jupyter: Callable[..., JupyterServer], figures: Figures
) -> None:
    jupyter = start_jupyter()
    jupyter.register(models / "affine" / "1", "affine")
    with affine_load(jupyter) as load:
        load.wait(50)
        while jupyter.store.exists():  # the model server may make a file of its own meanwhile
            shutil.rmtree(jupyter.store, ignore_errors=True)
        load.wait(300)  # what is loaded goes on
        time.sleep(2.5)  # more than two looks at the store
        load.wait(50)
        # A new registration makes the store anew.
        jupyter.register(models / "affine" / "2", "affine", 2)
        load.wait(50)
        wait_for("the new version to answer", lambda: _answer(jupyter) == 3.0)
    figures.add("store deleted", load.outcome)
    assert not load.outcome.lost
    assert not load.outcome.refused


def _answer(jupyter: JupyterServer) -> float:
    answer = jupyter.call("POST", "/tfserve/v1/models/affine:predict", {"instances": [1.0]})
    assert answer.status == 200, answer
    value: float = answer.json["predictions"][0]
    return value


def test_a_slow_disk_holds_up_nothing_that_is_loaded(
    models: Path, start_jupyter: Callable[..., JupyterServer], shim: Shim, figures: Figures
) -> None:
    jupyter = start_jupyter(env=shim.environment)
    jupyter.register(models / "affine" / "1", "affine")
    with affine_load(jupyter) as load:
        load.wait(100)
        shim.set(open_millis=300, read_millis=100)
        try:
            began = time.monotonic()
            jupyter.register(models / "affine" / "2", "affine", 2)
            took = time.monotonic() - began
        finally:
            shim.set()
        load.wait(20)
    figures.add("slow disk (0.3 s an open, 0.1 s a read)", load.outcome, f"a registration took {took:.1f} s meanwhile")
    assert not load.outcome.lost
    assert not load.outcome.refused
    assert took > 0.6
    assert load.outcome.gap() < took / 2  # it was not the load that waited

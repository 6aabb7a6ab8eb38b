"""Where models are put: what was asked for, or where there is room."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_tfserve.devices import Device
from jupyter_tfserve.model_server.errors import Code, ServingError
from jupyter_tfserve.model_server.workers.placement import Placements, Wanted, changed, choose, needed
from jupyter_tfserve.model_server.workers.slots import slots
from jupyter_tfserve.store import Store

GIB = 2**30


def device(name: str, free: int = 0, usable: bool = True) -> Device:
    kind = "cpu" if name == "cpu" else "gpu"
    reason = "" if usable else "A CUDA library is missing."
    return Device(name, kind, name, 80 * GIB, (80 - free) * GIB, None, usable, reason, "" if usable else "Install it.")


DEVICES = [device("cpu", 60), device("gpu:0", 20), device("gpu:1", 50), device("gpu:2", 80, usable=False)]


@pytest.mark.parametrize(
    "wanted, size, expected",
    [
        (Wanted(), 10 * GIB, ["gpu:1"]),  # the most free memory, of what can be used
        (Wanted(), 70 * GIB, ["cpu"]),  # it fits nowhere else
        (Wanted(memory_limit=5 * GIB), 70 * GIB, ["gpu:1"]),  # the limit is what it needs at most
        (Wanted(replicas=3), 20 * GIB, ["gpu:1", "gpu:1", "gpu:0"]),  # 50 -> 30 -> 10; 20
        (Wanted(replicas=2), 45 * GIB, ["gpu:1", "cpu"]),
        (Wanted("cpu"), 1, ["cpu"]),
        (Wanted("gpu:0", 2), 70 * GIB, ["gpu:0", "gpu:0"]),  # asked for by name
    ],
)
def test_choose(wanted: Wanted, size: int, expected: list[str]) -> None:
    assert [device.id for device in choose(DEVICES, wanted, size)] == expected


def test_a_device_that_cannot_be_had() -> None:
    with pytest.raises(ServingError, match="gpu:2 cannot be used: A CUDA library is missing") as refused:
        choose(DEVICES, Wanted("gpu:2"), 0)
    assert refused.value.code is Code.FAILED_PRECONDITION and refused.value.remedy == "Install it."
    with pytest.raises(ServingError, match="no device 'gpu:9'") as refused:
        choose(DEVICES, Wanted("gpu:9"), 0)
    assert refused.value.remedy == "There are: cpu, gpu:0, gpu:1."


def test_what_a_version_needs(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "data").write_bytes(bytes(1000))
    (tmp_path / "saved_model.pb").write_bytes(bytes(1000))
    assert needed(tmp_path) == 3000


@pytest.mark.parametrize(
    "isolation, alone, limit, expected",
    [
        ("device", False, None, ["gpu:0", "gpu:0@2", "cpu"]),
        ("model", False, None, ["gpu:0/m", "gpu:0/m@2", "cpu/m"]),
        ("version", False, None, ["gpu:0/m/3", "gpu:0/m/3@2", "cpu/m/3"]),
        ("device", True, None, ["gpu:0/m/3", "gpu:0/m/3@2", "cpu/m/3"]),
        ("device", False, 1, ["gpu:0/m:1MB", "gpu:0/m:1MB@2", "cpu"]),  # the limit is the process's
    ],
)
def test_slots(isolation: str, alone: bool, limit: int | None, expected: list[str]) -> None:
    devices = [device("gpu:0"), device("gpu:0"), device("cpu")]
    found = slots(isolation, devices, "m", 3, alone, limit)
    assert [slot.name for slot in found] == expected
    flags = ("--gpu_memory_limit_mb=1",) if limit else ()
    assert [slot.flags for slot in found] == [flags, flags, ()]


def test_it_is_remembered_in_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path).create()
    placements = Placements(store)
    assert placements.of("m") == Wanted()
    placements.remember("m", changed(Wanted(), {"device": "gpu:1", "replicas": 2}))
    assert Placements(store).of("m") == Wanted("gpu:1", 2)
    (tmp_path / "m" / ".device").write_text('{"replicas": "many"}')  # somebody edited it
    assert Placements(store).of("m") == Wanted()


def test_without_a_store_it_is_kept_in_memory() -> None:
    placements = Placements(None)
    placements.remember("m", Wanted("cpu"))
    assert placements.of("m") == Wanted("cpu") and placements.of("other") == Wanted()

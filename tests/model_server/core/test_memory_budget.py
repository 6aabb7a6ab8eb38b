"""The memory budget, by files and figures; `test_memory_refusals.py` loads into real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_tfserve.model_server.core import memory_budget
from jupyter_tfserve.model_server.core.memory_budget import Loaded, MemoryBudget, estimate
from jupyter_tfserve.model_server.errors import Code, ServingError

MIB = 2**20


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version folder with 40 MiB of variables and a graph of 1 MiB, none of it in use on the disk."""
    folder = tmp_path / "1"
    (folder / "variables").mkdir(parents=True)
    for name, size in (("saved_model.pb", MIB), ("variables/variables.data-00000-of-00001", 40 * MIB)):
        with open(folder / name, "wb") as file:
            file.truncate(size)
    return folder


def test_an_estimate_counts_the_variables_once_and_the_graph_ten_times(version: Path) -> None:
    assert estimate(version) == (4 + 40 + 10) * MIB


def test_what_does_not_fit_is_refused_naming_what_to_unload(version: Path) -> None:
    loaded = [Loaded("small", 7, 10 * MIB), Loaded("large", 3, 60 * MIB)]
    budget = MemoryBudget(100, lambda: loaded)
    with pytest.raises(ServingError) as refused, budget.reserve("digits", 1, version):
        raise AssertionError("it was let in")
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert refused.value.message == (
        "Version 1 of digits needs about 54.0 MiB of memory, and 30.0 MiB of the 100.0 MiB of --memory_budget_mb are "
        "left. Unload one of: large version 3 (60.0 MiB), small version 7 (10.0 MiB); or raise --memory_budget_mb (-1: "
        "no limit)."
    )
    loaded.pop()
    with budget.reserve("digits", 1, version) as reservation:
        assert reservation.size == 54 * MIB


def test_loads_under_way_count(version: Path) -> None:
    budget = MemoryBudget(100, list)
    with budget.reserve("a", 1, version), pytest.raises(ServingError), budget.reserve("b", 1, version):
        raise AssertionError("it was let in")
    with budget.reserve("b", 1, version):
        pass


def test_a_load_that_failed_leaves_its_room(version: Path) -> None:
    budget = MemoryBudget(100, list)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), budget.reserve("a", 1, version):
            raise ZeroDivisionError
    with budget.reserve("a", 1, version):
        pass


def test_what_was_measured_corrects_the_next_estimate(version: Path) -> None:
    budget = MemoryBudget(0, list)
    with budget.reserve("a", 1, version) as first:
        kept = b"1" * (216 * MIB)  # a model that takes four times its files
    assert 200 * MIB < first.size < 240 * MIB
    with budget.reserve("a", 2, version) as second:
        assert second.size == first.size
    with budget.reserve("b", 1, version) as other:
        assert other.size == 54 * MIB
    assert len(kept) == 216 * MIB


def test_loads_side_by_side_are_not_measured(version: Path) -> None:
    budget = MemoryBudget(-1, list)
    with budget.reserve("a", 1, version) as first, budget.reserve("b", 1, version):
        kept = b"1" * (216 * MIB)
    assert first.size == 54 * MIB
    assert kept


def test_without_a_number_it_is_what_the_machine_has_left(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "memory_limit", lambda: 1000 * MIB)
    monkeypatch.setattr(memory_budget, "memory_used", lambda: 900 * MIB)
    with pytest.raises(ServingError) as refused, MemoryBudget(0, list).reserve("a", 1, version):
        raise AssertionError("it was let in")
    assert refused.value.message == (
        "Version 1 of a needs about 54.0 MiB of memory, and 50.0 MiB of the 1000.0 MiB of this machine or container "
        "are left. Raise --memory_budget_mb (-1: no limit)."
    )
    with MemoryBudget(-1, list).reserve("a", 1, version):
        pass

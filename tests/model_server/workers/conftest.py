"""A front that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fronts import Front


@pytest.fixture(scope="module")
def front(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Its device `cpu` has the models that need no special care.

    A test that changes something takes a model name of its own.
    """
    one = Front(tmp_path_factory.mktemp("front"))
    try:
        one.wait_until_ready()
        for name in ("affine", "several", "examples"):
            one.register(models / name / "1", name, 1, placement={"device": "cpu"})
        yield one
    finally:
        one.close()


@pytest.fixture
def start_front(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    """Starts fronts of the test's own."""
    started: list[Front] = []

    def begin(*flags: str) -> Front:
        started.append(Front(tmp_path / f"front-{len(started)}", *flags))
        return started[-1].wait_until_ready()  # type: ignore[return-value]

    yield begin
    for one in started:
        one.close()

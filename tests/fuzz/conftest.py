"""The model server that the tests here share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.served import MODELS, Served
from helpers import StoreServer


@pytest.fixture(scope="session")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    process = StoreServer(tmp_path_factory.mktemp("fuzzed"))
    try:
        process.wait_until_ready()
        for name in MODELS:
            process.register(models / name / "1", name, 1)
        one = Served(process)
        yield one
        one.close()
    finally:
        process.close()

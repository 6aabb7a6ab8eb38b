"""The coverage-guided fuzzer's targets without the fuzzer: their seeds, what was once found, and some thousand inputs
near them that are the same each time.
"""

from __future__ import annotations

import pytest
from fuzz.seeds import FOUND, SEEDS, mutants
from fuzz.targets import TARGETS

# protobuf's own: a text proto's unknown escape passes through Python's decoder of escapes.
pytestmark = pytest.mark.filterwarnings("ignore:.*invalid (octal )?escape sequence:DeprecationWarning")


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_was_found(name: str) -> None:
    for data in SEEDS[name] + FOUND[name]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutants(name: str) -> None:
    for data in mutants(1, SEEDS[name], 500):
        TARGETS[name](data)

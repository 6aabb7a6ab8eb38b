"""Which versions are aspired to."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_tfserve.model_server.core.policy import All, Latest, Specific, VersionPolicy, aspired, may_unload

FOUND = {number: Path(f"/m/{number}") for number in (1, 2, 10, 3)}


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        (Latest(), [10]),
        (Latest(0), [10]),
        (Latest(2), [3, 10]),
        (Latest(9), [1, 2, 3, 10]),
        (All(), [1, 2, 3, 10]),
        (Specific(frozenset({2, 7})), [2]),
        (Specific(frozenset({7})), []),
    ],
)
def test_policy(policy: VersionPolicy, versions: list[int]) -> None:
    chosen = aspired(FOUND, policy)
    assert list(chosen) == versions
    assert chosen == {number: FOUND[number] for number in versions}


def test_labelled_versions_stay() -> None:
    assert list(aspired(FOUND, Latest(), labelled=[2, 99])) == [2, 10]


def test_nothing_found() -> None:
    for policy in (Latest(), All(), Specific(frozenset({1}))):
        assert aspired({}, policy) == {}


@pytest.mark.parametrize(
    ("wanted", "available", "may"), [([2], [], False), ([2], [2], True), ([], [], True), ([2, 3], [3], True)]
)
def test_an_old_version_goes_when_a_new_one_answers(wanted: list[int], available: list[int], may: bool) -> None:
    assert may_unload(wanted, available) is may

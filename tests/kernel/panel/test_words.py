"""What is said of a change before it happens."""

from __future__ import annotations

import time
from typing import Any

import pytest

from jupyter_tfserve.kernel.panel import words


def version(number: int, state: str = "AVAILABLE", error: str = "") -> dict[str, Any]:
    return {"version": number, "state": state, "error_message": error, "origin": None}


def status(*versions: dict[str, Any], **labels: int) -> Any:
    return {"name": "m", "versions": list(versions), "labels": labels, "error": ""}


@pytest.mark.parametrize(
    ("label", "number", "effect"),
    [
        ("stable", 3, "stable: 2 → 3; requests to /labels/stable go to version 3 at once."),
        ("stable", 2, "stable is at 2 already."),
        ("stable", None, "stable is taken away from 2; requests to /labels/stable are refused from then on."),
        ("canary", 3, "canary → 3; requests to /labels/canary are answered from then on."),
        ("canary", None, "There is no label canary."),
        ("", 3, ""),
    ],
)
def test_labels(label: str, number: int | None, effect: str) -> None:
    assert words.label_effect(status(version(3), version(2), stable=2), label, number) == effect


def test_loading_and_unloading() -> None:
    now = status(version(3), version(2), version(1, "END"), stable=3)
    assert words.load_effect(now, 1) == "from then on just the versions 3, 2 and 1 are served"
    assert words.unload_effect(now, 3) == (
        "requests without a version go to version 2 then, and requests to /labels/stable are refused then"
    )
    assert words.unload_effect(now, 2) == ""
    assert words.load_effect(status(version(3, "END")), 3) == (
        "from then on just the version 3 is served, and requests without a version go to 3"
    )


def test_states() -> None:
    assert words.model_state(status(version(3, "LOADING"), version(2))) == "serving version 2, loading version 3"
    assert words.model_state(status(version(3, "END", "torn"))) == "failed"
    assert words.model_state(status()) == "not served"
    assert words.version_state(version(1, "END", "torn")) == "failed"  # type: ignore[arg-type]


def test_where_a_version_comes_from() -> None:
    origin: Any = {"notebook": "/home/ada/digits.ipynb", "cell": 7, "user": "ada", "time": 1.0}
    assert words.origin_words(origin) == "digits.ipynb, cell 7 · ada"
    assert words.origin_words({**origin, "notebook": "", "user": ""}) == "cell 7"
    assert words.origin_words(None) == ""


def test_quantities() -> None:
    assert [words.size(count) for count in (None, 0, 999, 4_290_000, 85_000_000_000)] == [
        "", "0 B", "999 B", "4.29 MB", "85 GB",
    ]  # fmt: skip
    assert [words.milliseconds(value) for value in (None, 0.156, 12.34, 2345.0)] == ["–", "156 µs", "12.3 ms", "2.35 s"]
    now = time.mktime((2026, 5, 4, 12, 0, 0, 0, 0, -1))
    assert words.moment(now - 3600, now) == "11:00"
    assert words.moment(now - 86400, now) == "2026-05-03 12:00"

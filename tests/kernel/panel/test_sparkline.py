"""Small pictures: well-formed SVG that says in words what it shows."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from jupyter_tfserve.kernel.panel.numbers import numbers
from jupyter_tfserve.kernel.panel.sparkline import bars, sparkline


def path(svg: str) -> str:
    found = ElementTree.fromstring(svg).findall("path")[1].get("d")
    return found or ""


@pytest.mark.parametrize(
    "values", [[], [None], [0.0] * 60, [None, 1.0, None, 2.0, 3.0], [1e12, 0, 5], list(range(200))]
)
def test_it_is_svg(values: list[float | None]) -> None:
    svg = sparkline(values, "Requests/s: <1>")
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label") == "Requests/s: <1>"
    assert root.findtext("title") == "Requests/s: <1>"
    for x, y in re.findall(r"([-\d.e]+) ([-\d.e]+)", path(svg)):
        assert -0.01 <= float(x) <= 120.01 and 0 <= float(y) <= 28


def test_gaps_are_gaps() -> None:
    assert path(sparkline([1.0, 2.0, None, 3.0, 4.0], "x")).count("M") == 2
    assert path(sparkline([None, 1.0], "x")).startswith("M")


def test_colours_are_the_pages() -> None:
    for svg in (sparkline([1.0], "x"), bars({"1": 1.0}, "x")):
        assert "currentColor" in svg and not re.search("#[0-9a-fA-F]{3}", svg)


def test_bars() -> None:
    root = ElementTree.fromstring(bars({"1": 1, "2": 0, "4": 1000}, "x"))
    heights = [float(rect.get("height", "")) for rect in root.findall("rect")]
    assert heights[0] >= 1 and heights[1] == 0 and heights[2] == 18
    assert [text.text for text in root.findall("text")] == ["1", "2", "4"]


def test_numbers_of_idle_models_stay_the_same() -> None:
    busy = {"requests": 5, "errors": 0, "p50_ms": 1.5, "p99_ms": 2.0, "queue_ms": 0.1, "in_flight": 0, "queued": 0}
    sample = {**busy, "batch_sizes": {"1": 5}}
    assert numbers([None] * 60) == numbers([None] * 59)
    page = numbers([None, sample])  # type: ignore[list-item]
    for words in ("Requests/s: 5", "p50: 1.5 ms", "Batch sizes, 5 runs in 10 s: 5 of 1"):
        assert f"aria-label='{words}'" in page
    assert "Errors/s" not in page
    assert "Errors/s: 2" in numbers([{**sample, "errors": 2}])  # type: ignore[typeddict-item]

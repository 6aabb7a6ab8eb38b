"""What is written about the project and what the project does are one."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import chart, report

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flags_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "flags.md").read_text() == script("flags_page").page(), "run: python docs/flags_page.py"


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_picture_is_up_to_date(colours: str) -> None:
    picture = script("picture")
    drawn = picture.draw(getattr(picture, colours.upper()))
    assert (ROOT / "docs" / f"picture-{colours}.svg").read_text() == drawn, "run: python docs/picture.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", text):
        link = "".join(target)
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_every_test_that_security_names_exists() -> None:
    """A promise without a test that holds it is none."""
    text = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    for path, test in named:
        assert (ROOT / path).exists(), path
        assert f"def {test}(" in (ROOT / path).read_text() or not test, (path, test)
    promises = text.partition("## Promises")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\*\*", promises, flags=re.MULTILINE)) == len(
        re.findall(r"^: `tests/", promises, flags=re.MULTILINE)
    )


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):.* ## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b(?= +#|`| PYTEST| BENCH)", page.read_text())) <= targets


def test_performance_page_is_what_was_published() -> None:
    told = json.loads(report.PUBLISHED.read_text())
    assert report.text(told) in report.PAGE.read_text(), (
        f"run: python -m benchmarks.report {report.PUBLISHED} --publish"
    )
    for colours, drawn in chart.draw(report.Medians(told)).items():
        assert (ROOT / "docs" / f"performance-{colours}.svg").read_text() == drawn

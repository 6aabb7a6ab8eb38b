from __future__ import annotations

import json
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from jupyter_tfserve.kernel import lineage


def test_version_carries_its_lineage(tmp_path: Path, environment: Path) -> None:
    lineage.write(tmp_path, {"a": 1}, expression="models['a']", copied_from="/somewhere")
    record = lineage.read(tmp_path)
    assert record is not None
    assert record["expression"] == "models['a']"
    assert record["object"] == "builtins.dict: {'a': 1}"
    assert record["copied_from"] == "/somewhere"
    assert record["notebook"] == ""


def test_nothing_in_it_makes_a_registration_fail(tmp_path: Path) -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError

    lineage.write(tmp_path, Bad())
    record = lineage.read(tmp_path)
    assert record is not None and record["object"].endswith("Bad")
    lineage.write(tmp_path / "does not exist", 1)
    assert lineage.read(tmp_path / "does not exist") is None
    (tmp_path / lineage.LINEAGE).write_text("[1]")
    assert lineage.read(tmp_path) is None


def test_executed_cells_are_a_notebook() -> None:
    notebook = lineage.executed_cells(["", "x = 1", "%load_ext jupyter_tfserve", "%tfserve digits model"])
    nbformat.validate(notebook)
    assert [(cell.execution_count, cell.source) for cell in notebook.cells] == [
        (1, "x = 1"),
        (2, "%load_ext jupyter_tfserve"),
        (3, "%tfserve digits model"),
    ]


def test_of_too_many_cells_the_last_ones_are_kept() -> None:
    notebook = lineage.executed_cells(["", "a" * 3_000_000, "b" * 3_000_000])
    assert [cell.execution_count for cell in notebook.cells] == [2]


def test_notebook_file_is_kept_without_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "work.ipynb"
    cell = new_code_cell("1 + 1", execution_count=4, outputs=[new_output("stream", text="secret")])
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), cell]), path)
    monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    version = tmp_path / "version"
    version.mkdir()
    lineage.write(version, 1)
    record = lineage.read(version)
    assert record is not None and record["notebook"] == str(path)
    kept = nbformat.read(version / lineage.NOTEBOOK, as_version=4)
    nbformat.validate(kept)
    assert [cell.source for cell in kept.cells] == ["# Title", "1 + 1"]
    assert "secret" not in (version / lineage.NOTEBOOK).read_text()
    assert kept.cells[1].execution_count is None
    assert lineage.files(version) == [version / lineage.NOTEBOOK]


def test_old_notebook_formats_are_brought_up_to_date(tmp_path: Path) -> None:
    old = {
        "metadata": {"name": ""},
        "nbformat": 3,
        "nbformat_minor": 0,
        "worksheets": [
            {
                "cells": [
                    {
                        "cell_type": "code",
                        "input": "print(1)",
                        "language": "python",
                        "metadata": {},
                        "outputs": [],
                        "collapsed": False,
                    }
                ],
                "metadata": {},
            }
        ],
    }
    (tmp_path / "old.ipynb").write_text(json.dumps(old))
    kept = lineage.without_outputs(tmp_path / "old.ipynb")
    nbformat.validate(kept)
    assert kept.nbformat == 4


def test_where_the_notebook_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.ipynb").touch()
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "renamed since.ipynb"))
    assert lineage.find_notebook({}) is None
    assert lineage.find_notebook({"__vsc_ipynb_file__": str(tmp_path / "a.ipynb")}) == tmp_path / "a.ipynb"


def test_git_state(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    assert lineage.git_state(tmp_path) is None
    git("init", "-b", "trunk")
    (tmp_path / "a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-m", "first")
    state = lineage.git_state(tmp_path)
    assert state is not None
    assert (state["branch"], state["dirty"], len(state["commit"])) == ("trunk", False, 40)
    (tmp_path / "a.txt").write_text("2")
    state = lineage.git_state(tmp_path)
    assert state is not None and state["dirty"]

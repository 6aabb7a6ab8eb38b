"""Which interpreter runs the model server: asked from an environment that has no TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from helpers import ROOT

ASK = """
import sys
from pathlib import Path
from jupyter_tfserve.interpreters import StartError, choose
try:
    print(choose(sys.argv[1], Path(sys.argv[2])))
except StartError as error:
    print(error.message, error.remedy, sep="\\n")
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has nothing installed."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


def ask(bare: Path, kernel: str, last_used: Path) -> list[str]:
    """What is chosen there."""
    done = subprocess.run(
        [bare, "-c", ASK, kernel, last_used],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout.splitlines()


def test_the_kernels(bare: Path, tmp_path: Path) -> None:
    assert ask(bare, sys.executable, tmp_path / "none") == [sys.executable]


def test_the_one_of_the_last_time(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "last").write_text(sys.executable)
    assert ask(bare, "", tmp_path / "last") == [sys.executable]
    assert ask(bare, str(tmp_path / "gone"), tmp_path / "last") == [sys.executable]


def test_none(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "last").write_text(str(tmp_path / "gone"))
    message, remedy = ask(bare, "", tmp_path / "last")
    assert message == f"TensorFlow cannot be imported by any interpreter that could run the model server: {bare}."
    assert remedy == f"Install it in one of them: {bare} -m pip install 'jupyter-tfserve[tensorflow]'"

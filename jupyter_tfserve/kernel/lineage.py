"""Where a version comes from: the executed cells, the notebook, the software, the git state. Written into every
exported version by `registering.py`, read by `%tfserve status NAME`. Nothing here ever makes a registration fail.

::

    assets.extra/tfserve_lineage.json    :class:`Lineage`
    assets.extra/executed_cells.ipynb    what this kernel has executed so far, as a notebook
    assets.extra/notebook.ipynb          the notebook file as saved, without outputs (where the file is known)
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from ..store import LINEAGE
from .finding import session_notebook

FOLDER = "assets.extra"
CELLS = f"{FOLDER}/executed_cells.ipynb"
NOTEBOOK = f"{FOLDER}/notebook.ipynb"

#: Packages whose version decides what a model computes; named where this kernel has imported them.
PACKAGES = (
    "jupyter_tfserve tensorflow keras tf_keras numpy scipy pandas scikit-learn jax jaxlib torch transformers keras_hub "
    "tensorflow_text tensorflow_probability ipykernel ipython"
).split()

_IMPORT_NAMES = {"scikit-learn": "sklearn", "ipython": "IPython"}

#: A notebook above this many bytes is full of outputs; reading it would hold the cell up for seconds.
_NOTEBOOK_LIMIT = 64_000_000

#: Executed cells above this many characters are left out, oldest first.
_CELLS_LIMIT = 4_000_000

_GIT_SECONDS = 2.0


class Git(TypedDict):
    """The repository that holds the notebook."""

    commit: str
    branch: str
    dirty: bool  #: tracked files differ from the commit


class Lineage(TypedDict):
    """Where a version comes from."""

    notebook: str  #: path of the notebook file, "" where it is not known
    cell: int | None  #: the execution count of the cell that registered
    expression: str  #: what was registered, as it was written
    object: str  #: its type, and the begin of its repr
    user: str
    host: str
    time: float
    python: str
    platform: str
    packages: dict[str, str]
    git: Git | None
    copied_from: str  #: the folder that was copied, for a SavedModel from disk


def write(folder: Path, obj: Any, *, expression: str = "", copied_from: str = "") -> None:
    """Put the lineage into a staged version. Whatever fails is left out."""
    with contextlib.suppress(Exception):
        (folder / FOLDER).mkdir(exist_ok=True)
        shell = _shell()
        namespace: Mapping[str, Any] = shell.user_ns if shell is not None else {}
        notebook = None
        with contextlib.suppress(Exception):
            notebook = find_notebook(namespace)
        git = None
        with contextlib.suppress(Exception):
            git = git_state(notebook.parent if notebook else Path.cwd())
        record = Lineage(
            notebook=str(notebook or ""),
            cell=_cell(shell),
            expression=expression,
            object=_describe(obj),
            user=_or_empty(getpass.getuser),
            host=_or_empty(socket.gethostname),
            time=time.time(),
            python=platform.python_version(),
            platform=platform.platform(),
            packages=packages(),
            git=git,
            copied_from=copied_from,
        )
        (folder / LINEAGE).write_text(json.dumps(record, indent=1), encoding="utf-8")
        if shell is not None:
            with contextlib.suppress(Exception):
                cells = cast("Sequence[str]", shell.history_manager.input_hist_raw)
                nbformat.write(executed_cells(cells), folder / CELLS)
        if notebook is not None:
            with contextlib.suppress(Exception):
                nbformat.write(without_outputs(notebook), folder / NOTEBOOK)


def read(version: Path) -> Lineage | None:
    """The lineage of a version; None if it has none, or one of another make."""
    try:
        record = json.loads((version / LINEAGE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("time"), (int, float)):
        return None
    return cast(Lineage, record)


def files(version: Path) -> list[Path]:
    """The notebooks that a version carries."""
    return [version / name for name in (CELLS, NOTEBOOK) if (version / name).is_file()]


def find_notebook(namespace: Mapping[str, Any]) -> Path | None:
    """The notebook that this kernel runs for; None where nobody says.

    A running kernel is not told when its notebook is renamed: the name it was started with counts only if it exists.
    """
    ways: tuple[Callable[[], Any], ...] = (
        lambda: os.environ.get("JPY_SESSION_NAME"),  # Jupyter Server
        lambda: namespace.get("__vsc_ipynb_file__"),  # VS Code
        session_notebook,  # asks the Jupyter Server
    )
    for way in ways:
        name = way()
        if name and Path(name).suffix == ".ipynb" and Path(name).is_file():
            return Path(name).absolute()
    return None


def executed_cells(cells: Sequence[str]) -> nbformat.NotebookNode:
    """Executed cells (index = execution count, 0 is empty) as a valid notebook."""
    kept: list[tuple[int, str]] = []
    room = _CELLS_LIMIT
    for count in range(len(cells) - 1, 0, -1):
        room -= len(cells[count])
        if room < 0:
            break
        kept.append((count, cells[count]))
    notebook: nbformat.NotebookNode = new_notebook(
        cells=[new_code_cell(source, execution_count=count, id=f"cell-{count}") for count, source in reversed(kept)],
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "version": platform.python_version()},
        },
    )
    nbformat.validate(notebook)
    return notebook


def without_outputs(path: Path) -> nbformat.NotebookNode:
    """A notebook file as saved, valid in today's format, without outputs, counts and attachments of outputs.

    Raises ValueError for one that is too large to be read while the user waits.
    """
    if path.stat().st_size > _NOTEBOOK_LIMIT:
        raise ValueError(f"{path} has {path.stat().st_size} bytes")
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
            cell.metadata.pop("execution", None)
    notebook.metadata.pop("widgets", None)
    nbformat.validate(notebook)
    return notebook


def packages() -> dict[str, str]:
    """Versions of those of PACKAGES that this kernel has imported."""
    found = {}
    for name in PACKAGES:
        if _IMPORT_NAMES.get(name, name) in sys.modules:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
    return found


def git_state(folder: Path) -> Git | None:
    """Commit, branch and cleanliness of the repository around a folder; None outside of one, or if git is too slow."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return Git(
            commit=commit,
            branch=_git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
            dirty=bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        # No hooks and no monitors of the repository: looking at it must not run its code.
        ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=_GIT_SECONDS,
        check=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
    )
    return done.stdout.strip()


def _describe(obj: Any) -> str:
    kind = f"{type(obj).__module__}.{type(obj).__qualname__}"
    try:
        text = " ".join(repr(obj).split())
    except Exception:  # a repr is the user's code
        return kind
    return f"{kind}: {text[:300]}"


def _cell(shell: Any) -> int | None:
    """The execution count of the cell that runs: IPython 9.18 counts its own up before the cell runs."""
    return len(shell.history_manager.input_hist_raw) - 1 if shell is not None else None


def _or_empty(ask: Any) -> str:
    try:
        return str(ask())
    except (OSError, KeyError):
        return ""


def _shell() -> Any:
    if "IPython" not in sys.modules:
        return None
    from IPython.core.getipython import get_ipython

    return get_ipython()

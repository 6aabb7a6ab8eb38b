"""Every notebook is executed in a real Jupyter Server by the driver of `make demo`; both are tested here."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import demo
import driver
import jsonschema
import nbformat
import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@dataclass
class Executed:
    """What is left of a notebook's run after its server has ended."""

    document: nbformat.NotebookNode
    token: str
    state: dict[str, Any]
    log: str
    processes: list[psutil.Process] = field(default_factory=list)


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executed]:
    notebook: Path = request.param
    root = tmp_path_factory.mktemp("root") / "notebooks"
    shutil.copytree(notebook.parent, root, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    with driver.JupyterServer(root) as server:
        document = driver.execute(server, notebook.name)
        state = server.call("GET", "tfserve/api/state")
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        log = server.log()
        token = server.token
    yield Executed(document, token, state, log, processes)


def text_of(document: nbformat.NotebookNode) -> str:
    return json.dumps([cell.get("outputs", []) for cell in document.cells])


def test_everything_promised_came_true(executed: Executed) -> None:
    assert demo.judge(demo.summary(executed.document)) == []


def test_executed_notebook_is_valid(executed: Executed) -> None:
    nbformat.validate(executed.document)


def test_no_token_is_shown_or_logged(executed: Executed) -> None:
    assert executed.token not in text_of(executed.document)
    assert executed.token not in executed.log


def test_nothing_is_said_to_be_wrong(executed: Executed) -> None:
    told = text_of(executed.document)
    for word in ("Traceback", "DeprecationWarning", "UserWarning"):
        assert word not in told


def test_model_server_belongs_to_jupyter_and_ends_with_it(executed: Executed) -> None:
    assert executed.state["server"]["pid"] in [process.pid for process in executed.processes]
    _, alive = psutil.wait_procs(executed.processes, timeout=10)
    assert alive == []


def test_state_is_what_the_openapi_document_says(executed: Executed) -> None:
    document = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())
    schema = {"$ref": "#/components/schemas/State", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(executed.state)
    assert [model["name"] for model in executed.state["models"]] == ["digits"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(notebook: Path) -> None:
    document = nbformat.read(notebook, as_version=4)
    nbformat.validate(document)
    for cell in document.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


# The demo's verdict.

GOOD = {
    "versions": [
        {"version": 10, "accuracy": {"a": 0.94, "b": 0.94, "c": 0.94}},
        {"version": 11, "accuracy": {"a": 0.97, "b": 0.97, "c": 0.97}},
    ],
    "loops": [{"over": "a", "answers": [300, 200], "failed": 0, "errors": []}],
}


def test_a_good_summary_is_right() -> None:
    assert demo.judge(GOOD) == []
    assert "97.0%" in demo.table(GOOD)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda told: told["versions"][0]["accuracy"].pop("c"), "2 of 3 protocols"),
        (lambda told: told["versions"][1]["accuracy"].update(c=0.96), "differently"),
        (lambda told: told["versions"][0].update(accuracy=dict.fromkeys("abc", 0.1)), "wrong too often"),
        (lambda told: told["versions"][1].update(version=10), "number"),
        (lambda told: told["versions"][1].update(accuracy=dict.fromkeys("abc", 0.94)), "as accurate as the first"),
        (lambda told: told["loops"][0].update(failed=1, errors=["503"]), "503"),
        (lambda told: told["loops"][0].update(answers=[300, 50, 20]), "changed 2 times"),
        (lambda told: told["loops"][0].update(answers=[500]), "changed 0 times"),
        (lambda told: told["loops"][0].update(answers=[500, 1]), "too few"),
        (lambda told: told.update(loops=[]), "no loop"),
    ],
)
def test_what_is_wrong_is_named(spoil: Callable[[dict[str, Any]], object], words: str) -> None:
    told = copy.deepcopy(GOOD)
    spoil(told)
    assert words in " ".join(demo.judge(told))
    demo.table(told)


# The driver.


@pytest.fixture(scope="module")
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[driver.JupyterServer]:
    with driver.JupyterServer(tmp_path_factory.mktemp("plain")) as server:
        yield server


def write(server: driver.JupyterServer, *cells: str) -> str:
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(document, server.root / "some.ipynb")
    return "some.ipynb"


def test_outputs_are_kept_as_a_front_end_keeps_them(plain_server: driver.JupyterServer) -> None:
    document = driver.execute(
        plain_server,
        write(
            plain_server,
            "import os\nprint('a')\nprint('b')\nos.path.basename(os.getcwd())",
            "import sys\nprint('c', file=sys.stderr)",
            "shown = display('one', display_id=True)\nshown.update('two')",
            "from IPython.display import clear_output\nprint('gone')\nclear_output(wait=True)\nprint('stays')",
        ),
    )
    (printed, value), errors, updated, cleared = (cell.outputs for cell in document.cells)
    assert (printed.name, printed.text) == ("stdout", "a\nb\n")
    assert value.data["text/plain"] == repr(plain_server.root.name)
    assert [(output.name, output.text) for output in errors] == [("stderr", "c\n")]
    assert [output.data["text/plain"] for output in updated] == ["'two'"]
    assert [output.text for output in cleared] == ["stays\n"]
    assert nbformat.read(plain_server.root / "some.ipynb", as_version=4) == document
    assert plain_server.call("GET", "api/sessions") == []


def test_a_failing_cell_ends_the_run_and_keeps_its_output(plain_server: driver.JupyterServer) -> None:
    done: list[str] = []
    with pytest.raises(driver.DriverError, match="ZeroDivisionError"):
        driver.execute(
            plain_server,
            write(plain_server, "1 + 1", "1 / 0", "never"),
            progress=lambda line, _: done.append(line),
        )
    assert done == ["1 + 1"]
    written = nbformat.read(plain_server.root / "some.ipynb", as_version=4)
    assert [cell.execution_count for cell in written.cells] == [1, 2, None]
    assert plain_server.call("GET", "api/sessions") == []


def test_a_cell_that_takes_too_long_is_interrupted(plain_server: driver.JupyterServer) -> None:
    with pytest.raises(driver.DriverError, match="longer than 1 s"):
        driver.execute(plain_server, write(plain_server, "import time\ntime.sleep(600)"), timeout=1)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(driver.DriverError, match="ended with status"):
        driver.JupyterServer(tmp_path, "--ServerApp.root_dir=/nowhere/at/all").__enter__()

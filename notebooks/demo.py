"""`make demo`: executes the quickstart in a real Jupyter Server and says what happened there.

Exit status 0 only if everything the notebook promises came true. The executed notebook is kept in build/demo/.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from driver import DriverError, JupyterServer, execute
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "demo"

#: What a classifier that learned nothing cannot reach.
WORTH_SERVING = 0.85


def main() -> int:
    """Run the demo; returns the exit status."""
    began = time.monotonic()
    shutil.rmtree(BUILD, ignore_errors=True)
    shutil.copytree(HERE, BUILD, ignore=shutil.ignore_patterns("*.py[co]", "__pycache__", ".ipynb_checkpoints"))
    print("Starting a Jupyter Server with folders of its own ...", flush=True)
    try:
        with JupyterServer(BUILD) as server:
            document = execute(server, "quickstart.ipynb", progress=_progress)
    except DriverError as error:
        print(f"\n{error}\n\ndemo: failed after {time.monotonic() - began:.0f} s", file=sys.stderr)
        return 1
    told = summary(document)
    wrong = judge(told)
    print(f"\n{table(told)}\n")
    for line in wrong:
        print(f"WRONG: {line}")
    executed = (BUILD / "quickstart.ipynb").relative_to(HERE.parent)
    print(f"demo: {'failed' if wrong else 'all is right'} after {time.monotonic() - began:.0f} s; executed: {executed}")
    return 1 if wrong else 0


def _progress(line: str, seconds: float) -> None:
    print(f"  {seconds:5.1f} s  {line.lstrip('# ')}", flush=True)


def summary(document: NotebookNode) -> dict[str, Any]:
    """What the executed quickstart tells about itself, as JSON, in its last output."""
    for cell in reversed(document.cells):
        for output in cell.get("outputs", []):
            told: dict[str, Any] | None = output.get("data", {}).get("application/json")
            if told is not None:
                return told
    raise DriverError("The notebook did not tell what it did.")


def judge(told: dict[str, Any]) -> list[str]:
    """What is wrong with a summary; nothing if all came true."""
    wrong = []
    first, second = told["versions"]
    for version in told["versions"]:
        by_protocol = version["accuracy"]
        if len(by_protocol) != 3:
            wrong.append(f"version {version['version']} was asked over {len(by_protocol)} of 3 protocols")
        if max(by_protocol.values()) != min(by_protocol.values()):
            wrong.append(f"version {version['version']} answers differently over one protocol: {by_protocol}")
        if min(by_protocol.values()) < WORTH_SERVING:
            wrong.append(f"version {version['version']} is wrong too often: {by_protocol}")
    if second["version"] <= first["version"]:
        wrong.append("the second version's number is not above the first's")
    if first["accuracy"] == second["accuracy"]:
        wrong.append("the second version is as accurate as the first, to the last image: was it asked at all?")
    if not told["loops"]:
        wrong.append("no loop of requests ran")
    if not told["loops"]:
        wrong.append("no loop of requests ran")
    for loop in told["loops"]:
        if loop["failed"]:
            wrong.append(f"{loop['failed']} requests failed over {loop['over']}: {loop['errors']}")
        if len(loop["answers"]) != 2:
            wrong.append(f"the answers over {loop['over']} changed {len(loop['answers']) - 1} times, not once")
        if min(loop["answers"]) < 20:
            wrong.append(f"too few requests over {loop['over']} to tell: {loop['answers']}")
    return wrong


def table(told: dict[str, Any]) -> str:
    """The summary, for people."""
    lines = [f"{'':34}{'version 1':>12}{'version 2':>12}"]
    first, second = told["versions"]
    lines.append(f"{'number':34}{first['version']:>12}{second['version']:>12}")
    for protocol in first["accuracy"]:
        before, after = first["accuracy"][protocol], second["accuracy"][protocol]
        lines.append(f"{'accuracy, ' + protocol:34}{before:>12.1%}{after:>12.1%}")
    for loop in told["loops"]:
        counts = (loop["answers"] + [0, 0])[:2]
        lines.append(f"{'requests, ' + loop['over']:34}{counts[0]:>12}{counts[1]:>12}")
    lines.append(f"{'requests that failed':34}{sum(loop['failed'] for loop in told['loops']):>24}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

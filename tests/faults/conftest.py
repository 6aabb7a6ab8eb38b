"""What the fault tests share: a Jupyter Server under load, and the table of what became of the requests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_process import HEADERS, JupyterServer
from load import Load, Outcome

from .shim import Shim

#: Where the table of figures is to be written.
FIGURES = os.environ.get("FAULT_FIGURES", "")

#: Whether the long forms run, as `make faults` has it.
LONG = bool(os.environ.get("FAULT_LONG"))

#: Seconds that the heartbeat may be missing in `jupyter`.
HANG = 2.0


class Figures:
    """What became of the requests in each fault."""

    def __init__(self) -> None:
        self._rows: list[str] = []

    def add(self, fault: str, outcome: Outcome, remark: str = "") -> None:
        """One fault; `remark` says what else was measured. Printed, and kept for the table."""
        refused, lost = outcome.refused.total(), outcome.lost.total()
        gap = f"{outcome.gap():.1f} s" if outcome.answered > 1 else ""
        self._rows.append(f"| {fault} | {outcome.answered:,} | {refused:,} | {lost} | {gap} | {remark} |")
        print(f"\n{fault}: {outcome}, {gap} without an answer. {remark}")

    def note(self, fault: str, remark: str) -> None:
        """One fault that takes the server itself away, so that there is no load on it."""
        self._rows.append(f"| {fault} | | | | | {remark} |")
        print(f"\n{fault}: {remark}")

    def write(self, file: Path) -> None:
        """As the table that docs/reliability.md includes."""
        head = [
            "| Fault | Answered | Refused | Lost | Longest time without an answer | |",
            "|---|---:|---:|---:|---:|---|",
        ]
        file.write_text("\n".join([*head, *self._rows]) + "\n")


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    kept = Figures()
    yield kept
    if FIGURES:
        kept.write(Path(FIGURES))


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """See `shim.py`."""
    return Shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def jupyter(models: Path, tmp_path_factory: pytest.TempPathFactory, shim: Shim) -> Iterator[JupyterServer]:
    """One for all faults of the model server alone: each leaves it as it was."""
    server = JupyterServer(tmp_path_factory.mktemp("jupyter"), f"--TFServe.hang_timeout={HANG}", env=shim.environment)
    try:
        server.wait_until_ready()
        for name in ("affine", "reader", "hungry", "slow"):
            server.register(models / name / "1", name)
        yield server
    finally:
        server.close()


@pytest.fixture
def start_jupyter(tmp_path: Path) -> Iterator[Callable[..., JupyterServer]]:
    """Starts Jupyter Servers in a folder of the test, and waits until they answer."""
    started: list[JupyterServer] = []

    def begin(*flags: str, **more: Any) -> JupyterServer:
        one = JupyterServer(tmp_path / more.pop("folder", "jupyter"), *flags, **more)
        started.append(one)
        return one.wait_until_ready()

    yield begin
    for one in started:
        one.close()


def affine_load(jupyter: JupyterServer, **more: Any) -> Load:
    """Load on the model `affine`, whatever its version, through Jupyter."""
    return Load(
        jupyter.port,
        "/tfserve/v1/models/affine:predict",
        {"instances": [1.0]},
        lambda answer: answer["predictions"][0] in (2.0, 3.0, 4.0),
        HEADERS,
        **more,
    )

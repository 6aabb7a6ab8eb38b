"""What the project promises of its speed, and whether a run shows it. Called by `report.py`; nothing fails here: a
miss on a noisy machine is a reason to look, not an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .names import BARE, EMPTY_JUPYTER, FLOOR, OURS, THROUGH_JUPYTER

if TYPE_CHECKING:
    from .report import Medians


@dataclass(frozen=True)
class Promise:
    """`measured` returns None where the run lacks what it needs."""

    text: str
    least: float | None  # measured >= least
    most: float | None  # measured <= most
    measured: Callable[[Medians], float | None]
    unit: str = "x"

    def line(self, medians: Medians) -> str:
        """For a list."""
        value = self.measured(medians)
        if value is None:
            return f"- not measured: {self.text}"
        kept = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        return f"- {'pass' if kept else 'MISS'}: {self.text}: **{value:,.2f}{self.unit}**"


def lines(medians: Medians) -> list[str]:
    """All promises."""
    return [promise.line(medians) for promise in PROMISES]


def _ratio(upper: float | None, lower: float | None) -> float | None:
    return None if upper is None or not lower else upper / lower


def _to_bare(protocol: str, work: str, least: float) -> Promise:
    return Promise(
        f"{protocol} {work}, 32 in flight, ours to the bare burst server, at least {least:g}x",
        least,
        None,
        lambda m: _ratio(m.get(protocol, work, 32, OURS), m.get(protocol, work, 32, BARE)),
    )


def _latency(protocol: str, work: str) -> Promise:
    return Promise(
        f"{protocol} {work}, one connection, our p50 to the bare burst server's, at most 1.25x",
        None,
        1.25,
        lambda m: _ratio(m.get(protocol, work, 1, OURS, "p50_us"), m.get(protocol, work, 1, BARE, "p50_us")),
    )


def _to_mosec(work: str) -> Promise:
    return Promise(
        f"REST {work}, 32 connections, ours to mosec at its best, at least 3x",
        3.0,
        None,
        lambda m: _ratio(m.get("REST", work, 32, OURS), m.best("REST", work, 32, "mosec", "mosec, batching")),
    )


def _to_mlserver(medians: Medians) -> float | None:
    theirs = medians.best("REST", "image", 1, "MLServer", "MLServer, batching")
    return _ratio(medians.get("REST", "image", 1, OURS), theirs)


def _around_the_model(medians: Medians) -> float | None:
    whole, model = medians.get("REST", "image", 1, OURS, "p50_us"), medians.get("", "image", 1, FLOOR, "p50_us")
    return None if whole is None or model is None else (whole - model) / 1000


def _through_jupyter(medians: Medians) -> float | None:
    return _ratio(
        medians.get("REST", "half_plus_two", 32, THROUGH_JUPYTER),
        medians.get("REST", "half_plus_two", 32, EMPTY_JUPYTER),
    )


def _server(what: str) -> Callable[[Medians], float | None]:
    def measured(medians: Medians) -> float | None:
        # A process of the quick form serves more than the small model: an upper bound.
        mine = [s for s in medians.told["servers"] if s["server"] == OURS and "half_plus_two" in s["works"]]
        return min((float(s[what]) for s in mine), default=None)

    return measured


PROMISES = (
    _to_bare("REST", "half_plus_two", 0.5),
    _to_bare("gRPC", "half_plus_two", 0.5),
    _to_bare("REST", "mlp", 0.75),
    _to_bare("gRPC", "mlp", 0.75),
    _latency("REST", "half_plus_two"),
    _latency("gRPC", "half_plus_two"),
    _latency("REST", "mlp"),
    _latency("gRPC", "mlp"),
    _to_mosec("half_plus_two"),
    _to_mosec("mlp"),
    Promise("image as JSON, one connection, ours to MLServer at its best, at least 1.6x", 1.6, None, _to_mlserver),
    Promise("image as JSON, what is not the model is under 5 ms", None, 5.0, _around_the_model, " ms"),
    Promise(
        "half_plus_two through Jupyter, 32 connections, to an empty handler in the same server, at least 0.6x",
        0.6, None, _through_jupyter,
    ),
    Promise("a process that serves the small model, under 450 MB", None, 450.0, _server("memory_mb"), " MB"),
    Promise("ready, TensorFlow's import included, in under 4 s", None, 4.0, _server("start_s"), " s"),
)  # fmt: skip

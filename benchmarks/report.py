"""Results as text: tables of medians, and what was promised beside what was measured. Called by `__main__.py`; by
hand, `python -m benchmarks.report FILE.json [--publish]` says again what a run found.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from . import chart, promises
from .names import FLOOR, OURS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
PUBLISHED = Path(__file__).parent / "results" / "published.json"
_BEGIN, _END = "<!-- results: written by `make bench` -->\n", "<!-- end of results -->\n"

#: Above this share of its core the load generator is what was measured.
_BUSY = 0.95


class Medians:
    """The runs of a result, looked up: (protocol, work, in flight, target) -> the median of the rounds."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self._runs: dict[tuple[str, str, int, str], list[dict[str, Any]]] = {}
        for run in told["runs"]:
            if run["usual"] and run["rate"] > 0:
                key = (run["protocol"], run["work"], run["in_flight"], run["target"])
                self._runs.setdefault(key, []).append(run)

    def get(self, protocol: str, work: str, in_flight: int, target: str, what: str = "rate") -> float | None:
        """None where it was not measured."""
        runs = self._runs.get((protocol, work, in_flight, target))
        return statistics.median(run.get(what, 0.0) for run in runs) if runs else None

    def failed(self, protocol: str, work: str, in_flight: int, target: str) -> bool:
        """Whether a request failed in any of the rounds."""
        return any(run.get("failed") for run in self._runs.get((protocol, work, in_flight, target), ()))

    def best(self, protocol: str, work: str, in_flight: int, *targets: str) -> float | None:
        """The highest rate among targets."""
        rates = [rate for target in targets if (rate := self.get(protocol, work, in_flight, target)) is not None]
        return max(rates, default=None)

    @property
    def keys(self) -> list[tuple[str, str, int, str]]:
        """All there is, as it was first measured."""
        return list(self._runs)


def text(told: dict[str, Any]) -> str:
    """All of it, as Markdown."""
    machine, plan, medians = told["machine"], told["plan"], Medians(told)
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    parts = [
        f"{machine['when']}, {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}; {packages}.",
        f"Medians of {plan['rounds']} rounds of {plan['seconds']} s. **Ratio**: ours to theirs over the same protocol, "
        "above 1 ours answers more. CPU: of the server's processes, for one request.",
    ]
    if others := [run["others"] for run in told["runs"] if "others" in run]:
        parts.append(
            f"Other processes took {100 * statistics.median(others):.0f} % of the two cores meanwhile (median of the "
            f"runs; {100 * max(others):.0f} % in the worst): above a few per cent, trust ratios more than figures."
        )
    works = dict.fromkeys(work for _, work, _, _ in medians.keys)
    for work in works:
        for protocol in ("REST", "gRPC"):
            if lines := _rates(medians, protocol, work):
                parts.append(f"## {protocol}, {work}\n\n" + "\n".join(lines))
    if shapes := _shapes(told):
        parts.append("## gRPC, 32 in flight as connections x streams\n\n" + "\n".join(shapes))
    if servers := _servers(told):
        parts.append("## Start-up and memory\n\n" + "\n".join(servers))
    parts.append("## What is promised\n\n" + "\n".join(promises.lines(medians)))
    silent = dict.fromkeys(
        f"{run['target']} ({run['protocol']} {run['work']}, {run['shape']}): no request was answered: {run['error']}"
        for run in told["runs"]
        if not run["rate"]
    )
    if left_out := [*told["skipped"], *silent]:
        parts.append("## Left out\n\n" + "\n".join(f"- {' '.join(why.split())[:300]}" for why in left_out))
    return "\n\n".join(parts) + "\n"


def _rates(medians: Medians, protocol: str, work: str) -> list[str]:
    columns = sorted({key[2] for key in medians.keys if key[:2] == (protocol, work)})
    targets = dict.fromkeys(key[3] for key in medians.keys if key[:2] == (protocol, work))
    if not targets:
        return []
    head = " | ".join(f"{count} in flight: /s (p50, p99) ratio" for count in columns)
    lines = [f"| | {head} | CPU at {columns[-1]} |", f"|---|{'---:|' * (len(columns) + 1)}"]
    for target in (*targets, FLOOR):
        spoken = "" if target == FLOOR else protocol
        cells = [_cell(medians, spoken, protocol, work, count, target) for count in columns]
        cpu = medians.get(spoken, work, columns[-1], target, "cpu_us")
        if any(cells):
            name = f"**{target}**" if target.startswith(OURS) else target
            lines.append(f"| {name} | {' | '.join(cells)} | {'' if cpu is None else _span(cpu)} |")
    return lines


def _cell(medians: Medians, spoken: str, protocol: str, work: str, count: int, target: str) -> str:
    rate = medians.get(spoken, work, count, target)
    if rate is None:
        return ""
    p50, p99 = (medians.get(spoken, work, count, target, what) or 0.0 for what in ("p50_us", "p99_us"))
    ours = medians.get(protocol, work, count, OURS)
    ratio = f" **{ours / rate:.2f}x**" if ours and target not in (OURS, FLOOR) else ""
    notes = ""
    if medians.failed(spoken, work, count, target):
        notes += ", requests failed"
    if spoken and (medians.get(spoken, work, count, target, "generator") or 0.0) > _BUSY:
        notes += ", the generator's limit"
    return f"{rate:,.0f} ({_span(p50)}, {_span(p99)}{notes}){ratio}"


def _span(microseconds: float) -> str:
    if microseconds < 1000:
        return f"{microseconds:.0f} us"
    return f"{microseconds / 1000:.1f} ms" if microseconds < 100_000 else f"{microseconds / 1000:.0f} ms"


def _shapes(told: dict[str, Any]) -> list[str]:
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in told["runs"]:
        if run["protocol"] == "gRPC" and run["in_flight"] == 32:
            found.setdefault((run["work"], run["target"]), {}).setdefault(run["shape"], []).append(run["rate"])
    shapes = list(dict.fromkeys(shape for by_shape in found.values() for shape in by_shape))
    if len(shapes) < 2:
        return []
    lines = [f"| | {' | '.join(shapes)} |", f"|---|{'---:|' * len(shapes)}"]
    for (work, target), by_shape in found.items():
        cells = [f"{statistics.median(by_shape[shape]):,.0f}" if shape in by_shape else "" for shape in shapes]
        lines.append(f"| {work}, {target} | {' | '.join(cells)} |")
    return lines


def _servers(told: dict[str, Any]) -> list[str]:
    if not told["servers"]:
        return []
    lines = ["| | serves | first right answer after | memory after the load (anonymous) | settings |"]
    lines.append("|---|---|---:|---:|---|")
    for one in told["servers"]:
        protocols = " and ".join(one["protocols"])
        lines.append(
            f"| {one['server']} ({protocols}) | {', '.join(one['works'])} | {one['start_s']:.1f} s | "
            f"{one['memory_mb']:,.0f} MB ({one['anonymous_mb']:,.0f}) | {one['settings']} |"
        )
    return lines


def publish(told: dict[str, Any]) -> None:
    """Write the tables into the documentation, its charts, and the runs beside us."""
    PUBLISHED.write_text(json.dumps(told, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    PAGE.write_text(f"{before}{_BEGIN}\n{text(told)}\n{_END}{after}")
    for name, drawing in chart.draw(Medians(told)).items():
        (PAGE.parent / f"performance-{name}.svg").write_text(drawing)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--publish", action="store_true", help="write it into docs/performance.md and its charts")
    options = parser.parse_args()
    result = json.loads(options.file.read_text())
    print(text(result))
    if options.publish:
        publish(result)

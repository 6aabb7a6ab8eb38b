"""How runs become tables and verdicts; what is measured needs `make bench`."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import promises, report
from benchmarks.names import BARE, FLOOR, OURS


def run(target: str, rate: float, protocol: str = "REST", work: str = "mlp", **more: Any) -> dict[str, Any]:
    usual = {"in_flight": 32, "shape": "32x1", "usual": True, "p50_us": 1e6 / rate, "p99_us": 2e6 / rate}
    return {"target": target, "protocol": protocol, "work": work, "rate": rate, "cpu_us": 9.0} | usual | more


def results(*runs: dict[str, Any], servers: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    machine = {
        "when": "2026-01-01", "processor": "x", "cores": 2, "memory_gb": 8, "system": "Linux", "python": "3.12",
        "packages": {"tensorflow": "2.21.0"},
    }  # fmt: skip
    plan = {"rounds": 3, "seconds": 2}
    return {"machine": machine, "plan": plan, "runs": list(runs), "servers": list(servers), "skipped": []}


def test_the_median_of_the_rounds_counts() -> None:
    medians = report.Medians(results(run(OURS, 100), run(OURS, 900), run(OURS, 200)))
    assert medians.get("REST", "mlp", 32, OURS) == 200
    assert medians.get("gRPC", "mlp", 32, OURS) is None


def test_other_shapes_do_not_mix_with_the_usual_one() -> None:
    told = results(run(OURS, 100, "gRPC", shape="4x8"), run(OURS, 900, "gRPC", shape="1x32", usual=False))
    assert report.Medians(told).get("gRPC", "mlp", 32, OURS) == 100
    assert "| mlp, jupyter_tfserve | 100 | 900 |" in report.text(told)


@pytest.mark.parametrize(("ours", "verdict"), [(750, "pass"), (749, "MISS")])
def test_a_promise_is_kept_or_missed(ours: float, verdict: str) -> None:
    told = results(run(OURS, ours), run(BARE, 1000))
    lines = [
        line for line in promises.lines(report.Medians(told)) if "REST mlp, 32 in flight, ours to the bare" in line
    ]
    assert lines == [
        f"- {verdict}: REST mlp, 32 in flight, ours to the bare burst server, at least 0.75x: **{ours / 1000:.2f}x**"
    ]


def test_what_was_not_measured_is_neither() -> None:
    assert {line[:14] for line in promises.lines(report.Medians(results()))} == {"- not measured"}


def test_a_cell_has_the_ratio_and_says_what_limits_it() -> None:
    text = report.text(
        results(
            run(OURS, 500), run(BARE, 1000, generator=0.99), run("FastAPI", 50, failed=3), run(FLOOR, 5000, protocol="")
        )
    )  # fmt: skip
    assert "| bare burst server | 1,000 (1.0 ms, 2.0 ms, the generator's limit) **0.50x** | 9 us |" in text
    assert "| FastAPI | 50 (20.0 ms, 40.0 ms, requests failed) **10.00x** | 9 us |" in text
    assert "| callable, no server | 5,000 (200 us, 400 us) | 9 us |" in text


def test_a_server_that_answers_nothing_is_named() -> None:
    assert f"- {BARE} (REST mlp, 32x1): no request was answered: why" in report.text(
        results(run(OURS, 500), run(BARE, 1) | {"rate": 0.0, "error": "why"})
    )

"""The numbers of the last minute: requests, latency, queue time and batch sizes, each a small picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape

from ...api import Sample
from .sparkline import bars, sparkline
from .style import PREFIX
from .words import milliseconds

#: Seconds that the sparklines show, and that the bars add up.
LENGTH = 60
_BARS = 10


def numbers(samples: Sequence[Sample | None]) -> str:
    """One second after the other, the newest last, as HTML."""
    if not any(samples):
        return f"<div class='{PREFIX}dim'>No requests in the last minute.</div>"
    last = samples[-1]
    figures = [
        _line("Requests/s", samples, lambda sample: sample["requests"], str(last["requests"] if last else 0)),
        _line("p50", samples, lambda sample: sample["p50_ms"], milliseconds(last and last["p50_ms"])),
        _line("p99", samples, lambda sample: sample["p99_ms"], milliseconds(last and last["p99_ms"])),
        _line("Queue time", samples, lambda sample: sample["queue_ms"], milliseconds(last and last["queue_ms"])),
        _sizes(samples),
    ]
    if any(sample and sample["errors"] for sample in samples):
        errors = _line("Errors/s", samples, lambda sample: sample["errors"], str(last["errors"] if last else 0))
        figures.insert(1, errors)
    return f"<div class='{PREFIX}numbers'>{''.join(figures)}</div>"


def _line(title: str, samples: Sequence[Sample | None], part: Callable[[Sample], float | None], last: str) -> str:
    values = [None if sample is None else part(sample) for sample in samples]
    if title.endswith("/s"):
        values = [value or 0 for value in values]  # no request is none, not unknown
    return _figure(title, last, sparkline(values, f"{title}: {last}", LENGTH))


def _sizes(samples: Sequence[Sample | None]) -> str:
    """Those of the last seconds: a change of the knobs is to be seen soon."""
    counts: Counter[int] = Counter()
    for sample in samples[-_BARS:]:
        if sample is not None:
            counts.update({int(size): runs for size, runs in sample["batch_sizes"].items()})
    runs = sum(counts.values())
    shown = {str(size): float(counts[size]) for size in sorted(counts)}
    largest = max((size for size in counts if counts[size]), default=0)
    last = f"up to {largest}" if largest else "–"
    words = ", ".join(f"{count:.0f} of {size}" for size, count in shown.items() if count)
    return _figure("Batch sizes", last, bars(shown, f"Batch sizes, {runs} runs in {_BARS} s: {words or 'none'}"))


def _figure(title: str, last: str, picture: str) -> str:
    return f"<figure><figcaption><span>{escape(title)}</span><b>{escape(last)}</b></figcaption>{picture}</figure>"

"""Counters and histograms, and the page that Prometheus reads: TF Serving's names and format, then ours.

Not prometheus_client: it cannot give a counter TF Serving's name (it appends ``_total``, and escapes the colons), and
a sample costs ten times as much there.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Sequence

#: TF Serving's limits in microseconds (`monitoring::Buckets::Exponential(10, 1.8, 33)`).
_LIMITS = [10 * 1.8**power for power in range(33)]

#: `request_example_counts` grows by two from one.
_COUNT_LIMITS = [float(2**power) for power in range(33)]

#: Different label values of one metric that are told apart. Names come from callers, who must not fill the memory.
_MAX_CHILDREN = 5000

Labels = tuple[str, ...]


class _Metric:
    """One name, with a value for each combination of labels."""

    kind = ""

    def __init__(self, name: str, *labels: str) -> None:
        self.name = name
        self.labels = labels
        self._lock = threading.Lock()

    def lines(self) -> list[str]:
        """The samples as Prometheus reads them."""
        raise NotImplementedError

    def total(self) -> int:
        """What was counted, over all labels."""
        raise NotImplementedError

    def _text(self, labels: Labels, suffix: str = "", more: str = "") -> str:
        pairs = [f'{key}="{_escape(value)}"' for key, value in zip(self.labels, labels, strict=True)]
        inside = ",".join([*pairs, more] if more else pairs)
        return f"{self.name}{suffix}{{{inside}}}" if inside else f"{self.name}{suffix}"


class Counter(_Metric):
    """Only grows."""

    kind = "counter"

    def __init__(self, name: str, *labels: str) -> None:
        super().__init__(name, *labels)
        self._values: dict[Labels, float] = {}

    def add(self, *labels: str, by: float = 1) -> None:
        """Count."""
        with self._lock:
            if labels not in self._values and len(self._values) >= _MAX_CHILDREN:
                return
            self._values[labels] = self._values.get(labels, 0) + by

    def total(self) -> int:
        """The sum of the values."""
        with self._lock:
            return int(sum(self._values.values()))

    def lines(self) -> list[str]:
        """A sample for each combination of labels."""
        with self._lock:
            return [f"{self._text(labels)} {value:g}" for labels, value in self._values.items()]


class Histogram(_Metric):
    """Counts values below each limit."""

    kind = "histogram"

    def __init__(self, name: str, *labels: str, limits: Sequence[float] = _LIMITS) -> None:
        super().__init__(name, *labels)
        self._limits = limits
        self._values: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count one value."""
        with self._lock:
            child = self._values.get(labels)
            if child is None:
                if len(self._values) >= _MAX_CHILDREN:
                    return
                child = self._values[labels] = ([0] * (len(self._limits) + 1), [0.0])
            child[0][bisect_left(self._limits, value)] += 1
            child[1][0] += value

    def total(self) -> int:
        """How many values were counted."""
        with self._lock:
            return sum(sum(counts) for counts, _ in self._values.values())

    def lines(self) -> list[str]:
        """Buckets, sum and count for each combination of labels."""
        lines = []
        with self._lock:
            for labels, (counts, [total]) in self._values.items():
                below = 0
                for limit, count in zip([*map("{:g}".format, self._limits), "+Inf"], counts, strict=True):
                    below += count
                    lines.append(self._text(labels, "_bucket", f'le="{limit}"') + f" {below}")
                lines.append(f"{self._text(labels, '_sum')} {total:g}")
                lines.append(f"{self._text(labels, '_count')} {below}")
        return lines


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_PREFIX = ":tensorflow:serving:"

REQUEST_COUNT = Counter(_PREFIX + "request_count", "model_name", "status")
REQUEST_LATENCY = Histogram(_PREFIX + "request_latency", "model_name", "API", "entrypoint")
RUNTIME_LATENCY = Histogram(_PREFIX + "runtime_latency", "model_name", "API", "runtime")
EXAMPLE_COUNT_TOTAL = Counter(_PREFIX + "request_example_count_total", "model")
EXAMPLE_COUNTS = Histogram(_PREFIX + "request_example_counts", "model", limits=_COUNT_LIMITS)
WARMUP_RECORDS = Counter(_PREFIX + "model_warmup_records_read", "model_path", "status")
WARMUP_LATENCY = Histogram(_PREFIX + "model_warmup_latency", "model_path", "status")
LOADS = Counter("jupyter_tfserve_loads_total", "model_name", "version", "status")
LOAD_SECONDS = Histogram(
    "jupyter_tfserve_load_seconds", "model_name", limits=[0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600]
)
LOG_RECORDS = Counter("jupyter_tfserve_request_log_records_total", "model_name", "status")
SIGNATURE_LATENCY = Histogram("jupyter_tfserve_run_microseconds", "model_name", "version", "signature")

ALL: list[_Metric] = [
    REQUEST_COUNT,
    REQUEST_LATENCY,
    RUNTIME_LATENCY,
    EXAMPLE_COUNT_TOTAL,
    EXAMPLE_COUNTS,
    WARMUP_RECORDS,
    WARMUP_LATENCY,
    LOADS,
    LOAD_SECONDS,
    LOG_RECORDS,
    SIGNATURE_LATENCY,
]


def page(in_flight: Sequence[tuple[str, int, int]] = ()) -> str:
    """All samples as text; `in_flight` holds model, version and the number of requests that run in it now."""
    lines: list[str] = []
    for metric in ALL:
        samples = metric.lines()
        if samples:
            lines += [f"# TYPE {metric.name} {metric.kind}", *samples]
    if in_flight:
        lines.append("# TYPE jupyter_tfserve_in_flight gauge")
        lines += [
            f'jupyter_tfserve_in_flight{{model_name="{_escape(name)}",version="{number}"}} {count}'
            for name, number, count in in_flight
        ]
    return "\n".join(lines) + "\n"


def totals(names: Sequence[str]) -> dict[str, int]:
    """What each metric has counted so far, 0 for an unknown one. Names are those of the page, or have TF Serving's
    slashes for its colons.
    """
    known = {metric.name: metric for metric in ALL}
    return {name: known[key].total() if (key := name.replace("/", ":")) in known else 0 for name in names}


class Run:
    """A ``with`` block around a run of a model, whose time it counts."""

    __slots__ = ("_api", "_began", "_model", "_signature", "_version")

    def __init__(self, model: str, version: int, signature: str, api: str) -> None:
        self._model, self._version, self._signature, self._api = model, version, signature, api

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            took = (time.perf_counter() - self._began) * 1e6
            RUNTIME_LATENCY.observe(took, self._model, self._api, "TF1")
            SIGNATURE_LATENCY.observe(took, self._model, str(self._version), self._signature)


def count_examples(model: str, count: int) -> None:
    """A Classify, Regress or MultiInference request came with so many examples."""
    EXAMPLE_COUNT_TOTAL.add(model, by=count)
    EXAMPLE_COUNTS.observe(count, model)

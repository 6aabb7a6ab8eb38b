"""Counters and histograms, and the page that Prometheus reads: TF Serving's names and format, then ours.

Not prometheus_client: it cannot give a counter TF Serving's name (it appends ``_total``, and escapes the colons), and
a sample costs ten times as much there.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: TF Serving's limits in microseconds (`monitoring::Buckets::Exponential(10, 1.8, 33)`).
_LIMITS = [10 * 1.8**power for power in range(33)]

#: `request_example_counts` grows by two from one.
_COUNT_LIMITS = [float(2**power) for power in range(33)]

#: Different label values of one metric that are told apart. Names come from callers, who must not fill the memory.
_MAX_CHILDREN = 5000

#: Values of a histogram that are counted together.
_COUNTED_AT_ONCE = 1000

#: The panels' quantiles want finer steps than TF Serving's: so many inside one of its own. The page has TF Serving's.
_STEPS = 4

Labels = tuple[str, ...]
Array = npt.NDArray[Any]


class _Metric:
    """One name, with a value for each combination of labels."""

    kind = ""

    def __init__(self, name: str, *labels: str) -> None:
        self.name = name
        self.labels = labels
        self._lock = threading.Lock()

    def samples(self) -> dict[Labels, Any]:
        """What was counted for each combination of labels, as plain data."""
        raise NotImplementedError

    def added(self, one: Any, other: Any) -> Any:
        """Two values of `samples` together."""
        raise NotImplementedError

    def lines(self, samples: Mapping[Labels, Any]) -> list[str]:
        """What Prometheus reads."""
        raise NotImplementedError

    def total(self) -> int:
        """What was counted, over all labels."""
        raise NotImplementedError

    def _text(self, labels: Labels, suffix: str = "", more: str = "") -> str:
        pairs = [f'{key}="{_escape(value)}"' for key, value in zip(self.labels, labels, strict=True)]
        inside = ",".join([*pairs, more] if more else pairs)
        return f"{self.name}{suffix}{{{inside}}}" if inside else f"{self.name}{suffix}"


class Count:
    """A counter's value for one combination of labels."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._lock = threading.Lock()

    def add(self, by: float = 1) -> None:
        """Count."""
        with self._lock:
            self.value += by


class Counter(_Metric):
    """Only grows."""

    kind = "counter"

    def __init__(self, name: str, *labels: str) -> None:
        super().__init__(name, *labels)
        self._children: dict[Labels, Count] = {}

    def child(self, *labels: str) -> Count:
        """The counter of these labels; one that nobody sees where there are too many already."""
        found = self._children.get(labels)
        if found is None:
            with self._lock:
                if len(self._children) >= _MAX_CHILDREN:
                    return Count()
                found = self._children.setdefault(labels, Count())
        return found

    def add(self, *labels: str, by: float = 1) -> None:
        """Count."""
        self.child(*labels).add(by)

    def children(self) -> list[tuple[Labels, Count]]:
        """Those there are."""
        with self._lock:
            return list(self._children.items())

    def total(self) -> int:
        """The sum of the values."""
        with self._lock:
            return int(sum(child.value for child in self._children.values()))

    def samples(self) -> dict[Labels, Any]:
        """The value for each combination of labels that has counted anything."""
        return {labels: child.value for labels, child in self.children() if child.value}

    def added(self, one: Any, other: Any) -> Any:
        """Their sum."""
        return one + other

    def lines(self, samples: Mapping[Labels, Any]) -> list[str]:
        """A sample for each combination of labels."""
        return [f"{self._text(labels)} {value:.15g}" for labels, value in samples.items()]


class Distribution:
    """A histogram's values for one combination of labels. They are written down as they come and counted many at once:
    counting one by one would be a good part of the time that a small request takes.
    """

    __slots__ = ("_buckets", "_limits", "_lock", "_steps", "_tally", "_total", "_uncounted")

    def __init__(self, limits: Array, steps: int = 1) -> None:
        """`limits` ascend; each `steps`-th of them, from the first on, is one of the page."""
        self._limits = limits
        self._steps = steps
        self._lock = threading.Lock()
        self._tally: Tally | None = None  # the last one, while it still holds
        self._buckets = np.zeros(len(limits) + 1, np.int64)
        self._total = 0.0
        self._uncounted: list[float] = []

    def observe(self, value: float) -> None:
        """Take in a value."""
        self._uncounted.append(value)
        if len(self._uncounted) >= _COUNTED_AT_ONCE:
            self.counts()

    def observe_all(self, values: Sequence[float]) -> None:
        """Take in each of them."""
        self._uncounted.extend(values)
        if len(self._uncounted) >= _COUNTED_AT_ONCE:
            self.counts()

    def counts(self) -> tuple[list[int], float]:
        """How many values there were up to each limit of the page, from the one before it (last: past all), and their
        sum.
        """
        tally = self.tally()
        buckets, steps = tally.buckets, self._steps
        if steps > 1:
            inner = buckets[1:-1].reshape(-1, steps).sum(axis=1)
            buckets = np.concatenate((buckets[:1], inner, buckets[-1:]))
        return buckets.tolist(), tally.total

    def tally(self) -> Tally:
        """The same with all limits; while nothing comes it is the same object."""
        with self._lock:
            values = self._uncounted[:]
            del self._uncounted[: len(values)]  # not a new list: a thread may be about to append to this one
            if values:
                self._buckets += np.bincount(np.searchsorted(self._limits, values), minlength=len(self._buckets))
                self._total += sum(values)
                self._tally = None
            if self._tally is None:
                self._tally = Tally(self._limits, self._buckets.copy(), self._total)
            return self._tally


@dataclass(frozen=True, eq=False)
class Tally:
    """What a histogram has counted up to a moment."""

    limits: Array  #: ascending
    buckets: Array  #: values up to each limit, from the one before it; last: past all
    total: float  #: their sum

    @property
    def count(self) -> int:
        """Values."""
        return int(self.buckets.sum())

    def since(self, before: Tally | None) -> Tally:
        """What came after an earlier tally of the same histogram."""
        if before is None:
            return self
        return Tally(self.limits, self.buckets - before.buckets, self.total - before.total)

    def plus(self, other: Tally) -> Tally:
        """With what a histogram with the same limits has counted."""
        return Tally(self.limits, self.buckets + other.buckets, self.total + other.total)

    def quantile(self, share: float) -> float | None:
        """The value that `share` (0 to 1) of the values do not exceed, by straight lines inside the buckets; None of no
        values. Past the last limit it is that.
        """
        below = np.cumsum(self.buckets)
        wanted = share * below[-1]
        if not below[-1]:
            return None
        at = int(np.searchsorted(below, wanted))
        if at >= len(self.limits):
            return float(self.limits[-1])
        low = self.limits[at - 1] if at else 0.0
        inside = (wanted - (below[at - 1] if at else 0)) / max(1, self.buckets[at])
        return float(low + (self.limits[at] - low) * inside)


class Histogram(_Metric):
    """Counts values below each limit."""

    kind = "histogram"

    def __init__(self, name: str, *labels: str, limits: Sequence[float] = _LIMITS, steps: int = 1) -> None:
        """`limits` are the page's; `steps` as many are counted inside each, for `Tally.quantile`."""
        super().__init__(name, *labels)
        self.limits = np.array(limits)
        self._steps = steps
        self._all_limits = _finer(self.limits, steps)
        self._children: dict[Labels, Distribution] = {}

    def child(self, *labels: str) -> Distribution:
        """The distribution of these labels; one that nobody sees where there are too many already."""
        found = self._children.get(labels)
        if found is None:
            with self._lock:
                if len(self._children) >= _MAX_CHILDREN:
                    return Distribution(self._all_limits, self._steps)
                found = self._children.setdefault(labels, Distribution(self._all_limits, self._steps))
        return found

    def children(self) -> list[tuple[Labels, Distribution]]:
        """Those there are."""
        with self._lock:
            return list(self._children.items())

    def observe(self, value: float, *labels: str) -> None:
        """Count one value."""
        self.child(*labels).observe(value)

    def total(self) -> int:
        """How many values were counted."""
        return sum(sum(child.counts()[0]) for _, child in self.children())

    def samples(self) -> dict[Labels, Any]:
        """Counts and sum for each combination of labels that has counted anything."""
        found = {labels: child.counts() for labels, child in self.children()}
        return {labels: counted for labels, counted in found.items() if any(counted[0])}

    def added(self, one: Any, other: Any) -> Any:
        """Counts and sums of both."""
        return [a + b for a, b in zip(one[0], other[0], strict=True)], one[1] + other[1]

    def lines(self, samples: Mapping[Labels, Any]) -> list[str]:
        """Buckets, sum and count for each combination of labels."""
        lines = []
        limits = [*map("{:g}".format, self.limits), "+Inf"]
        for labels, (counts, total) in samples.items():
            below = 0
            for limit, count in zip(limits, counts, strict=True):
                below += count
                le = f'le="{limit}"'
                lines.append(f"{self._text(labels, '_bucket', le)} {below}")
            lines.append(f"{self._text(labels, '_sum')} {total:.15g}")
            lines.append(f"{self._text(labels, '_count')} {below}")
        return lines


class _Observations(_Metric):
    """Counts what a histogram has seen."""

    kind = "counter"

    def __init__(self, name: str, histogram: Histogram) -> None:
        super().__init__(name)
        self._histogram = histogram

    def total(self) -> int:
        """The histogram's."""
        return self._histogram.total()

    def samples(self) -> dict[Labels, Any]:
        """One, if it has seen anything."""
        total = self.total()
        return {(): total} if total else {}

    def added(self, one: Any, other: Any) -> Any:
        """Their sum."""
        return one + other

    def lines(self, samples: Mapping[Labels, Any]) -> list[str]:
        """One sample."""
        return [f"{self.name} {value:.15g}" for value in samples.values()]


def _finer(limits: Array, steps: int) -> Array:
    """With `steps` - 1 more between each two, growing as they do."""
    inner = [low * (high / low) ** (step / steps) for low, high in itertools.pairwise(limits) for step in range(steps)]
    fine = np.array([*inner, limits[-1]])
    fine[::steps] = limits
    return fine


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_PREFIX = ":tensorflow:serving:"

REQUEST_COUNT = Counter(_PREFIX + "request_count", "model_name", "status")
REQUEST_LATENCY = Histogram(_PREFIX + "request_latency", "model_name", "API", "entrypoint", steps=_STEPS)
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
QUEUE_TIME = Histogram("jupyter_tfserve_queue_microseconds", "model_name", "version", "signature")
BATCH_SIZE = Histogram("jupyter_tfserve_batch_size", "model_name", "version", "signature", limits=_COUNT_LIMITS[:14])
WRAPPED_RUN_COUNT = _Observations(_PREFIX + "batching_session:wrapped_run_count", BATCH_SIZE)

ALL: list[_Metric] = [
    REQUEST_COUNT,
    REQUEST_LATENCY,
    RUNTIME_LATENCY,
    EXAMPLE_COUNT_TOTAL,
    EXAMPLE_COUNTS,
    WARMUP_RECORDS,
    WARMUP_LATENCY,
    WRAPPED_RUN_COUNT,
    LOADS,
    LOAD_SECONDS,
    LOG_RECORDS,
    SIGNATURE_LATENCY,
    QUEUE_TIME,
    BATCH_SIZE,
]


#: What only the process knows that runs the model: a front has it from its workers, and counts all else itself.
OF_RUNS: list[_Metric] = [
    RUNTIME_LATENCY,
    EXAMPLE_COUNT_TOTAL,
    EXAMPLE_COUNTS,
    WARMUP_RECORDS,
    WARMUP_LATENCY,
    LOG_RECORDS,
    SIGNATURE_LATENCY,
    QUEUE_TIME,
    BATCH_SIZE,
    WRAPPED_RUN_COUNT,
]

#: Samples by the name of their metric, as JSON: pairs of labels and a value.
Counted = dict[str, list[Any]]


def counted() -> Counted:
    """What was counted of runs here, for a front."""
    return {metric.name: list(metric.samples().items()) for metric in OF_RUNS}


def added(several: Sequence[Counted]) -> Counted:
    """What several processes have counted, together."""
    return {
        metric.name: list(_sum(metric, {}, [one.get(metric.name, []) for one in several]).items()) for metric in OF_RUNS
    }


def _sum(metric: _Metric, samples: dict[Labels, Any], more: Sequence[list[Any]]) -> dict[Labels, Any]:
    for listed in more:
        for labels, value in listed:
            key = tuple(labels)
            samples[key] = metric.added(samples[key], value) if key in samples else value
    return samples


def page(in_flight: Sequence[tuple[str, int, int]] = (), others: Sequence[Counted] = ()) -> str:
    """All samples as text; `in_flight` holds model, version and the number of requests that run in it now, `others`
    what workers have counted.
    """
    lines: list[str] = []
    for metric in ALL:
        samples = _sum(metric, metric.samples(), [one.get(metric.name, []) for one in others])
        if samples:
            lines += [f"# TYPE {metric.name} {metric.kind}", *metric.lines(samples)]
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


def count_examples(model: str, count: int) -> None:
    """A Classify, Regress or MultiInference request came with so many examples."""
    EXAMPLE_COUNT_TOTAL.add(model, by=count)
    EXAMPLE_COUNTS.observe(count, model)

"""What each model did in each of the last seconds: differences of the counters in `metrics.py`, taken once a second in
a thread. Requests pay nothing for it. The management API tells the history, and the events of type "stats" each second.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .. import api
from . import metrics
from .core.server_core import ServerCore
from .metrics import Counted, Labels, Tally

#: Seconds that are remembered.
KEPT = 120

#: By model: requests in flight, and those of them that wait for a run.
Load = Mapping[str, tuple[int, int]]


@dataclass
class _Second:
    """One model's part of the differences."""

    latency: Tally | None = None
    queue: Tally | None = None
    batches: Tally | None = None
    errors: int = 0

    def sample(self, in_flight: int, queued: int) -> api.Sample:
        """As the API tells it."""
        latency, queue = self.latency, self.queue
        return api.Sample(
            requests=self.errors + (latency.count if latency else 0),
            errors=self.errors,
            p50_ms=_milliseconds(latency.quantile(0.5) if latency else None),
            p99_ms=_milliseconds(latency.quantile(0.99) if latency else None),
            queue_ms=_milliseconds(queue.total / queue.count if queue else None),
            in_flight=in_flight,
            queued=queued,
            batch_sizes=_sizes(self.batches) if self.batches else {},
        )


@dataclass
class Sampler:
    """The last seconds. `load` is asked from the sampler's thread, at each second's end."""

    load: Callable[[], Load]
    reports: Callable[[], Sequence[Counted]] = tuple  #: what workers have counted of the runs that they made
    on_sample: Callable[[api.Event], None] = lambda event: None
    _history: deque[tuple[float, dict[str, api.Sample]]] = field(default_factory=lambda: deque(maxlen=KEPT))
    _tallies: dict[tuple[metrics.Histogram, Labels], Tally] = field(default_factory=dict)
    _reported: dict[tuple[metrics.Histogram, Labels], Tally] = field(default_factory=dict)
    _counts: dict[Labels, float] = field(default_factory=dict)
    _end: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin: what was counted before does not count."""
        self._differences()
        threading.Thread(target=self._run, name="stats", daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._end.set()

    def stats(self, seconds: int = KEPT) -> api.Stats:
        """The last `seconds`, at most KEPT."""
        history = list(self._history)[-seconds:]
        names = {name for _, samples in history for name in samples}
        missing: list[api.Sample | None] = [None] * (seconds - len(history))
        return api.Stats(
            time=history[-1][0] if history else time.time(),
            seconds=seconds,
            samples={name: missing + [samples.get(name) for _, samples in history] for name in sorted(names)},
        )

    def take(self) -> dict[str, api.Sample]:
        """The sample of the time since the last one, by model; those that did nothing are left out."""
        load = self.load()
        seconds = self._differences()
        active = seconds.keys() & load.keys() | {name for name, (in_flight, _) in load.items() if in_flight}
        return {name: seconds[name].sample(*load[name]) for name in sorted(active)}

    def _run(self) -> None:
        due = time.monotonic() + 1.0
        while not self._end.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1.0, time.monotonic())  # a machine that slept does not catch up
            now, samples = time.time(), self.take()
            self._history.append((now, samples))
            self.on_sample(api.Event(type="stats", time=now, samples=samples))

    def _differences(self) -> defaultdict[str, _Second]:
        """By model, of those that have counted anything since the last call."""
        found: defaultdict[str, _Second] = defaultdict(_Second)
        for metric, part in (
            (metrics.REQUEST_LATENCY, "latency"),
            (metrics.QUEUE_TIME, "queue"),
            (metrics.BATCH_SIZE, "batches"),
        ):
            for labels, child in metric.children():
                before, now = self._tallies.get((metric, labels)), child.tally()
                if now is before or not now.count:
                    continue
                self._tallies[metric, labels] = now
                second = found[labels[0]]
                sum_, new = getattr(second, part), now.since(before)
                setattr(second, part, new if sum_ is None else sum_.plus(new))
        counted = metrics.added(self.reports())
        for metric, part in ((metrics.QUEUE_TIME, "queue"), (metrics.BATCH_SIZE, "batches")):
            for listed, (buckets, total) in counted[metric.name]:
                labels, now = tuple(listed), Tally(metric.limits, np.array(buckets), total)
                before = self._reported.get((metric, labels))
                new = now.since(before)
                if new.buckets.min() < 0:  # a worker that counted is gone, with what it told nobody
                    new = now
                if new.count:
                    self._reported[metric, labels] = now
                    second = found[labels[0]]
                    sum_ = getattr(second, part)
                    setattr(second, part, new if sum_ is None else sum_.plus(new))
        for labels, count in metrics.REQUEST_COUNT.children():
            model, status = labels
            before_, self._counts[labels] = self._counts.get(labels, 0.0), count.value
            if status != "OK" and count.value != before_:
                found[model].errors += int(count.value - before_)
        return found


def load_of(core: ServerCore) -> Load:
    """What the served models are at."""
    found = {}
    for name in core.models:
        versions = core.manager.versions(name)
        queued = sum(servable.waiting for version in versions if (servable := version.servable) is not None)
        found[name] = sum(version.in_flight for version in versions), queued
    return found


def _milliseconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else round(microseconds / 1e3, 3)


def _sizes(batches: Tally) -> dict[str, int]:
    counts: list[int] = batches.buckets.tolist()
    while not counts[-1]:
        counts.pop()
    limits = [*batches.limits.tolist(), 2 * batches.limits[-1]]
    return {f"{limit:.0f}": count for limit, count in zip(limits, counts, strict=False)}

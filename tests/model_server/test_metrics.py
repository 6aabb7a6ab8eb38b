"""Histograms: what the page tells, and what the panels' samples are made of."""

from __future__ import annotations

import numpy as np
import pytest

from jupyter_tfserve.model_server.metrics import REQUEST_LATENCY, Counter, Histogram


def test_finer_buckets_are_not_on_the_page() -> None:
    coarse = Histogram("h", "model", limits=[10, 18, 32.4])
    fine = Histogram("h", "model", limits=[10, 18, 32.4], steps=4)
    values = np.random.default_rng(0).uniform(1, 50, 500).tolist()
    for histogram in (coarse, fine):
        histogram.child("m").observe_all([*values, 10, 18, 32.4])
    assert fine.lines(fine.samples()) == coarse.lines(coarse.samples())
    assert [line.split(" ")[0] for line in fine.lines(fine.samples())[:4]] == [
        f'h_bucket{{model="m",le="{limit}"}}' for limit in ("10", "18", "32.4", "+Inf")
    ]
    assert fine.total() == coarse.total() == 503
    assert len(fine.child("m").tally().buckets) == 10


def test_a_tally_is_the_same_until_something_comes() -> None:
    child = Histogram("h", limits=[1, 2]).child()
    first = child.tally()
    assert child.tally() is first
    child.observe(1.5)
    second = child.tally()
    assert second is not first
    since = second.since(first)
    assert (since.count, since.total, since.buckets.tolist()) == (1, 1.5, [0, 1, 0])
    assert since.plus(since).buckets.tolist() == [0, 2, 0]
    assert first.count == 0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("middle", [12.0, 1_000.0, 250_000.0])
def test_quantiles_are_near(share: float, middle: float) -> None:
    """Within the width of a bucket: a step of 1.8 ** (1/4), some 16 %."""
    values = np.random.default_rng(1).lognormal(np.log(middle), 0.5, 20_000)
    child = Histogram("h", steps=4).child()
    child.observe_all(values.tolist())
    found = child.tally().quantile(share)
    assert found is not None
    true = float(np.quantile(values, share))
    assert found == pytest.approx(true, rel=0.17) or (true < 10 and found < 10)  # one bucket


def test_quantiles_of_nothing_and_of_too_much() -> None:
    child = Histogram("h", limits=[1, 2]).child()
    assert child.tally().quantile(0.5) is None
    child.observe(99)
    assert child.tally().quantile(0.5) == 2


def test_the_names_and_limits_are_tf_servings() -> None:
    assert REQUEST_LATENCY.name == ":tensorflow:serving:request_latency"
    assert REQUEST_LATENCY.limits[:2].tolist() == [10, 18]
    assert len(REQUEST_LATENCY.limits) == 33


def test_large_numbers_keep_their_digits() -> None:
    """A rate is the difference of two large numbers."""
    counter, histogram = Counter("requests", "model"), Histogram("spans", "model")
    counter.add("m", by=12_345_678)
    histogram.observe(12_345_678.0, "m")
    assert counter.lines(counter.samples()) == ['requests{model="m"} 12345678']
    assert 'spans_sum{model="m"} 12345678' in histogram.lines(histogram.samples())

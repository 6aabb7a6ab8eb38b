"""The text that Prometheus reads."""

from __future__ import annotations

from jupyter_tfserve.model_server.metrics import Counter, Histogram


def test_large_numbers_keep_their_digits() -> None:
    """A rate is the difference of two large numbers."""
    counter, histogram = Counter("requests", "model"), Histogram("spans", "model")
    counter.add("m", by=12_345_678)
    histogram.observe(12_345_678.0, "m")
    assert counter.lines() == ['requests{model="m"} 12345678']
    assert 'spans_sum{model="m"} 12345678' in histogram.lines()

"""What the extension adds to Jupyter Server's own /metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "jupyter_tfserve_requests", "Requests under /tfserve/v1, by class of their status.", labelnames=("status",)
)
IN_FLIGHT = Gauge("jupyter_tfserve_requests_in_flight", "Requests under /tfserve/v1 that wait for their answer.")
SECONDS = Histogram(
    "jupyter_tfserve_request_seconds",
    "Seconds from a request's head to the end of its answer.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
RESTARTS = Counter("jupyter_tfserve_model_server_restarts", "Times the model server was started again after it ended.")

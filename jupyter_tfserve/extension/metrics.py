"""What the extension adds to Jupyter Server's own /metrics: its own figures, and those of the model server."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

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

#: Seconds that the model server gets for its page. Jupyter Server collects on its event loop, which stands still
#: meanwhile; without an answer this scrape lacks the model server's figures.
LIMIT_SECONDS = 0.1

_REQUEST = b"GET /monitoring/prometheus/metrics HTTP/1.0\r\n\r\n"

#: Ours. TF Serving's names are on the page at TF Serving's path: Jupyter's own page is for names with a prefix.
_OURS = ("jupyter_tfserve_", "# TYPE jupyter_tfserve_")


class ModelServerCollector(Collector):
    """The model server's `jupyter_tfserve_*` figures, read at each scrape; none where it does not run."""

    def __init__(self, path: Path, running: Callable[[], bool]) -> None:
        self._path = str(path)
        self._running = running

    def describe(self) -> Iterable[Metric]:
        """Nothing is known in advance (and registering must not ask the model server)."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """prometheus_client asks; see `LIMIT_SECONDS`."""
        if not self._running():
            return
        try:
            page = self._read()
        except OSError:
            return
        ours = "\n".join(line for line in page.splitlines() if line.startswith(_OURS))
        yield from text_string_to_metric_families(ours)

    def _read(self) -> str:
        """The page; raises OSError."""
        end = time.monotonic() + LIMIT_SECONDS
        parts = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(LIMIT_SECONDS)
            connection.connect(self._path)
            connection.sendall(_REQUEST)
            while part := connection.recv(1 << 20):
                parts.append(part)
                connection.settimeout(max(1e-3, end - time.monotonic()))
        return b"".join(parts).decode("utf-8", "replace")

"""The load: wrk for HTTP/1.1, h2load for gRPC, each one process with one thread on the last core. Called by
`__main__.py` and `soak.py`.

Both send the next request of a connection (of a stream) when the answer to the last one is there. wrk counts answers
by status. h2load knows nothing of gRPC: it posts a framed message and sees HTTP 200 even where the trailers say that
the call failed; but a failed call has no message, so that the bytes of data that arrived tell how many were answered.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .servers import Endpoint, pinned

_LUA = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Shape:
    """So many connections, and so many requests in flight on each of them."""

    connections: int
    streams: int = 1

    @property
    def in_flight(self) -> int:
        """Requests in flight."""
        return self.connections * self.streams

    def __str__(self) -> str:
        return f"{self.connections}x{self.streams}"


def shape_for(endpoint: Endpoint, in_flight: int) -> Shape:
    """HTTP/1.1 has one request on a connection. gRPC clients multiplex: eight streams on a connection, as fits both
    the servers that gather what one connection brings and those that give each connection a thread.
    """
    if not endpoint.api.is_grpc:
        return Shape(in_flight)
    return Shape(max(1, in_flight // 8), min(8, in_flight))


@dataclass(frozen=True)
class Run:
    """What one run saw. `generator` is the share of its core that the load generator itself used: near 1 the rate is
    the generator's, not the server's.
    """

    rate: float
    p50_us: float
    p99_us: float
    requests: int
    failed: int = 0
    error: str = ""
    generator: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)


def run(endpoint: Endpoint, body: bytes, answer: bytes, shape: Shape, seconds: int) -> Run:
    """Load an endpoint for whole seconds; `answer` is a right answer's body (of gRPC's the length counts)."""
    with tempfile.NamedTemporaryFile(prefix="bench-body-") as file:
        framed = b"\0" + len(body).to_bytes(4, "big") + body if endpoint.api.is_grpc else body
        file.write(framed)
        file.flush()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if endpoint.api.is_grpc:
            seen = _h2load(endpoint, file.name, len(answer) + 5, shape, seconds)
        else:
            seen = _wrk(endpoint, file.name, shape, seconds)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(**{**seen.as_dict(), "generator": round(used / seconds, 3)})


def _wrk(endpoint: Endpoint, body_file: str, shape: Shape, seconds: int) -> Run:
    headers = {"Content-Type": endpoint.api.content_type, **endpoint.headers}
    environment = {
        **os.environ,
        "BENCH_BODY": body_file,
        "BENCH_HEADERS": "\n".join(f"{name}: {value}" for name, value in headers.items()),
    }
    command = ["wrk", "-t1", f"-c{shape.connections}", f"-d{seconds}s", "--timeout", "120s", "-s", str(_LUA)]
    said = _output([*command, endpoint.url], environment)
    told = json.loads(said[said.index("{") :].splitlines()[0])
    errors = {kind: count for kind, count in told["errors"].items() if count}
    return Run(
        rate=(told["requests"] - told["errors"]["status"]) / (told["duration_us"] / 1e6),
        p50_us=told["p50_us"],
        p99_us=told["p99_us"],
        requests=told["requests"],
        failed=sum(errors.values()),
        error=", ".join(f"{count} {kind} errors" for kind, count in errors.items()),
    )


def _h2load(endpoint: Endpoint, body_file: str, answer_bytes: int, shape: Shape, seconds: int) -> Run:
    with tempfile.NamedTemporaryFile(prefix="bench-h2load-") as log:
        headers = {"content-type": "application/grpc", "te": "trailers", **endpoint.headers}
        said = _output(
            [
                "h2load", "-t1", f"-c{shape.connections}", f"-m{shape.streams}", f"-D{seconds}", f"-d{body_file}",
                f"--log-file={log.name}",
                *(f"-H{name}: {value}" for name, value in headers.items()),
                endpoint.url,
            ],
            dict(os.environ),
        )  # fmt: skip
        # One line for each answer: its start, the HTTP status, microseconds.
        lines = [line.split() for line in Path(log.name).read_text().splitlines()]
    spans = sorted(int(took) for _, status, took in lines if status == "200")
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    data = re.search(r"\((\d+)\) data", said)
    if counts is None or data is None or not spans:
        return Run(0.0, float("nan"), float("nan"), 0, 1, said[-300:])
    succeeded, failed, _, _ = (int(count) for count in counts.groups())
    # A few answers may be under way when h2load stops: so many missing messages are no failures.
    missing = round(succeeded - int(data[1]) / answer_bytes)
    refused = missing if missing > shape.in_flight else 0
    return Run(
        rate=(succeeded - refused) / seconds,
        p50_us=float(spans[len(spans) // 2]),
        p99_us=float(spans[len(spans) * 99 // 100]),
        requests=succeeded,
        failed=failed + refused,
        error=f"{failed} failed, {refused} without a message (gRPC status)" if failed or refused else "",
    )


def _output(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(pinned(command, -1), capture_output=True, text=True, env=environment, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-500:] or done.stdout[-500:]}")
    return done.stdout

"""An open-loop load generator: sends requests when they are due, however slow the answers are, and counts each latency
from when its request was due. (wrk sends when the last answer is there: a server that stalls is asked less.) Started
by `soak.py` on the last core:

    python -m benchmarks.paced URL BODY_FILE REQUESTS_A_SECOND SECONDS CONNECTIONS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop


class Pace:
    """The schedule, the free connections, and what came back."""

    def __init__(self, rate: float, seconds: float) -> None:
        self.rate, self.seconds = rate, seconds
        self.free: deque[Connection] = deque()
        self.spans: list[float] = []
        self.failed = 0
        self.answer_size = 0  # learnt from the first answer: all are alike
        self.late = 0  # sent more than a millisecond after they were due, though a connection was free

    async def run(self) -> None:
        """Spins: a timer would come a millisecond late."""
        sent, start = 0, time.perf_counter()
        looked = start
        while (now := time.perf_counter()) < start + self.seconds:
            due = int((now - start) * self.rate)
            self.late += max(0, due - sent) if now - looked > 0.001 and self.free else 0
            looked = now
            while sent < due and self.free:
                self.free.popleft().send(start + sent / self.rate)
                sent += 1
            await asyncio.sleep(0)


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, pace: Pace, request: bytes) -> None:
        self._pace, self._request = pace, request
        self._got = 0
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def send(self, due: float) -> None:
        self._due = due
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        pace = self._pace
        if not self._got:
            self._head = data[:12]
        self._got += len(data)
        if not pace.answer_size:
            head, _, _ = data.partition(b"\r\n\r\n")
            at = head.lower().index(b"content-length:") + 15
            pace.answer_size = len(head) + 4 + int(head[at:].split(b"\r\n")[0])
        if self._got < pace.answer_size:
            return
        self._got = 0
        pace.spans.append(time.perf_counter() - self._due)
        pace.failed += self._head != b"HTTP/1.1 200"
        pace.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pace.failed += exc is not None


async def main(url: str, body_file: str, rate: float, seconds: float, connections: int) -> None:
    where, body = urlsplit(url), Path(body_file).read_bytes()
    head = (
        f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    pace = Pace(rate, seconds)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        _, protocol = await loop.create_connection(
            lambda: Connection(pace, head.encode() + body), where.hostname, where.port
        )
        protocol.send(time.perf_counter())
    while len(pace.free) < connections:
        await asyncio.sleep(0.01)
    pace.spans.clear()
    await pace.run()
    spans = sorted(pace.spans)
    told = {
        "rate": len(spans) / seconds,
        "p50_us": 1e6 * spans[len(spans) // 2],
        "p99_us": 1e6 * spans[len(spans) * 99 // 100],
        "worst_us": 1e6 * spans[-1],
        "failed": pace.failed,
        "late": pace.late,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])))

"""The load generator: sends one request again and again on some connections and prints, as JSON, what came back.

    python load.py rest HOST:PORT CONNECTIONS SECONDS BODY_FILE PATH
    python load.py grpc HOST:PORT IN_FLIGHT SECONDS BODY_FILE METHOD

A process of its own, so that it can be bound to a core of its own. Whatever it cannot send no server can answer:
`serving.py` measures its ceiling too, on a server that does nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from pathlib import Path

#: Requests sent before counting begins, as a part of the time.
WARM_UP = 0.25


class Tally:
    """Latencies of what was answered while counting, and failures."""

    def __init__(self, seconds: float) -> None:
        self.start = time.perf_counter() + WARM_UP * seconds
        self.end = self.start + seconds
        self.latencies: list[float] = []
        self.failed = 0
        self.error = ""

    def add(self, sent: float, error: str = "") -> bool:
        """Count one answer to a request sent at `sent`; returns whether to go on."""
        now = time.perf_counter()
        if now >= self.start and now < self.end:
            if error:
                self.failed += 1
                self.error = error
            else:
                self.latencies.append(now - sent)
        return now < self.end

    def as_json(self) -> str:
        ordered = sorted(self.latencies) or [float("nan")]
        return json.dumps(
            {
                "rate": len(self.latencies) / (self.end - self.start),
                "p50_us": 1e6 * ordered[len(ordered) // 2],
                "p99_us": 1e6 * ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
                "failed": self.failed,
                "error": self.error,
            }
        )


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection: a request, its answer, the next request. Answers must have a Content-Length."""

    def __init__(self, request: bytes, tally: Tally, done: asyncio.Event) -> None:
        self.request, self.tally, self.done = request, tally, done
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().index(b"content-length:") + 15
        if len(body) < int(head[at:].partition(b"\r\n")[0]):
            return
        self.buffer = b""
        error = "" if head.startswith(b"HTTP/1.1 200") else (head.partition(b"\r\n")[0] + b" " + body[:200]).decode()
        if self.tally.add(self.sent, error):
            self.send()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self.tally.end:
            self.tally.failed += 1
            self.tally.error = f"the server closed the connection: {exc}"
        self.done.set()


async def rest(address: str, connections: int, tally: Tally, body: bytes, path: str) -> None:
    host, _, port = address.rpartition(":")
    headers = f"Host: {address}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    head = f"POST {path} HTTP/1.1\r\n{headers}\r\n\r\n"
    loop = asyncio.get_running_loop()
    done = [asyncio.Event() for _ in range(connections)]
    for event in done:
        await loop.create_connection(
            lambda event=event: Connection(head.encode() + body, tally, event), host, int(port)
        )
    for event in done:
        await event.wait()


def grpc(address: str, in_flight: int, tally: Tally, body: bytes, method: str) -> None:
    """gRPC's C core, with the messages as bytes: neither request nor answer is parsed here."""
    import grpc

    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options) as channel:
        call = channel.unary_unary(method)
        if in_flight == 1:
            more = True
            while more:
                sent, error = time.perf_counter(), ""
                try:
                    call(body, timeout=30)
                except grpc.RpcError as refused:
                    error = str(refused.details())
                more = tally.add(sent, error)
            return
        running = threading.Semaphore(in_flight)

        def answered(future: grpc.Future, sent: float) -> None:
            error = future.exception()
            tally.add(sent, "" if error is None else str(error))
            running.release()

        while time.perf_counter() < tally.end:
            running.acquire()
            sent = time.perf_counter()
            call.future(body, timeout=30).add_done_callback(lambda future, sent=sent: answered(future, sent))
        for _ in range(in_flight):
            running.acquire()


def main(protocol: str, address: str, in_flight: str, seconds: str, body_file: str, target: str) -> None:
    body, tally = Path(body_file).read_bytes(), Tally(float(seconds))
    if protocol == "rest":
        import uvloop

        uvloop.install()
        asyncio.run(rest(address, int(in_flight), tally, body, target))
    else:
        grpc(address, int(in_flight), tally, body, target)
    print(tally.as_json())


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Load at 70 % of the peak while versions switch: no request is lost or refused, and nothing grows.

``FAULT_SOAK_SECONDS=3600 make faults`` is an hour with a switch every 10 s; the suite has the short form.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import tensorflow as tf
import uvloop
from helpers import PATIENCE, StoreServer, publish
from load import Outcome
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from benchmarks.paced import Connection, Pace

from .conftest import Figures

SECONDS = float(os.environ.get("FAULT_SOAK_SECONDS", "20"))

#: Seconds from one switch to the next.
SWITCH = 10.0 if SECONDS > 60 else 3.0

SHARE = 0.7
CONNECTIONS = 32

MIB = 2**20


class Checked(Connection):
    """One request at a time, whose answer must be that of a version which is, or just was, the newest."""

    def __init__(self, pace: Checking, request: bytes) -> None:
        super().__init__(pace, request)
        self._checking = pace
        self._answer = b""

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, _, body = self._answer.partition(b"\r\n\r\n")
        if not body or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        self._checking.answered(head, body, time.perf_counter() - self._due)
        self._answer = b""
        self._checking.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._checking.lost[f"connection lost: {exc}"] += not self._checking.over


class Checking(Pace):
    """An open loop that checks what it gets."""

    def __init__(self, rate: float, seconds: float, is_right: Callable[[float], bool]) -> None:
        super().__init__(rate, seconds)
        self._is_right = is_right
        self._known: dict[bytes, float] = {}
        self.count = 0
        self.over = False
        self.lost: Counter[str] = Counter()
        self.gap = 0.0  #: the longest time without an answer
        self._last = 0.0

    def answered(self, head: bytes, body: bytes, took: float) -> None:
        now = time.perf_counter()
        self.gap, self._last = max(self.gap, now - (self._last or now)), now
        value = self._known.get(body)
        if value is None and head.startswith(b"HTTP/1.1 200"):
            value = self._known[body] = float(body.partition(b"[")[2].partition(b"]")[0])
        if value is None or not self._is_right(value):
            self.lost[f"{head[:12]!r} {body[:100]!r}"] += 1
            return
        self.count += 1
        if not self.count % 50:
            self.spans.append(took)


class Soaked(Outcome):
    """What the open loop saw."""

    longest = 0.0

    def gap(self) -> float:
        return self.longest


class Switching:
    """A model whose newest version changes, and what may be answered meanwhile."""

    def __init__(self, server: StoreServer, models: Path) -> None:
        self._server = server
        self._models = models
        self.number = 0
        self._right: tuple[float, ...] = ()

    def is_right(self, value: float) -> bool:
        return value in self._right

    def switch(self) -> None:
        """One more version; what was answered before is right until it has taken over."""
        self.number += 1
        offset = self.number % 3 + 1
        self._right = (*self._right[-1:], 1.0 + offset)
        base = self._server.store / "switching"
        publish(self._models / "affine" / str(offset), base, self.number)
        with self._server.client() as client:
            if self.number == 1:
                client.register("switching", {})
            found = client.model("switching", wait=self.number, timeout=PATIENCE)["versions"]
        assert {v["version"]: v["state"] for v in found}[self.number] == "AVAILABLE", found
        if self.number > 3:
            shutil.rmtree(base / str(self.number - 3))


@contextmanager
def asking_by_grpc(port: int, is_right: Callable[[float], bool], lost: Counter[str]) -> Iterator[None]:
    """A stock client beside the load, a hundred times a second."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "switching"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0], tf.float32))
    end = threading.Event()

    def ask() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not end.wait(0.01):
                try:
                    [value] = stub.Predict(request, timeout=PATIENCE).outputs["y"].float_val
                    lost[f"gRPC: {value}"] += not is_right(value)
                except grpc.RpcError as error:
                    lost[f"gRPC: {error.code()} {error.details()}"] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(PATIENCE)


async def load(port: int, pace: Checking) -> None:
    """Ask at that pace until its time is over."""
    body = b'{"instances": [1.0]}'
    request = b"POST /v1/models/switching:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    made = []
    for _ in range(CONNECTIONS):
        transport, connection = await asyncio.get_running_loop().create_connection(
            lambda: Checked(pace, request), "127.0.0.1", port
        )
        pace.free.append(connection)
        made.append(transport)
    await pace.run()
    while len(pace.free) < CONNECTIONS and not pace.lost:
        await asyncio.sleep(0.01)
    pace.over = True
    for transport in made:
        transport.close()


def test_versions_switch_at_70_percent_of_the_peak(figures: Figures, models: Path, tmp_path: Path) -> None:
    server = StoreServer(tmp_path, "--auto_batching")
    try:
        server.wait_until_ready()
        model = Switching(server, models)
        model.switch()
        peak = Checking(1e6, 2.0, model.is_right)
        uvloop.run(load(server.rest_port, peak))
        rate = SHARE * peak.count / peak.seconds
        process = psutil.Process(server.process.pid)

        pace = Checking(rate, SECONDS, model.is_right)

        async def soak() -> list[tuple[int, int]]:
            """Bytes and open files after each switch."""
            seen = []
            asking = asyncio.create_task(load(server.rest_port, pace))
            while not asking.done():
                await asyncio.wait([asking], timeout=SWITCH)
                if not asking.done():
                    await asyncio.to_thread(model.switch)
                    seen.append((process.memory_full_info().uss, process.num_fds()))
            await asking
            return seen

        with asking_by_grpc(server.grpc_port, model.is_right, pace.lost):
            seen = uvloop.run(soak())
    finally:
        server.close()
    outcome = Soaked(answered=pace.count, lost=+pace.lost)
    outcome.longest = pace.gap
    spans = sorted(pace.spans)
    p50, p99 = (1000 * spans[len(spans) * percent // 100] for percent in (50, 99))
    (before, _), (after, _) = seen[len(seen) // 2], seen[-1]
    figures.add(
        f"{len(seen)} switches of version in {SECONDS:,.0f} s, at {rate:,.0f} requests/s",
        outcome,
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms; memory {(after - before) / MIB:+.1f} MiB in the second half",
    )
    assert not outcome.lost, outcome.lost
    assert pace.count > 0.5 * rate * SECONDS  # on a machine that is busy elsewhere the pace is not kept
    assert after - before < 64 * MIB
    assert seen[-1][1] < seen[0][1] + 10, seen

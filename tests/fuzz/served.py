"""A model server under fuzzing, a real process: its clients, and how its health is told from outside."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable
from typing import Any

import grpc
import psutil
from helpers import PATIENCE, Tfserve, converse, wait_for
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

#: The models that it serves: see `make_models.py`.
MODELS = ("echo", "affine", "several", "examples")

#: Seconds of each of the six tests that send generated requests. 0: the short form, the same requests each time.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0")) / 6

#: What memory may grow by once the server is warm: allocators keep some of what was freed, metrics up to 1000 names.
GROWTH = 64 * 2**20

#: So that thread pools that grow on demand may; they all end far below.
THREADS = 32


class Served:
    """A `tfserve` process, and a client of each kind."""

    def __init__(self, process: Tfserve) -> None:
        self.process = process
        self._channel = grpc.insecure_channel(f"127.0.0.1:{process.grpc_port}")
        self._http = http.client.HTTPConnection("127.0.0.1", process.rest_port, timeout=PATIENCE)

    def close(self) -> None:
        """Close the clients."""
        self._channel.close()
        self._http.close()

    def rest(
        self, verb: str, path: str, body: bytes | None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body, on a connection that is kept; each reply is checked for what all replies have."""
        try:
            self._http.request(verb, path, body, headers or {})
            reply = self._http.getresponse()
            content = reply.read()
        except OSError:
            self._http.close()  # so that what is tried next stands for itself
            raise
        assert reply.status < 500 or reply.status in (501, 503, 504), (reply.status, content[:500], verb, path, body)
        return reply.status, content

    def rpc(self, method: str, payload: bytes) -> tuple[grpc.StatusCode, str, bytes]:
        """Code, details and reply of a gRPC method, as bytes."""
        call: Any = self._channel.unary_unary(f"/tensorflow.serving.{method}")
        try:
            return grpc.StatusCode.OK, "", call(payload, timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code(), error.details() or "", b""

    def converse(self, data: bytes) -> bytes:
        """What is answered to raw bytes until the server closes."""
        return converse(self.process.rest_port, data)

    def in_flight(self) -> int:
        """Requests that run in a model."""
        page = self.process.call("GET", "/monitoring/prometheus/metrics").body.decode()
        return sum(int(line.split()[-1]) for line in page.splitlines() if line.startswith("jupyter_tfserve_in_flight{"))

    def drive(self, strategy: SearchStrategy[Any], check: Callable[[Any], None], short: int) -> int:
        """Generated values for `check`: `short` of them, or as many as there is time for; before that some that warm
        the server, as from then on it must not grow. Returns how many they were.
        """
        count = 0

        def round_of(number: int, examples: int) -> None:
            @seed(number)
            @settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck))
            @given(strategy)
            def run(value: Any) -> None:
                nonlocal count
                count += 1
                check(value)

            run()

        self._http.close()  # the server has closed one that was idle for long; http.client opens another by itself
        end = time.monotonic() + SECONDS
        round_of(0, 1000 if SECONDS else max(5, short // 4))
        process = psutil.Process(self.process.process.pid)
        wait_for("no request in flight", lambda: not self.in_flight())
        self._http.request("GET", "/healthz")  # so that the one that is kept is open, as it is at the end
        self._http.getresponse().read()
        before, fds, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
        number = 1
        while True:
            round_of(number, 1000 if SECONDS else short)
            number += 1
            if time.monotonic() >= end:
                break
        wait_for("no request in flight", lambda: not self.in_flight())
        wait_for("files and sockets closed", lambda: process.num_fds() <= fds)
        grown = process.memory_info().rss - before
        print(f"{count} examples, {grown / 2**20:+.1f} MiB, {process.num_threads() - threads:+d} threads")
        assert grown < GROWTH
        assert process.num_threads() <= threads + THREADS
        assert self.process.call("GET", "/healthz").status == 200
        assert self.process.process.poll() is None
        said = self.process.said()
        assert "Traceback" not in said, said[-5000:]
        return count

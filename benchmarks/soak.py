"""What an interleaved run of seconds cannot show. After `make bench` has installed what it needs:

    .bench-venv/bin/python -m benchmarks.soak memory   # does memory stay flat over many requests?
    .bench-venv/bin/python -m benchmarks.soak tail     # p99 at 70 % of the peak, in an open loop
    .bench-venv/bin/python -m benchmarks.soak idle     # what 10,000 idle connections cost the others
    .bench-venv/bin/python -m benchmarks.soak jupyter  # Jupyter's event loop while a 100 MB body goes through

Each starts a server of ours, prints what it saw and whether that is what is promised.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from . import works
from .kernel_echo import EchoingKernel
from .line_up import TOKEN, Running, Settings, contenders
from .load import Shape, run, shape_for
from .servers import Endpoint, allow_open_files, ask, pinned
from .works import Work


class Subject:
    """A server under soak, and one of its addresses for each protocol."""

    def __init__(self, running: Running, work: Work) -> None:
        self.running, self.work, self.server = running, work, running.server
        self.endpoints = {target.api: endpoint for target, endpoint in running.endpoints(work.name)}
        self.bodies = {name: endpoint.api.encode(work) for name, endpoint in self.endpoints.items()}
        rest = self.endpoints["rest"]
        self.server.wait_for(rest, self.bodies["rest"], work)

    def load(self, api: str, shape: Shape, seconds: int) -> tuple[float, int, int]:
        """Rate, requests and failures of a run."""
        endpoint, body = self.endpoints[api], self.bodies[api]
        answer, why = ask(endpoint, body, self.work)
        if why:
            raise SystemExit(f"{endpoint.url}: {why}")
        seen = run(endpoint, body, answer, shape, seconds)
        if seen.failed:
            print(f"{seen.failed} requests failed: {seen.error}")
        return seen.rate, seen.requests, seen.failed


@contextlib.contextmanager
def subject(key: str, work: str, bound: bool = True) -> Iterator[Subject]:
    """The first contender of that key, serving one work; ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        folder = Path(scratch)
        made = works.make(folder / "models", (work,))[work]
        contender = next(one for one in contenders() if one.key == key)
        running = Running(contender, (work,), folder / "models", folder / "server", Settings(), bound)
        try:
            yield Subject(running, made)
        finally:
            running.server.stop()


def verdict(kept: bool, words: str) -> None:
    print(f"{'pass' if kept else 'MISS'}: {words}", flush=True)


def memory(options: argparse.Namespace) -> None:
    """REST and gRPC in turns until all are answered; memory after each turn."""
    with subject(options.server, "half_plus_two") as one:
        apis = [name for name in ("rest", "grpc") if name in one.endpoints]
        # What is set aside once, for a connection, a thread, a batch size, is no growth: the first tenth is left out.
        done = failed = turn = 0
        after: list[tuple[int, float]] = []
        while done < options.requests:
            api = apis[turn % len(apis)]
            turn += 1
            rate, requests, missed = one.load(api, shape_for(one.endpoints[api], 32), options.seconds)
            done, failed = done + requests, failed + missed
            after.append((done, one.server.memory_mb()[1]))
            print(f"{done:>12,} requests: {after[-1][1]:7.1f} MB ({api}, {rate:,.0f}/s)", flush=True)
        first = next(mb for count, mb in after if count >= options.requests / 10)
        last = after[-1][1]
        grown = 2**20 * (last - first) / done
        print(f"from {first:.1f} to {last:.1f} MB: {grown:+.2f} bytes a request")
        verdict(last < first * 1.02 + 2, f"memory is flat (2 %) over {done:,} requests")
        verdict(not failed, f"{failed:,} of them failed")


def tail(options: argparse.Namespace) -> None:
    """wrk finds the peak; then as much as `--share` of it, in an open loop."""
    with subject(options.server, options.work) as one, tempfile.NamedTemporaryFile(prefix="soak-body-") as body:
        body.write(one.bodies["rest"])
        body.flush()
        one.load("rest", Shape(32), 2)
        peak = statistics.median(one.load("rest", Shape(32), options.seconds)[0] for _ in range(3))
        wanted = options.share * peak
        command = [
            sys.executable, "-m", "benchmarks.paced", one.endpoints["rest"].url, body.name,
            str(wanted), str(options.seconds * 3), "128",
        ]  # fmt: skip
        done = subprocess.run(pinned(command, -1), check=True, stdout=subprocess.PIPE, text=True)
        seen = json.loads(done.stdout)
        print(
            f"peak {peak:,.0f}/s at 32 connections; asked for {wanted:,.0f}/s, answered {seen['rate']:,.0f}/s: "
            f"p50 {seen['p50_us']:,.0f} us, p99 {seen['p99_us']:,.0f} us, worst {seen['worst_us']:,.0f} us, "
            f"{seen['failed']} failed"
        )
        kept = seen["rate"] >= 0.98 * wanted
        if not kept:
            print("the pace was not kept: the server was slower than at its peak, or the generator lacked its core")
        elif seen["late"] > 0.02 * wanted * options.seconds * 3:
            print(f"the generator was late itself ({seen['late']:,} requests): the latencies are upper bounds")
        ratio = seen["p99_us"] / seen["p50_us"]
        verdict(kept and ratio < 10, f"p99 is {ratio:.1f} times p50, under 10")


def idle(options: argparse.Namespace) -> None:
    """The rate with and without idle connections, in turns."""
    limit = allow_open_files(options.connections + 1000)
    count = min(options.connections, limit - 1000)
    if count < options.connections:
        print(f"the system allows {limit:,} open files: {count:,} connections it is (ulimit -Hn)")
    with subject(options.server, "half_plus_two") as one:
        one.load("rest", Shape(32), 2)
        alone, beside = [], []
        for _ in range(options.rounds):
            alone.append(one.load("rest", Shape(32), options.seconds)[0])
            sockets = open_idle(one.endpoints["rest"], count)
            mb = one.server.memory_mb()[1]
            beside.append(one.load("rest", Shape(32), options.seconds)[0])
            left = sum(still_open(each) for each in sockets)
            beside_them = f"beside {left:,} idle ones {beside[-1]:,.0f}/s"
            print(f"alone {alone[-1]:,.0f}/s, {beside_them}, {mb:.0f} MB", flush=True)
            for each in sockets:
                each.close()
            if left < count:
                print(f"{count - left:,} of them were closed by the server meanwhile")
        ratio = statistics.median(beside) / statistics.median(alone)
        verdict(ratio >= 0.9, f"{count:,} idle connections leave {100 * ratio:.0f} % of the rate, at least 90")


def open_idle(endpoint: Endpoint, count: int) -> list[socket.socket]:
    """Connections that were answered once (a GET: whatever status) and are kept."""
    where = urlsplit(endpoint.url)
    request = f"GET {where.path.partition(':')[0]} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode()
    sockets = []
    for _ in range(count):
        one = socket.create_connection((where.hostname or "", where.port or 0), timeout=30)
        one.sendall(request)
        if not one.recv(65536).startswith(b"HTTP/1.1 "):
            raise SystemExit(f"connection {len(sockets):,} was not answered")
        sockets.append(one)
    return sockets


def still_open(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return one.recv(65536, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def jupyter(options: argparse.Namespace) -> None:
    """How late Jupyter's event loop is while large bodies go through and a kernel echoes. Not bound to a core: whom the
    system lets run is another question.
    """
    with subject("jupyter", "image", bound=False) as one:
        endpoint = one.endpoints["rest"]
        kernel = EchoingKernel(f"http://{urlsplit(endpoint.url).netloc}", TOKEN)
        row = json.dumps(one.work.x[0].tolist())
        rows = max(1, int(options.megabytes * 1e6) // (len(row) + 2))
        body = ('{"instances": [' + ", ".join([row] * rows) + "]}").encode()
        quiet, quiet_echoes = lateness(endpoint, kernel, lambda: time.sleep(3))
        answers: list[bytes] = []
        began = time.perf_counter()

        def post() -> None:
            for _ in range(options.rounds):
                answers.append(jupyter_call(endpoint, "POST", urlsplit(endpoint.url).path, body))

        busy, busy_echoes = lateness(endpoint, kernel, post)
        took = (time.perf_counter() - began) / options.rounds
        for answer in answers:
            got = np.array(json.loads(answer)["predictions"], np.float32)
            if got.shape != (rows, one.work.y.shape[1]) or not np.allclose(got, one.work.y, rtol=1e-3, atol=1e-4):
                raise SystemExit(f"a wrong answer: {answer[:300]!r}")
        for name, times in (
            ("idle: the loop was late by", quiet),
            ("with bodies: the loop was late by", busy),
            ("idle: a kernel's echo took", quiet_echoes),
            ("with bodies: a kernel's echo took", busy_echoes),
        ):
            print(
                f"{name} {np.median(times):.2f} ms (median), {np.percentile(times, 99):.2f} (p99), "
                f"{max(times):.2f} (worst of {len(times):,})"
            )
        print(f"{options.rounds} bodies of {len(body) / 1e6:.0f} MB, {took:.1f} s each, answered rightly")
        verdict(max(busy) <= 20, f"the loop was never away for longer than {max(busy):.1f} ms, at most 20")
        kernel.close()


def lateness(endpoint: Endpoint, kernel: EchoingKernel, work: Callable[[], None]) -> tuple[list[float], list[float]]:
    """Milliseconds that each tick of Jupyter's event loop came late while work was done, and that each echo took."""
    jupyter_call(endpoint, "GET", "/bench/lag")
    echoes = kernel.during(work)
    gaps: list[float] = json.loads(jupyter_call(endpoint, "POST", "/bench/lag"))
    return gaps, [1000 * seconds for seconds in echoes]


def jupyter_call(endpoint: Endpoint, method: str, path: str, body: bytes = b"") -> bytes:
    where = urlsplit(endpoint.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=300)
    headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    if response.status != 200:
        raise SystemExit(f"{method} {path}: {response.status} {answer[:300]!r}")
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", default="ours", help="whose: ours (the default), bare, fastapi, mosec, ...")
    commands = parser.add_subparsers(required=True)

    def command(name: str, function: object) -> argparse.ArgumentParser:
        made = commands.add_parser(name)
        made.set_defaults(function=function)
        return made

    one = command("memory", memory)
    one.add_argument("--requests", type=int, default=500_000, help="default: 500,000; the acceptance is 10,000,000")
    one.add_argument("--seconds", type=int, default=5, help="of each turn")
    one = command("tail", tail)
    one.add_argument("--work", default="half_plus_two", choices=works.NAMES)
    one.add_argument("--share", type=float, default=0.7, help="of the peak")
    one.add_argument(
        "--seconds", type=int, default=5, help="of each look for the peak; the pace is kept three times that"
    )
    one = command("idle", idle)
    one.add_argument("--connections", type=int, default=10_000)
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--seconds", type=int, default=5)
    one = command("jupyter", jupyter)
    one.add_argument("--megabytes", type=float, default=100)
    one.add_argument("--rounds", type=int, default=3, help="bodies, one after the other")
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()

"""Server processes under test: bound to the first core, started until they answer rightly, watched, ended. Called by
`__main__.py` and `soak.py`; which servers there are stands in `line_up.py`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from .works import Api, Work, is_right

ROOT = Path(__file__).parent.parent
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

#: Seconds that a server gets to start, and to end.
START_LIMIT, STOP_LIMIT = 180.0, 20.0

#: Seconds that it may answer wrongly, other than by "not found" and "unavailable": many listen before they have loaded.
WRONG_LIMIT = 30.0

_LOADING = ("status 404", "status 503", "NOT_FOUND", "UNIMPLEMENTED")


@dataclass(frozen=True)
class Endpoint:
    """Where and how one work is asked for."""

    target: str  # as it is named in the results
    api: Api
    url: str
    headers: dict[str, str] = field(default_factory=dict)


class NotStarted(Exception):
    """A server did not come up, or does not answer rightly; the message says why."""


def pinned(command: list[str], core: int) -> list[str]:
    """The command, bound to one of our cores, where that is possible."""
    if len(CORES) < 2 or shutil.which("taskset") is None:
        return command
    return ["taskset", "-c", str(CORES[core]), *command]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def allow_open_files(count: int) -> int:
    """Raise the limit on open files, for us and whom we start, as far as it goes; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return max(soft, wanted)


class Server:
    """A running server. Its tree is the process and all that it started."""

    def __init__(
        self, command: list[str], environment: dict[str, str], log: Path, bound: bool = True, talks: bool = False
    ) -> None:
        """`bound`: to the first core; `talks`: it answers on its standard output."""
        self.log = log
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        # Without bytecode a start would compile TensorFlow's modules each time.
        base = {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), "no_proxy": "*"}
        self.began = time.perf_counter()
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                pinned(command, 0) if bound else command,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else file,
                stderr=file,
                env={**base, **environment},
                cwd=ROOT,
                start_new_session=True,
            )
        self._tree = psutil.Process(self.process.pid)
        self._left: list[psutil.Process] | None = None  # of a tree that is to end

    def wait_for(self, endpoint: Endpoint, body: bytes, work: Work) -> float:
        """Ask until the answer is right; returns the seconds since the start."""
        why, answered = "", 0.0
        while time.perf_counter() - self.began < START_LIMIT and (
            not answered or time.perf_counter() - answered < WRONG_LIMIT
        ):
            if self.process.poll() is not None:
                raise NotStarted(f"it ended with status {self.process.returncode}: {self.said()}")
            try:
                why = ask(endpoint, body, work)[1]
                if not any(status in why for status in _LOADING):
                    answered = answered or time.perf_counter()
            except OSError as error:
                why = str(error)
            if not why:
                return time.perf_counter() - self.began
            time.sleep(0.02)
        raise NotStarted(f"no right answer ({why}): {self.said()}")

    def said(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-1500:]

    def cpu_seconds(self) -> float:
        """Of the whole tree, since it began."""
        total = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory_mb(self) -> tuple[float, float]:
        """Of the whole tree: its anonymous memory, what a fork shares counted once, and with it the mapped files of its
        largest process. PSS would not do: it divides TensorFlow's library by the number of servers that happen to run.
        """
        anonymous, files = 0.0, 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.Error, OSError):
                kept, mapped = _memory(process)
                anonymous += kept
                files = max(files, mapped)
        return anonymous / 2**20, (anonymous + files) / 2**20

    def wait_until_idle(self, limit: float = 10.0) -> None:
        """A load generator that stops leaves requests behind: the next server must not wait for their core."""
        end = time.perf_counter() + limit
        while time.perf_counter() < end:
            before = self.cpu_seconds()
            time.sleep(0.06)
            if self.cpu_seconds() - before <= 0.011:  # the clock's grain
                return

    def _processes(self) -> Iterator[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            yield self._tree
            yield from self._tree.children(recursive=True)

    def terminate(self) -> None:
        """Ask it to end; `stop` waits for that."""
        self._left = list(self._processes())
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End the tree."""
        if self._left is None:
            self.terminate()
        _, alive = psutil.wait_procs(self._left or [], STOP_LIMIT)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=5)


def _memory(process: psutil.Process) -> tuple[float, float]:
    """Bytes of anonymous and of mapped memory."""
    if not sys.platform.startswith("linux"):
        return float(process.memory_info().rss), 0.0
    told = {}
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split()[:2]
        told[key.rstrip(":")] = 1024.0 * int(value)
    return told["Pss_Anon"], told["Rss"] - told["Anonymous"]


def ask(endpoint: Endpoint, body: bytes, work: Work) -> tuple[bytes, str]:
    """One request; the answer's body, and what is wrong with it ("" if nothing). OSError where nobody answers."""
    status, answer = _call_grpc(endpoint, body) if endpoint.api.is_grpc else _post(endpoint, body)
    if status:
        return answer, status
    try:
        decoded = endpoint.api.decode(answer, work)
    except Exception as error:  # whatever a peer sends
        return answer, f"an answer that cannot be read ({type(error).__name__}: {error}): {answer[:200]!r}"
    return answer, "" if is_right(decoded, work) else f"a wrong answer: {decoded.ravel()[:4]}, not {work.y.ravel()[:4]}"


def _post(endpoint: Endpoint, body: bytes) -> tuple[str, bytes]:
    where = urlsplit(endpoint.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    try:
        connection.request("POST", where.path, body, {"Content-Type": endpoint.api.content_type, **endpoint.headers})
        response = connection.getresponse()
        answer = response.read()
    except (http.client.HTTPException, ConnectionResetError) as error:
        return f"no answer ({type(error).__name__}: {error})", b""
    finally:
        connection.close()
    return ("" if response.status == 200 else f"status {response.status}: {answer[:200]!r}"), answer


def _call_grpc(endpoint: Endpoint, body: bytes) -> tuple[str, bytes]:
    import grpc

    where = urlsplit(endpoint.url)
    options = [
        ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)
    ]  # fmt: skip
    with grpc.insecure_channel(where.netloc, options) as channel:
        call = channel.unary_unary(where.path)
        try:
            answer: bytes = call(body, timeout=60, metadata=list(endpoint.headers.items()))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise OSError(error.details()) from error
            return f"{error.code().name}: {error.details()}", b""
    return "", answer


class Watch:
    """What other processes take of the two cores meanwhile: it makes figures of this run mean less."""

    def __init__(self) -> None:
        self._cores = sorted({CORES[0], CORES[-1]}) if CORES else []
        self._began, self._busy = time.perf_counter(), self._busy_seconds()

    def others(self, own_seconds: float) -> float:
        """Their share since the beginning, when our own processes took so many CPU seconds."""
        if not self._cores:
            return 0.0
        busy = self._busy_seconds() - self._busy - own_seconds
        return max(0.0, busy / (len(self._cores) * (time.perf_counter() - self._began)))

    def _busy_seconds(self) -> float:
        if not Path("/proc/stat").exists():
            return 0.0
        total = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name in {f"cpu{core}" for core in self._cores}:
                user, nice, system, _, _, irq, softirq, steal = (int(tick) for tick in ticks[:8])
                total += user + nice + system + irq + softirq + steal
        return total / os.sysconf("SC_CLK_TCK")


def python(environment: str) -> str:
    """The interpreter of ".venv" (ours) or ".bench-venv" (the peers')."""
    return sys.executable if environment == ".bench-venv" else str(ROOT / environment / "bin" / "python")

"""``--instances N``: N `tfserve` processes on the same ports, for machines with more cores than one process fills.

`__main__.py` runs this instead of a server. The kernel spreads the connections over the processes that listen
(SO_REUSEPORT); this parent carries no request and never imports TensorFlow. It starts a process again that ends
unasked, hands on the signal to drain, and takes the processes with it however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence

from .flags import PORTS_TRIED, Flags, cpus

log = logging.getLogger("tfserve")

#: Seconds before a process that ended is started again: doubled each time, from the first of these to the second.
_PAUSE = (0.5, 30.0)

#: Seconds after which a process that ended counts as one that worked.
_STEADY = 60.0

#: Seconds beyond the drain's own that a process gets to end before it is killed.
_GRACE = 15.0


def run(flags: Flags, arguments: Sequence[str]) -> int:
    """The program; `arguments` is the command line that `flags` were read from. Returns the exit status."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr
    )
    with contextlib.ExitStack() as reserved:
        notices: list[str] = []
        try:
            ports = {
                name: _reserve(flags, what, port, reserved, notices)
                for name, what, port in (("port", "gRPC", flags.port), ("rest_api_port", "REST", flags.rest_api_port))
            }
        except OSError as error:
            sys.stderr.write(f"Failed to start server. Error: {error}\n")
            return 1
        return asyncio.run(_Instances(flags, [*arguments, *_more(flags, ports)], ports, notices).run())


def _more(flags: Flags, ports: dict[str, int]) -> Iterator[str]:
    """The flags of each process that differ from the parent's; the last of the same name counts."""
    yield from ("--instances=1", "--reuse_port", "--find_free_ports=false")
    yield from (f"--{name}={port}" for name, port in ports.items())
    if not flags.tensorflow_session_parallelism:
        share = max(1, cpus() // flags.instances)
        for name in ("tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism"):
            yield f"--{name}={getattr(flags, name) or share}"


def _reserve(flags: Flags, what: str, port: int, reserved: contextlib.ExitStack, notices: list[str]) -> int:
    """Make sure that nobody else listens on the port (SO_REUSEPORT alone would share it with another server of this
    user), and hold it from now on. Returns the port, with --find_free_ports maybe a later one. Raises OSError.
    """
    if not port:
        return 0
    family = socket.AF_INET6 if ":" in flags.host else socket.AF_INET
    failed: OSError | None = None
    for candidate in range(port, min(port + PORTS_TRIED if flags.find_free_ports else port, 65535) + 1):
        with socket.socket(family, socket.SOCK_STREAM) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                alone.bind((flags.host, candidate))
            except OSError as error:
                failed = error
                continue
        # Bound and never listening: no connection comes here, and nobody else can take the port before the processes
        # do. Where connections of an earlier server still time out, that is not to be had, and not needed.
        held = reserved.enter_context(socket.socket(family, socket.SOCK_STREAM))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with contextlib.suppress(OSError):
            held.bind((flags.host, candidate))
        if candidate != port:
            notices.append(f"Port {port} was taken: {what} answers on {candidate}.")
            log.warning(notices[-1])
        return candidate
    raise OSError(f"{what} cannot listen on {flags.host}:{port}: {failed}. Choose another port.")


class _Instances:
    """The processes of one run."""

    def __init__(self, flags: Flags, arguments: Sequence[str], ports: dict[str, int], notices: list[str]) -> None:
        self._flags = flags
        self._command = [sys.executable, "-m", "jupyter_tfserve.model_server", *arguments]
        self._ports = ports
        self._notices = notices
        self._stopping = asyncio.Event()
        self._clean = True

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        # Held by this process alone: it ends with us, and the processes end with it.
        self._owner, held = os.pipe()
        begun: list[asyncio.Future[bool]] = [loop.create_future() for _ in range(self._flags.instances)]
        tasks = [asyncio.create_task(self._keep(number, first)) for number, first in enumerate(begun, 1)]
        try:
            ready = await asyncio.gather(*begun)
            if self._stopping.is_set():
                await asyncio.gather(*tasks)
            elif not any(ready):
                sys.stderr.write("Failed to start server. Error: no instance could start; each has said why.\n")
                self._clean = False
                self._stopping.set()
            else:
                self._tell_ready()
                log.info("Ready: %d of %d instances", sum(ready), len(ready))
            await asyncio.gather(*tasks)
        finally:
            os.close(self._owner)
            os.close(held)
        return 0 if self._clean else 1

    async def _keep(self, number: int, begun: asyncio.Future[bool]) -> None:
        """One of the processes, and those that replace it; until the end. `begun` is told whether the first starts."""
        pause = _PAUSE[0]
        while not self._stopping.is_set():
            since = time.monotonic()
            status = await self._run_one(begun)
            if not begun.done():
                begun.set_result(False)
            if self._stopping.is_set():
                break
            pause = _PAUSE[0] if time.monotonic() - since > _STEADY else min(2 * pause, _PAUSE[1])
            log.error("Instance %d ended with status %d; it is started again in %g s", number, status, pause)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
        if not begun.done():
            begun.set_result(False)

    async def _run_one(self, begun: asyncio.Future[bool]) -> int:
        """Start a process and wait until it ends; sends it the signal to drain when it is time."""
        ready, told = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                f"--owner_fd={self._owner}",
                f"--ready_fd={told}",
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(self._owner, told),
            )
        finally:
            os.close(told)
        watching = asyncio.create_task(_wait_ready(ready, begun))
        stopping = asyncio.create_task(self._stopping.wait())
        ending = asyncio.create_task(process.wait())
        try:
            await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await asyncio.wait((ending,), timeout=self._flags.drain_timeout_seconds + _GRACE)
            if not ending.done():
                log.error("Process %d did not end in time and is killed", process.pid)
                self._clean = False
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            return await ending
        finally:
            stopping.cancel()
            watching.cancel()

    def _tell_ready(self) -> None:
        if self._flags.ready_fd >= 0:
            ready = {
                "grpc_port": self._ports["port"] or None,
                "rest_port": self._ports["rest_api_port"] or None,
                "notices": self._notices,
            }
            os.write(self._flags.ready_fd, (json.dumps(ready) + "\n").encode())
            os.close(self._flags.ready_fd)


async def _wait_ready(pipe: int, begun: asyncio.Future[bool]) -> None:
    """Wait for a process's word that it answers; its end says nothing."""
    reader = asyncio.StreamReader()
    with open(pipe, "rb", buffering=0) as file:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), file
        )
        try:
            if await reader.readline() and not begun.done():
                begun.set_result(True)
        finally:
            transport.close()

"""One model server process: started, asked for its heartbeat, drained, reaped. The `Supervisor` of a Jupyter Server or
a kernel owns one, and a front one for each of its workers; it works in threads of its own and needs no event loop.

The process is told of its owner's death by a pipe: the owner holds the write end, and whoever kills the owner closes
it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from .cgroup import OutOfMemoryKills, resident

#: Seconds from one heartbeat to the next.
HEARTBEAT_SECONDS = 3.0

#: Seconds beyond its drain's limit that a process gets to end before it is killed.
GRACE_SECONDS = 5.0

_HEARTBEAT = b"GET /api/heartbeat HTTP/1.1\r\nHost: tfserve\r\nConnection: close\r\n\r\n"


class ModelServerProcess:
    """One process, from its start to its end; another start needs another object. All methods may be called from any
    thread; those that wait say so.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        socket: Path,
        start_timeout: float = 120.0,
        hang_timeout: float = 30.0,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`command` starts a `tfserve` that has `socket` as its management socket; the flags for the pipes are added.

        `log` is begun anew, and the one before is kept beside it as ``.1``. `start_timeout` and `hang_timeout` are
        seconds: until the process says that it answers, and for which it may leave a heartbeat unanswered (0: it is
        not asked). `environment` replaces this process's.
        """
        self.command = tuple(command)
        self.log = log
        self.socket = socket
        self.start_timeout = start_timeout
        self.hang_timeout = hang_timeout
        self.cwd = cwd
        self.environment = environment
        self.pid: int | None = None  #: also when it has ended
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._kills: OutOfMemoryKills | None = None
        self._stopping = False
        self._killed = ""  # why we killed it
        self._reason = "did not start"
        self._out_of_memory = False
        self._ended = threading.Event()

    def start(self) -> dict[str, Any] | None:
        """Start the process and wait until it says that it answers: its ready line, which has "grpc_port", "rest_port"
        and "notices". None if it ended, or was stopped, or took too long and was killed: `how_it_ended` says so.

        Raises OSError where there can be no process at all: no such interpreter, no room for the log.
        """
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()  # left by one whose owner was killed: nobody may take it for this one's
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.log, self.log.with_name(self.log.name + ".1"))
        ready_read, ready_write = os.pipe()
        started: Future[None] = Future()
        threading.Thread(target=self._run, args=(started, ready_write), name="tfserve-process", daemon=True).start()
        try:
            started.result()
        except OSError:
            os.close(ready_read)
            self._ended.set()
            raise
        line = _read_line(ready_read, self.start_timeout)
        if not line:
            self.wait(1.0)  # its pipe ends a moment before it does
            self.kill(f"did not answer within {self.start_timeout:g} s of its start and was killed")
            self.wait()
            return None
        if self.hang_timeout > 0:
            threading.Thread(target=self._watch, name="tfserve-heartbeat", daemon=True).start()
        ready: dict[str, Any] = json.loads(line)
        return ready

    @property
    def is_alive(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and not self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the process has ended and nothing of it is left; whether that is so after `timeout` seconds."""
        return self._ended.wait(timeout)

    def stop(self, drain_seconds: float) -> None:
        """Let it answer what is in flight and end; waits until it is gone. One that takes longer than `drain_seconds`
        and a little is killed. May be called before and during `start`, which then returns None.
        """
        with self._lock:
            self._stopping = True
            if self._process is None:
                return
            # One that somebody stopped would never see the signal to end.
            self._send(signal.SIGTERM, signal.SIGCONT)
        if not self.wait(drain_seconds + GRACE_SECONDS):
            self.kill(f"did not end within {drain_seconds:g} s of being asked to, and was killed")
            self.wait()

    def kill(self, why: str = "was killed") -> None:
        """End it at once, with all that it started; `why` is what `how_it_ended` says. Does not wait."""
        with self._lock:
            if self.is_alive and not self._killed:
                self._killed = why
                self._send(signal.SIGKILL)

    def how_it_ended(self) -> str:
        """In plain words, to stand behind "The model server": "ended with status 1"."""
        return self._reason

    @property
    def was_out_of_memory(self) -> bool:
        """Whether the kernel killed it for want of memory."""
        return self._out_of_memory

    def log_tail(self, lines: int = 200) -> str:
        """The end of its log."""
        return log_tail(self.log, lines)

    def memory(self) -> int | None:
        """Bytes that it has in memory now; None if that is not known."""
        found = resident(self.pid) if self.pid is not None else 0
        return found if found and self.is_alive else None

    def _send(self, *numbers: int) -> None:
        """With the lock held. Its number cannot be another process's: only `_run` frees it, and says so first."""
        if self.is_alive and self._process is not None:
            for number in numbers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, number)

    def _popen(self, owner_pipe: int, ready_pipe: int) -> subprocess.Popen[bytes]:
        with open(os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), "ab") as log:
            return subprocess.Popen(
                [*self.command, f"--owner_fd={owner_pipe}", f"--ready_fd={ready_pipe}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.cwd,
                env=self.environment,
                pass_fds=(owner_pipe, ready_pipe),
                start_new_session=True,  # an interrupt of the kernel or the terminal is not meant for it
            )

    # Threads.

    def _run(self, started: Future[None], ready_pipe: int) -> None:
        """Start the process and wait for its end; then nothing is left of it. In one thread, because the process is
        killed with the thread that started it (`model_server/owner.py`).
        """
        owner_read, owner_pipe = os.pipe()
        try:
            process = self._popen(owner_read, ready_pipe)
        except BaseException as error:
            os.close(owner_pipe)
            started.set_exception(error)
            return
        finally:
            os.close(owner_read)
            os.close(ready_pipe)
        with self._lock:
            self.pid = process.pid
            self._process = process
            self._kills = OutOfMemoryKills(process.pid)
            if self._stopping:  # `stop` came while the process was being made, and could not see it
                process.terminate()
        started.set_result(None)
        if hasattr(os, "waitid"):  # not on macOS before Python 3.13
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            # What it started and did not end itself (it was killed) goes with it. Not reaped yet, it keeps the number
            # of its group from being anybody else's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.wait()
        with self._lock:
            code = process.wait()
            self._reason = self._in_words(code)
            os.close(owner_pipe)
            with contextlib.suppress(OSError):
                self.socket.unlink()
            self._ended.set()

    def _in_words(self, code: int) -> str:
        if self._killed:
            return self._killed
        if code >= 0:
            return f"ended with status {code}"
        name = signal.Signals(-code).name
        if code != -signal.SIGKILL:
            return f"was killed by {name}"
        kills = self._kills
        self._out_of_memory = kills is not None and kills.happened()
        if self._out_of_memory:
            return "was killed by the system, because memory ran out (SIGKILL)"
        return f"was killed by {name}" + (" (by hand)" if kills and kills.known else " (out of memory, or by hand)")

    def _watch(self) -> None:
        """Ask for the heartbeat until the end; a process that leaves it unanswered is killed."""
        while not self._ended.wait(HEARTBEAT_SECONDS):
            assert self._kills is not None
            self._kills.look()
            if not self._stopping and not self._answers():
                self.kill(f"hung: it did not answer its heartbeat for {self.hang_timeout:g} s, and was killed")

    def _answers(self) -> bool:
        """Whether a heartbeat is answered in time, or there is nobody to answer any more.

        Time is counted in steps that this thread has waited: while the whole machine, or the owner, was suspended,
        nobody was given the time to answer.
        """
        step = min(1.0, self.hang_timeout)
        left = self.hang_timeout
        connection: socket.socket | None = None
        try:
            while left > 0 and not self._stopping and not self._ended.is_set():
                try:
                    if connection is None:
                        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                        connection.settimeout(step)
                        connection.connect(str(self.socket))
                        connection.sendall(_HEARTBEAT)
                    if connection.recv(4096).startswith(b"HTTP/1.1 200"):
                        return True
                except TimeoutError:  # asked, and not answered yet
                    left -= step
                    continue
                except OSError:
                    pass  # no socket any more, or too many wait for it
                # Not a beat: another one is asked for.
                if connection is not None:
                    connection.close()
                    connection = None
                self._ended.wait(step)
                left -= step
        finally:
            if connection is not None:
                connection.close()
        return left > 0


def log_tail(log: Path, lines: int = 200) -> str:
    """The last lines of a log, "" if there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 400 * lines))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _read_line(fd: int, timeout: float) -> bytes:
    """One line from a pipe; b"" if the other side ends or `timeout` seconds pass first. Closes the pipe."""
    end = time.monotonic() + timeout
    line = b""
    poll = select.poll()  # select() ends at file descriptor 1023, which a Jupyter Server with many kernels passes
    poll.register(fd, select.POLLIN)
    try:
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                return b""
            part = os.read(fd, 4096)
            if not part:
                return b""
            line += part
        return line
    finally:
        os.close(fd)

"""Load from several clients at once; each request is counted: answered correctly, refused cleanly, or lost."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from helpers import PATIENCE, wait_for

#: Refusals that tell a client to come back, or that its time was over; they must be what our APIs send.
CLEAN = {429, 503, 504}


@dataclass
class Outcome:
    """What became of the requests."""

    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)  #: by status and text
    lost: Counter[str] = field(default_factory=Counter)  #: by what came instead of an answer
    seconds: list[float] = field(default_factory=list)  #: of each that was answered
    times: list[float] = field(default_factory=list)  #: `time.monotonic()` of each answer

    def percentile(self, percent: float) -> float:
        """Seconds within which so many of the answered requests were."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    def gap(self) -> float:
        """The longest time without an answer, in seconds."""
        ordered = sorted(self.times)
        return max((b - a for a, b in itertools.pairwise(ordered)), default=0.0)

    def __str__(self) -> str:
        return f"{self.answered} answered, {self.refused.total()} refused, {self.lost.total()} lost"


class Load:
    """Clients that ask again and again while the block runs."""

    def __init__(
        self,
        port: int,
        path: str,
        body: Any,
        is_right: Callable[[Any], bool] = lambda answer: True,
        headers: Mapping[str, str] | None = None,
        clients: int = 4,
        pause: float = 0.0,
        timeout: float = PATIENCE,
    ) -> None:
        """`body` is sent as JSON unless it is bytes. `is_right` is asked about each answer's JSON. Each client waits
        `pause` seconds after an answer.
        """
        self.outcome = Outcome()
        self._where = (port, path, body if isinstance(body, bytes) else json.dumps(body).encode(), dict(headers or {}))
        self._is_right = is_right
        self._pause = pause
        self._timeout = timeout
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(self._timeout + 5)
            assert not thread.is_alive(), "a request was neither answered nor refused in time"

    def wait(self, answers: int, timeout: float = PATIENCE) -> None:
        """Until so many more were answered."""
        wanted = self.outcome.answered + answers
        wait_for(f"{answers} more answers ({self.outcome})", lambda: self.outcome.answered >= wanted, timeout)

    def _ask(self) -> None:
        port, path, body, headers = self._where
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=self._timeout)
        while not self._end.is_set():
            began = time.monotonic()
            try:
                connection.request("POST", path, body, headers)
                reply = connection.getresponse()
                self._count(reply.status, dict(reply.getheaders()), reply.read(), began)
                wait = self._pause if reply.status == 200 else max(self._pause, 0.02)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                with self._lock:
                    self.outcome.lost[f"{type(error).__name__}: {error}"] += 1
                wait = 0.1
            if wait:
                self._end.wait(wait)
        connection.close()

    def _count(self, status: int, headers: dict[str, str], data: bytes, began: float) -> None:
        now = time.monotonic()
        outcome = self.outcome
        with self._lock:
            try:
                answer = json.loads(data)
            except ValueError:
                outcome.lost[f"{status} without JSON: {data[:200]!r}"] += 1
                return
            if status == 200 and self._is_right(answer):
                outcome.answered += 1
                outcome.seconds.append(now - began)
                outcome.times.append(now)
            elif status in CLEAN and list(answer) == ["error"] and (status != 503 or "Retry-After" in headers):
                outcome.refused[f"{status} {answer['error']}"] += 1
            else:
                outcome.lost[f"{status} {data[:200]!r}"] += 1

"""Who was refused on the ports, for whoever audits: told on the event stream, counted by the second, so that a flood of
wrong bearers is a few events and not one each. Never with a bearer, never with inputs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Literal

from ..api import Event
from ..grants import Grant
from .errors import Code, ServingError

#: Seconds between two tellings.
_SECONDS = 1.0

#: Models of one caller, and of all whom nobody knows, that are told one by one each time; of the rest, how many.
MOST = 8

_MAX_NAME = 200

_REFUSED = (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)

_Port = Literal["rest", "grpc"]


class Refusals:
    """Counts; any thread may `note`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By grant, so that strangers hide nobody: grants are as many as the owner gives.
        self._counts: dict[str, dict[tuple[_Port, int, str], int]] = {}

    def note(self, error: ServingError, port: _Port, model: str, grant: Grant | None = None) -> None:
        """A request for `model` ("" where it names none) was refused; errors of another sort are no refusals."""
        if error.code not in _REFUSED:
            return
        name = model[:_MAX_NAME].encode("utf-8", "replace").decode()
        kind = port, error.code.http, name
        with self._lock:
            counts = self._counts.setdefault(grant.id if grant is not None else "", {})
            if kind not in counts and len(counts) >= MOST:
                kind = port, error.code.http, ""
            counts[kind] = counts.get(kind, 0) + 1

    async def tell(self, publish: Callable[[Event], None]) -> None:
        """Publish what was counted, again and again, until cancelled."""
        while True:
            await asyncio.sleep(_SECONDS)
            with self._lock:
                refused, self._counts = self._counts, {}
            now = time.time()
            for grant, counts in refused.items():
                for (port, status, model), count in counts.items():
                    publish(
                        Event(type="refusal", time=now, port=port, status=status, grant=grant, model=model, count=count)
                    )

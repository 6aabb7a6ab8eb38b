"""Who may call the ports: whoever sends a bearer that stands, as a hash, in the file that the owner of the model server
wrote. A line is the SHA-256 of a bearer that may do everything, or a JSON object: ``sha256`` and a `Grant`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..grants import Grant
from .asking import Strangers
from .errors import Code, ServingError
from .refusals import Refusals

log = logging.getLogger(__name__)

#: Seconds between two looks at the file: a bearer that is taken out of it is refused this soon.
LOOK = 0.25


@dataclass
class _Use:
    """How much of its limits a grant uses."""

    left: float  #: requests that may come at once
    since: float  #: time.monotonic() of `left`
    running: int = 0


@dataclass
class _Table:
    """One reading of the file."""

    stamp: tuple[int, ...] = ()
    owners: frozenset[str] = frozenset()
    grants: dict[str, Grant] = field(default_factory=dict)


class Bearers:
    """The accepted bearers; false where the ports are open to all. Any thread may ask.

    With `strangers`, the Unix socket of whoever knows more of them than the file (`asking.py`).
    """

    def __init__(self, file: str = "", strangers: str = "") -> None:
        self.refusals = Refusals()
        self._file = Path(file) if file else None
        self._strangers = Strangers(strangers) if strangers else None
        self._table = _Table()
        self._uses: dict[str, _Use] = {}
        self._counting = threading.Lock()
        if self._file is not None:
            self._table = _read(self._file)

    def __bool__(self) -> bool:
        return self._file is not None

    async def follow(self) -> None:
        """Read the file again whenever it changes; runs until cancelled. A file that is gone lets nobody in."""
        while self._file is not None:
            await asyncio.sleep(LOOK)
            try:
                if _stamp(self._file) != self._table.stamp:
                    self._table = _read(self._file)
                    if self._strangers is not None:
                        self._strangers.forget()  # whoever writes the file has changed what others may do
            except (OSError, ValueError, KeyError, TypeError) as error:
                if self._table.stamp:
                    log.error("--bearer_hashes_file cannot be read, nobody is let in: %s", error)
                self._table = _Table()
                if self._strangers is not None:
                    self._strangers.forget()

    def caller(self, authorization: str) -> Grant | None:
        """Whose Authorization header this is, ``Bearer X`` or ``token X``: None for the owner, who may do everything.

        Raises UNAUTHENTICATED, or Asked where somebody else has to say it first. The bearer is never compared, only its
        hash, which tells nothing of it.
        """
        scheme, _, bearer = authorization.partition(" ")
        bearer = bearer.strip()
        digest = hashlib.sha256(bearer.encode("utf-8", "surrogateescape")).hexdigest()
        table = self._table
        known = [hmac.compare_digest(digest, owner) for owner in table.owners]
        if scheme.lower() not in ("bearer", "token"):
            raise ServingError(Code.UNAUTHENTICATED, "Send the header  Authorization: Bearer <token>.")
        if any(known):
            return None
        grant = table.grants.get(digest)
        if grant is not None:
            return grant
        if self._strangers is not None and table.stamp:
            return self._strangers.grant(digest, bearer)
        raise ServingError(Code.UNAUTHENTICATED, "This bearer is not known, or no longer.")

    def enter(self, grant: Grant) -> None:
        """A request of this grant begins. Raises UNAUTHENTICATED for one that has expired, RESOURCE_EXHAUSTED past its
        limits; then it has not begun.
        """
        if grant.expires is not None and time.time() >= grant.expires:
            raise ServingError(Code.UNAUTHENTICATED, "This bearer has expired.", "Ask its owner for a new one.")
        if grant.rate is None and grant.concurrency is None:
            return
        with self._counting:
            now = time.monotonic()
            most = max(1.0, grant.rate or 1.0)
            use = self._uses.setdefault(grant.id, _Use(most, now))
            if grant.concurrency is not None and use.running >= grant.concurrency:
                raise ServingError(
                    Code.RESOURCE_EXHAUSTED, f"This bearer may have {grant.concurrency} requests in flight.", "Wait."
                )
            if grant.rate is not None:
                use.left, use.since = min(most, use.left + (now - use.since) * grant.rate), now
                if use.left < 1:
                    raise ServingError(
                        Code.RESOURCE_EXHAUSTED, f"This bearer may send {grant.rate:g} requests a second.", "Wait."
                    )
                use.left -= 1
            use.running += 1

    def leave(self, grant: Grant) -> None:
        """The request has ended."""
        if grant.rate is None and grant.concurrency is None:
            return
        with self._counting:
            self._uses[grant.id].running -= 1


def _read(file: Path) -> _Table:
    stamp = _stamp(file)  # before the content: what changes in between is read once more
    owners, grants = [], {}
    for line in file.read_text().splitlines():
        if line.startswith("{"):
            message = json.loads(line)
            grants[str(message["sha256"])] = Grant.from_json(message)
        elif line.strip():
            owners.append(line.strip())
    return _Table(stamp, frozenset(owners), grants)


def _stamp(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size

"""What the owner has shared: a 0600 file in the store, ``.shares.json``, that outlives this process and that several
Jupyter Servers of one user may use. `sharing.py` changes it, `access.py` asks it, the model server gets its grants.

An access key stands there as a hash: the key itself is told once, to whoever made it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..api import Share
from ..grants import Grant
from ..store import Store, write_atomically

FILE = ".shares.json"

#: What an access key begins with, so that people and secret scanners know one when they see it.
PREFIX = "tfserve_"

#: Seconds between two writes of when keys were last used.
_NOTE_USE = 60.0

#: Seconds that an expired key is remembered, so that its holder is told what is wrong.
_REMEMBER = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Record:
    """One share."""

    id: str
    kind: Literal["key", "user", "link"]
    models: tuple[str, ...]
    versions: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    created: float = 0.0
    expires: float | None = None
    rate: float | None = None
    concurrency: int | None = None
    note: str = ""
    last_used: float | None = None
    sha256: str = ""  #: key
    user: str = ""  #: user
    code: str = ""  #: link: the Hub's id of its share code
    server: str = ""  #: user, link: the name of the Hub's server

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and time.time() >= self.expires

    def grant(self) -> Grant:
        """What its bearer may do."""
        return Grant(self.id, self.models, self.versions, self.labels, self.expires, self.rate, self.concurrency)

    def message(self) -> Share:
        """As the API tells it: without hash and code."""
        return Share(
            id=self.id,
            kind=self.kind,
            models=list(self.models),
            versions=list(self.versions),
            labels=list(self.labels),
            user=self.user,
            created=self.created,
            expires=self.expires,
            rate=self.rate,
            concurrency=self.concurrency,
            note=self.note,
            last_used=self.last_used,
        )


def new_key() -> str:
    """256 random bits, to be told once."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(bearer: str) -> str:
    """What is stored of a key. It is random throughout, so that a plain hash is as good as a slow one."""
    return hashlib.sha256(bearer.encode("utf-8", "surrogateescape")).hexdigest()


class Shares:
    """The shares of one store. `server` is this server's name on a Hub. Methods that touch the disk say so."""

    def __init__(self, store: Store, server: str = "") -> None:
        self._store = store
        self._server = server
        self._file = store.root / FILE
        self._stamp: tuple[int, ...] = ()
        self._records: dict[str, Record] = {}
        self._keys: dict[str, Record] = {}
        self._used: dict[str, float] = {}
        self._noted = time.monotonic()
        self._lock = threading.RLock()  # of the file and what is known of it
        self._readable = True
        with contextlib.suppress(OSError, ValueError, TypeError):  # whoever refreshes it later says what is wrong
            self.refresh()

    def __iter__(self) -> Iterator[Record]:
        return iter([self._with_use(record) for record in self._records.values()])

    def key(self, bearer: str) -> Record | None:
        """The access key that this bearer is, expired ones too. Only hashes are compared."""
        found = self._keys.get(digest(bearer)) if bearer.startswith(PREFIX) else None
        return found if found is not None and hmac.compare_digest(found.sha256, digest(bearer)) else None

    def for_user(self, name: str) -> Grant | None:
        """What a user of the Hub may do who comes with the Hub's scope for this server: what was shared with them by
        name, else what was shared by link; None if nothing was shared from here.

        Of what has expired or is being revoked nothing is left: such a record stays until the Hub has revoked its part.
        """
        hub = [record for record in self._records.values() if record.kind != "key" and record.server == self._server]
        mine = [record for record in hub if record.user == name] or [r for r in hub if r.kind == "link"]
        if not self._readable:
            return Grant(f"hub user {name}", ())
        if not mine:
            return None
        valid = [record for record in mine if not record.expired]
        now = time.time()
        self._used.update((record.id, now) for record in valid)
        rates = [record.rate for record in valid]
        most = [record.concurrency for record in valid]
        return Grant(
            f"hub user {name}",
            tuple(sorted({model for record in valid for model in record.models})),
            rate=None if None in rates else sum(filter(None, rates)) or None,
            concurrency=None if None in most else sum(filter(None, most)) or None,
        )

    def use(self, share: str) -> None:
        """An access key was used now; `refresh` writes it down."""
        self._used[share] = time.time()

    def grants(self) -> list[str]:
        """The lines of the access keys for the model server's file of bearers."""
        return [
            json.dumps({"sha256": record.sha256, **json.loads(record.grant().to_json())})
            for record in self._keys.values()
        ]

    # These read and write the file.

    def refresh(self) -> bool:
        """Read the file again if it has changed; from time to time write down what was used. True if it has changed.

        Raises OSError, ValueError and TypeError where the file cannot be read: then the Hub's users may call nothing.
        """
        with self._lock:
            if self._used and time.monotonic() - self._noted > _NOTE_USE:
                self.note_use()
            return self._reread()

    def _reread(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            found = self._file.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return False
            self._readable = False
            self._take(_read(self._file.read_text(encoding="utf-8")))
            self._readable, self._stamp = True, stamp
            return True
        changed = bool(self._records)
        self._take([])
        self._stamp = ()
        return changed

    def note_use(self) -> None:
        """Write down when shares were last used."""
        if self._used and self._records:
            self._change(lambda records: records)
        self._noted = time.monotonic()

    def add(self, record: Record) -> None:
        """Keep a new share."""
        self._change(lambda records: [*records, record])

    def remove(self, share: str) -> Record | None:
        """Forget a share; None if there is none of that id."""
        found = self._records.get(share)
        if found is not None:
            self._change(lambda records: [record for record in records if record.id != share])
        return found

    def expire(self, share: str) -> None:
        """Let it be over from now on, while the Hub has yet to revoke its part."""
        now = time.time()
        self._change(
            lambda records: [replace(record, expires=now) if record.id == share else record for record in records]
        )

    def _change(self, change: Callable[[list[Record]], list[Record]]) -> None:
        with self._lock, self._store.locked():
            self._stamp = ()
            self._reread()
            limit = time.time() - _REMEMBER
            changed = change([self._with_use(record) for record in self._records.values()])
            kept = [r for r in changed if r.kind != "key" or r.expires is None or r.expires > limit]
            write_atomically(self._file, json.dumps([asdict(record) for record in kept], indent=1))
            self._stamp = ()
            self._reread()
        self._used = {}
        self._noted = time.monotonic()

    def _take(self, records: Iterable[Record]) -> None:
        self._records = {record.id: record for record in records}
        self._keys = {record.sha256: record for record in self._records.values() if record.kind == "key"}

    def _with_use(self, record: Record) -> Record:
        used = self._used.get(record.id)
        return record if used is None else replace(record, last_used=used)


def _read(text: str) -> list[Record]:
    records = []
    for message in json.loads(text):
        known = {name: value for name, value in message.items() if name in Record.__dataclass_fields__}
        values: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        records.append(Record(**values))
    return records

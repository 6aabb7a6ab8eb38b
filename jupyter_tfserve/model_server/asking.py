"""Whose is a bearer that the file of bearers does not know? The owner of the model server is asked, over a Unix socket
that only one user can open, and the answer counts for a while. `auth.py` asks; the Jupyter Server on a Hub answers.

Question and answer are a line of JSON each: ``{"bearer": ...}``, then ``{"grant": {...}}``, or ``{"refused": 401,
"message": ...}`` with an HTTP status. No request waits for a question but those that come with the bearer itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from ..grants import Grant
from .errors import Code, ServingError

log = logging.getLogger(__name__)

#: Seconds that an answer counts: with the 5 for which the other side may repeat the Hub's word, less than 35 until a
#: bearer that is revoked on the Hub is refused here. What is revoked on the other side itself is forgotten at once.
KNOWN_SECONDS = 25.0
UNKNOWN_SECONDS = 5.0

#: Bearers that are remembered, of either kind: a flood of wrong ones pushes out no right one.
_MOST_KNOWN = 1000

#: Questions at once; a bearer that was right before is asked about beyond them.
_MOST_ASKED = 32

#: Seconds that an answer may take.
_TIMEOUT = 2.0

_MAX_ANSWER = 1 << 20

#: What can be a token of a Hub. Nobody is asked about anything else.
_PLAUSIBLE = re.compile(r"[\x21-\x7e]{1,512}")

_CODES = {401: Code.UNAUTHENTICATED, 403: Code.PERMISSION_DENIED}


class Asked(Exception):
    """A bearer is being asked about: `told` will hold its grant, or a ServingError. It is set in the event loop."""

    def __init__(self, told: Future[Grant]) -> None:
        super().__init__()
        self.told = told


@dataclass(frozen=True)
class _Answer:
    """What was said of a bearer: its grant, or how it is refused."""

    grant: Grant | None
    code: Code
    message: str
    until: float  #: time.monotonic()

    def granted(self) -> Grant:
        """Raises ServingError for one that is refused."""
        if self.grant is None:
            raise ServingError(self.code, self.message)
        return self.grant


class Strangers:
    """The bearers that are asked about, by the SHA-256 of each. Made in the event loop; any thread may ask."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._right: dict[str, _Answer] = {}
        self._wrong: dict[str, _Answer] = {}
        self._asked: dict[str, Future[Grant]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._forgotten = 0  # how often
        self._silent = False  # the last question was not answered

    def grant(self, digest: str, bearer: str) -> Grant:
        """What is remembered of a bearer. Raises ServingError for one that is refused, Asked where nothing is known."""
        answer = self._remembered(digest)
        if answer is not None:
            return answer.granted()
        if not _PLAUSIBLE.fullmatch(bearer):
            raise ServingError(Code.UNAUTHENTICATED, "This bearer is not known.")
        with self._lock:
            told = self._asked.get(digest)
            if told is not None:
                raise Asked(told)
            answer = self._remembered(digest)
            if answer is None:
                if len(self._asked) >= _MOST_ASKED and digest not in self._right:
                    raise _not_now()
                told = self._asked[digest] = Future()
        if answer is not None:
            return answer.granted()
        assert told is not None
        self._loop.call_soon_threadsafe(self._begin, digest, bearer, told)
        raise Asked(told)

    def forget(self) -> None:
        """Ask again about everyone."""
        with self._lock:
            self._forgotten += 1
            self._right.clear()
            self._wrong.clear()

    def _remembered(self, digest: str) -> _Answer | None:
        answer = self._right.get(digest) or self._wrong.get(digest)
        return answer if answer is not None and time.monotonic() < answer.until else None

    def _begin(self, digest: str, bearer: str, told: Future[Grant]) -> None:
        task = self._loop.create_task(self._find_out(digest, bearer, told))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find_out(self, digest: str, bearer: str, told: Future[Grant]) -> None:
        forgotten = self._forgotten
        answer = None
        try:
            answer = await asyncio.wait_for(self._question(bearer), _TIMEOUT)
            self._silent = False
        except (OSError, ValueError, KeyError, TypeError, asyncio.TimeoutError) as error:
            if not self._silent:  # once, not for every stranger
                log.warning("Who else may call is not answered, strangers are refused: %s", type(error).__name__)
            self._silent = True
        finally:
            with self._lock:
                if answer is not None and forgotten == self._forgotten:
                    self._remember(digest, answer)
                del self._asked[digest]
            try:
                if answer is None:
                    raise _not_now()
                told.set_result(answer.granted())
            except ServingError as error:
                told.set_exception(error)

    async def _question(self, bearer: str) -> _Answer | None:
        """None: it cannot be said now."""
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=_MAX_ANSWER)
        try:
            writer.write(json.dumps({"bearer": bearer}).encode() + b"\n")
            said = json.loads(await reader.readline())
        finally:
            writer.close()
        if "grant" in said:
            grant = Grant.from_json(said["grant"])
            return _Answer(grant, Code.OK, "", time.monotonic() + KNOWN_SECONDS)
        code = _CODES.get(said["refused"])
        if code is None:
            return None
        return _Answer(None, code, str(said["message"]), time.monotonic() + UNKNOWN_SECONDS)

    def _remember(self, digest: str, answer: _Answer) -> None:
        """With the lock held."""
        self._right.pop(digest, None)
        self._wrong.pop(digest, None)
        answers = self._wrong if answer.grant is None else self._right
        if len(answers) >= _MOST_KNOWN:
            del answers[next(iter(answers))]  # the oldest
        answers[digest] = answer


def _not_now() -> ServingError:
    return ServingError(Code.UNAVAILABLE, "Whose bearer this is cannot be found out at the moment.", "Try again.")

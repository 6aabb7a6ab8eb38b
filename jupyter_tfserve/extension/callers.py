"""Tells the model server whose a bearer is that it does not know, over a Unix socket (0600) in the runtime folder: its
own ports take the same bearers as the Hub's URL. `model_server/asking.py` is the other side, and remembers what we say.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.netutil import bind_unix_socket

from .access import Refused, grant_of
from .hub import HubError

if TYPE_CHECKING:
    from .app import TFServe

#: Seconds in which a question must have come.
_TIMEOUT = 5.0


class Callers:
    """Answers while the extension lives."""

    def __init__(self, tfserve: TFServe) -> None:
        self._tfserve = tfserve
        self._server: asyncio.Server | None = None

    async def start(self, socket: Path) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, sock=bind_unix_socket(str(socket), 0o600))

    def stop(self) -> None:
        """No more answers."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question. Whatever goes wrong ends without an answer, and then the caller is not let in."""
        with contextlib.closing(writer), contextlib.suppress(OSError, ValueError, KeyError, asyncio.TimeoutError):
            question = json.loads(await asyncio.wait_for(reader.readline(), _TIMEOUT))
            answer = await self._answer(str(question["bearer"]))
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()

    async def _answer(self, bearer: str) -> dict[str, Any]:
        try:
            grant = await grant_of(bearer, self._tfserve)
        except (Refused, HubError) as refused:
            return {"refused": refused.status, "message": refused.message}
        return {"grant": json.loads(grant.to_json())}

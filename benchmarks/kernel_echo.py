"""A kernel that echoes, over a Jupyter Server's websocket: what somebody who types in a notebook feels while the server
does something else. Called by `soak.py` and by the test of the event loop.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.request import Request, urlopen

from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

#: Seconds that a kernel gets to start and to echo.
LIMIT = 60.0

#: Seconds between an echo and the next question: faster than anybody types.
PAUSE = 0.01


class EchoingKernel:
    """A kernel of the server at `url` (http://...), and one connection to it."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._headers = url.rstrip("/"), {"Authorization": f"token {token}"}
        self._id = json.loads(self._ask("POST", "/api/kernels", b"{}"))["id"]
        self._session = uuid.uuid4().hex
        self._loop = asyncio.new_event_loop()
        self._connection = self._run(self._connect())
        self._run(self._echo())  # it may have to start

    def during(self, work: Callable[[], Any]) -> list[float]:
        """Seconds that each echo took while something is done in another thread."""
        return self._run(self._echo_beside(work))

    def close(self) -> None:
        """End the kernel."""
        self._run(self._disconnect())
        self._loop.close()
        self._ask("DELETE", f"/api/kernels/{self._id}")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        with urlopen(Request(self._url + path, body, self._headers, method=method), timeout=LIMIT) as answer:
            told: bytes = answer.read()
        return told

    def _run(self, what: Any) -> Any:
        return self._loop.run_until_complete(what)

    async def _connect(self) -> Any:
        url = self._url.replace("http", "ws", 1) + f"/api/kernels/{self._id}/channels?session_id={self._session}"
        return await websocket_connect(HTTPRequest(url, headers=self._headers, connect_timeout=LIMIT))

    async def _disconnect(self) -> None:
        self._connection.close()  # writes, which needs the running loop

    async def _echo_beside(self, work: Callable[[], Any]) -> list[float]:
        working = asyncio.get_running_loop().run_in_executor(None, work)
        took = []
        while not working.done():
            took.append(await self._echo())
            await asyncio.sleep(PAUSE)
        await working
        return took

    async def _echo(self) -> float:
        """Run a cell; the seconds until the kernel's first word on it is here. Those behind it wait for our system's
        acknowledgement (Nagle), which would be measured instead.
        """
        message_id = uuid.uuid4().hex
        header = {
            "msg_id": message_id, "msg_type": "execute_request", "session": self._session, "username": "",
            "version": "5.3",
        }  # fmt: skip
        content = {"code": "print(1)", "silent": False, "store_history": False}
        message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
        began = time.perf_counter()
        await self._connection.write_message(json.dumps(message))
        while True:
            answer = await asyncio.wait_for(self._connection.read_message(), LIMIT)
            if answer is None:
                raise ConnectionError("Jupyter closed the kernel's websocket")
            if json.loads(answer)["parent_header"].get("msg_id") == message_id:
                return time.perf_counter() - began

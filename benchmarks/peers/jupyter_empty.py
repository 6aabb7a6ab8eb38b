"""A Jupyter Server extension, for what "through Jupyter" is measured against: a handler that asks who calls, as every
handler of Jupyter Server does, and answers. It also watches the event loop: `soak.py jupyter` asks how late it was.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from jupyter_server.base.handlers import JupyterHandler
from tornado import web

ANSWER = b'{"predictions": [2.75]}'

#: Seconds between two looks at the clock.
TICK = 0.001


class Empty(JupyterHandler):
    @web.authenticated
    async def post(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(ANSWER)


class Lag:
    """How long the event loop was away: the gaps between ticks, less the tick itself."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.task: asyncio.Task[None] | None = None

    async def watch(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            self.gaps.append(now - last - TICK)
            last = now


class LagHandler(JupyterHandler):
    """GET: begin to watch; POST: stop, and tell the gaps in milliseconds."""

    def initialize(self, lag: Lag) -> None:
        self.lag = lag

    @web.authenticated
    async def get(self) -> None:
        self.lag.gaps.clear()
        if self.lag.task is None:
            self.lag.task = asyncio.create_task(self.lag.watch())
        self.finish("{}")

    @web.authenticated
    async def post(self) -> None:
        if self.lag.task is not None:
            self.lag.task.cancel()
            self.lag.task = None
        self.finish(json.dumps([1000 * gap for gap in self.lag.gaps]))


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    base = server.web_app.settings["base_url"]
    server.web_app.add_handlers(
        ".*$", [(f"{base}bench/empty", Empty), (f"{base}bench/lag", LagHandler, {"lag": Lag()})]
    )

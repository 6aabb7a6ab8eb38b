"""A Jupyter Server extension for the tests: how long the server's event loop keeps others waiting.

``GET /loop_lag`` answers what was seen since the last time, in seconds, and begins anew.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.serverapp import ServerApp
from tornado import web


class Ticker:
    """Wants a turn each millisecond, and notes the processor time that the loop's thread spent between two: what a
    kernel's message would have waited, without what other processes on the machine took away.
    """

    def __init__(self) -> None:
        self.busy: list[float] = []

    async def run(self) -> None:
        """For ever."""
        while True:
            spent = time.thread_time()
            await asyncio.sleep(0.001)
            self.busy.append(time.thread_time() - spent)


class LagHandler(web.RequestHandler):
    """The report."""

    def initialize(self, ticker: Ticker) -> None:
        """Tornado's."""
        self.ticker = ticker

    @allow_unauthenticated
    def get(self) -> None:
        """What was seen since the last time."""
        busy, self.ticker.busy = self.ticker.busy, []
        self.finish(json.dumps({"ticks": len(busy), "busy": [max(busy)] if busy else []}))


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: ServerApp) -> None:
    server.web_app.add_handlers(".*$", [("/loop_lag", LagHandler, {"ticker": (ticker := Ticker())})])
    server.io_loop.add_callback(ticker.run)

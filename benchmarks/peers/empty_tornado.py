"""A yardstick: a Tornado handler, on uvloop, that answers without looking."""

from __future__ import annotations

import asyncio

import uvloop
from tornado import web

from . import common


class Empty(web.RequestHandler):
    def post(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(common.CANNED_JSON)


async def _main() -> None:
    web.Application([(".*", Empty)], log_function=lambda handler: None).listen(common.PORT, common.HOST)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main())

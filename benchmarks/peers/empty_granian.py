"""A yardstick: granian (RSGI, its own HTTP in Rust) with an application that answers without looking at the body."""

from __future__ import annotations

from typing import Any

from . import common


async def app(scope: Any, protocol: Any) -> None:
    await protocol()  # a body must be read
    protocol.response_bytes(200, [("content-type", "application/json")], common.CANNED_JSON)


if __name__ == "__main__":
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, Loops

    Granian(
        f"{__spec__.name}:app",
        address=common.HOST,
        port=common.PORT,
        interface=Interfaces.RSGI,
        workers=1,
        http=HTTPModes.http1,
        loop=Loops.uvloop,
        websockets=False,
        log_enabled=False,
    ).serve()

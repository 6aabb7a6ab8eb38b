"""The bare burst server over HTTP/1.1: what a turn of the event loop brought in is one batch. The yardstick for ours.

uvloop, httptools, simdjson, orjson and nothing else: one model, whatever the path; no limits, no errors, no metrics.
"""

from __future__ import annotations

import asyncio
import base64
from typing import cast

import httptools
import numpy as np
import orjson
import simdjson
import uvloop

from . import common
from .session import Callable

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Burst:
    """The requests of one turn, and who asked."""

    def __init__(self, model: Callable) -> None:
        self._model = model
        self._parser = simdjson.Parser()
        self._askers: list[asyncio.WriteTransport] = []
        self._rows: list[np.ndarray] = []
        self._loop = asyncio.get_running_loop()

    def add(self, asker: asyncio.WriteTransport, body: bytes) -> None:
        if not self._askers:
            self._loop.call_soon(self._answer)
        self._askers.append(asker)
        self._rows.append(self._decode(body))

    def _decode(self, body: bytes) -> np.ndarray:
        instances = self._parser.parse(body)["instances"]
        if self._model.is_string:
            rows = instances.as_list()
            return np.array([base64.b64decode(r["b64"]) if isinstance(r, dict) else r.encode() for r in rows], object)
        flat = np.frombuffer(instances.as_buffer(of_type="d")).astype(np.float32)
        return flat.reshape(_shape(instances))

    def _answer(self) -> None:
        askers, rows = self._askers, self._rows
        self._askers, self._rows = [], []
        outputs = self._model(np.concatenate(rows) if len(rows) > 1 else rows[0])
        end = 0
        for asker, own in zip(askers, rows, strict=True):
            start, end = end, end + len(own)
            part = common.json_safe(outputs[start:end])
            body = b'{"predictions": ' + orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY) + b"}"
            asker.write(_HEAD % len(body) + body)


def _shape(rows: simdjson.Array) -> list[int]:
    """Of a nesting that is taken to be regular."""
    shape = []
    inner: object = rows
    while isinstance(inner, simdjson.Array):
        shape.append(len(inner))
        inner = inner[0]
    return shape


class Connection(asyncio.Protocol):
    """One client; httptools calls `on_...`."""

    def __init__(self, burst: Burst) -> None:
        self._burst = burst
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._burst.add(self._transport, body)


async def _main() -> None:
    burst = Burst(Callable(common.MODELS / common.WORKS[0] / "1"))
    common.freeze()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(burst), common.HOST, common.PORT)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())

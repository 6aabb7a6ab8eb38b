"""The HTTP client to the model server, against a peer that says what the test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from jupyter_tfserve.extension import forward
from jupyter_tfserve.extension.forward import Exchange, Forwarder, Unreachable

T = TypeVar("T")

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """Listens on a Unix socket; each connection is handled by `script`."""

    def __init__(self, path: Path, script: Script) -> None:
        self.path = path
        self.script = script
        self.connections = 0
        self.heads: list[str] = []
        self.ended = asyncio.Event()
        self._open: set[asyncio.Task[None] | None] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.script(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.ended.set()

    async def all_ended(self) -> None:
        for task in list(self._open):
            if task is not None:
                await task

    async def read_head(self, reader: asyncio.StreamReader) -> str:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        return self.heads[-1]


def run(folder: Path, script: Callable[[Peer], Script], test: Callable[[Forwarder, Peer], Awaitable[T]]) -> T:
    async def main() -> T:
        peer = Peer(folder / "s", script=None)  # type: ignore[arg-type]
        peer.script = script(peer)
        async with await asyncio.start_unix_server(peer.handle, str(peer.path)):
            forwarder = Forwarder(peer.path)
            result = await asyncio.wait_for(test(forwarder, peer), 20)
            assert forwarder.in_flight == 0
            forwarder.close()
            await asyncio.wait_for(peer.all_ended(), 20)
            return result

    return asyncio.run(main())


def says(*answers: bytes) -> Callable[[Peer], Script]:
    """A peer that reads a head for each answer, then closes."""

    def script(peer: Peer) -> Script:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in answers:
                await peer.read_head(reader)
                writer.write(answer)

        return handle

    return script


async def parts(exchange: Exchange) -> AsyncIterator[bytes]:
    while part := await exchange.read():
        yield part


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"{}"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n",
            b"abcde",
        ),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad", b"bad"),
    ],
)
def test_answers_are_read_as_they_are_framed(tmp_path: Path, answer: bytes, body: bytes) -> None:
    async def test(forwarder: Forwarder, peer: Peer) -> bytes:
        return (await forwarder.fetch("GET", "/x")).body

    assert run(tmp_path, says(answer), test) == body


def test_head_of_an_answer(tmp_path: Path) -> None:
    async def test(forwarder: Forwarder, peer: Peer) -> Any:
        exchange = await forwarder.begin("GET", "/a%20b?c=d", [("X-Y", "z")])
        head = await exchange.head()
        assert await exchange.read() == b"ab"
        assert await exchange.read() == b""
        return head, peer.heads

    answer = b"HTTP/1.1 499 Client Closed Request\r\nA: b: c\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab"
    head, heads = run(tmp_path, says(answer), test)
    assert (head.status, head.reason) == (499, "Client Closed Request")
    assert head.headers == (("A", "b: c"), ("Content-Length", "2"))
    assert heads == ["GET /a%20b?c=d HTTP/1.1\r\nHost: tfserve\r\nX-Y: z\r\n\r\n"]


def test_head_requests_have_no_body(tmp_path: Path) -> None:
    async def test(forwarder: Forwarder, peer: Peer) -> int:
        for _ in range(2):
            exchange = await forwarder.begin("HEAD", "/x")
            await exchange.head()
            assert await exchange.read() == b""
        return peer.connections

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    assert run(tmp_path, says(answer, answer), test) == 1


def test_connections_are_used_again(tmp_path: Path) -> None:
    async def test(forwarder: Forwarder, peer: Peer) -> int:
        for _ in range(5):
            await forwarder.fetch("POST", "/x")
        return peer.connections

    assert run(tmp_path, says(*[OK] * 5), test) == 1


def test_a_connection_that_the_peer_closed_is_not_used(tmp_path: Path) -> None:
    """Closed while the event loop had no time to notice."""

    def script(peer: Peer) -> Script:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await peer.read_head(reader)
            writer.write(OK)
            await writer.drain()
            writer.transport.abort()

        return handle

    async def test(forwarder: Forwarder, peer: Peer) -> int:
        for _ in range(20):
            assert (await forwarder.fetch("POST", "/x")).status == 200
        return peer.connections

    assert run(tmp_path, script, test) == 20


def test_idle_connections_are_not_kept_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "IDLE_SECONDS", 0.0)

    async def test(forwarder: Forwarder, peer: Peer) -> int:
        await forwarder.fetch("GET", "/x")
        await forwarder.fetch("GET", "/x")
        return peer.connections

    assert run(tmp_path, says(OK, OK), test) == 2


def test_bodies_in_chunks(tmp_path: Path) -> None:
    received = []

    def script(peer: Peer) -> Script:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await peer.read_head(reader)
            received.append(await reader.readuntil(b"0\r\n\r\n"))
            writer.write(OK)

        return handle

    async def test(forwarder: Forwarder, peer: Peer) -> str:
        exchange = await forwarder.begin("POST", "/x", length=None)
        await exchange.write(b"abc")
        await exchange.write(b"d" * 20)
        await exchange.head()
        assert [part async for part in parts(exchange)] == [b"{}"]
        return peer.heads[0]

    assert "Transfer-Encoding: chunked" in run(tmp_path, script, test)
    assert received == [b"3\r\nabc\r\n14\r\n" + b"d" * 20 + b"\r\n0\r\n\r\n"]


def test_back_pressure(tmp_path: Path) -> None:
    """A peer that does not read stops the writer; it goes on when the peer does."""
    go_on = asyncio.Event()

    def script(peer: Peer) -> Script:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await peer.read_head(reader)
            await go_on.wait()
            await reader.readexactly(100 * 65536)
            writer.write(OK)

        return handle

    async def test(forwarder: Forwarder, peer: Peer) -> int:
        exchange = await forwarder.begin("POST", "/x", length=100 * 65536)
        written = 0

        async def write() -> None:
            nonlocal written
            for _ in range(100):
                await exchange.write(b"x" * 65536)
                written += 1

        writing = asyncio.create_task(write())
        done, _ = await asyncio.wait([writing], timeout=0.3)
        assert not done
        stuck_at = written
        go_on.set()
        await writing
        assert (await exchange.head()).status == 200
        assert await exchange.read() == b"{}"
        return stuck_at

    assert run(tmp_path, script, test) < 50


def test_a_large_body_lets_others_have_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the peer takes everything at once, nothing ever waits."""
    monkeypatch.setattr(forward, "TURN", 30_000)

    def script(peer: Peer) -> Script:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await peer.read_head(reader)
            await reader.readexactly(40_000)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        return handle

    async def test(forwarder: Forwarder, peer: Peer) -> list[list[int]]:
        turns: list[int] = []
        seen = []
        exchange = await forwarder.begin("POST", "/x", length=40_000)
        asyncio.get_running_loop().call_soon(turns.append, 1)
        for _ in range(2):
            await exchange.write(b"x" * 20_000)
            seen.append(list(turns))
        assert (await exchange.head()).status == 200
        return seen

    assert run(tmp_path, script, test) == [[], [1]]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        CHUNKED + b"a\r\nabc",
        CHUNKED + b"nonsense\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_answers_that_break_off(tmp_path: Path, answer: bytes) -> None:
    async def test(forwarder: Forwarder, peer: Peer) -> None:
        with pytest.raises(Unreachable):
            await forwarder.fetch("GET", "/x")

    run(tmp_path, says(answer), test)


def test_nobody_listens(tmp_path: Path) -> None:
    async def test() -> None:
        forwarder = Forwarder(tmp_path / "nothing")
        for _ in range(3):
            with pytest.raises(Unreachable):
                await forwarder.begin("GET", "/x")
        assert forwarder.in_flight == 0

    asyncio.run(test())


def test_giving_up_closes_the_connection(tmp_path: Path) -> None:
    def script(peer: Peer) -> Script:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await peer.read_head(reader)
            assert await reader.read() == b""

        return handle

    async def test(forwarder: Forwarder, peer: Peer) -> None:
        exchange = await forwarder.begin("GET", "/x")
        waiting = asyncio.create_task(exchange.head())
        await asyncio.sleep(0)
        exchange.abort()
        with pytest.raises(Unreachable):
            await waiting
        await peer.ended.wait()

    run(tmp_path, script, test)


def test_a_full_queue_of_connections_is_waited_for(tmp_path: Path) -> None:
    """Unix sockets answer EAGAIN there, which asyncio takes for success."""

    async def test() -> int:
        answered = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_unix_server(handle, str(tmp_path / "s"), backlog=1):
            forwarder = Forwarder(tmp_path / "s")
            for answer in await asyncio.gather(*(forwarder.fetch("GET", "/x") for _ in range(200))):
                answered += answer.status == 200
            forwarder.close()
        return answered

    assert asyncio.run(test()) == 200

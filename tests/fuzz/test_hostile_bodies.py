"""Bodies made to be slow: each takes at most so many times as long as a plain body of the same size, read by the same
reader, on the same server in the same run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
from fuzz.served import Served

#: Bytes of a body.
SIZE = 10_000_000 if os.environ.get("FUZZ_SECONDS") else 250_000

#: Times as long as the plain body of that size. A list for each byte, with what Python's memory management does for it,
#: takes about 20 times what a number for every four does; what is quadratic takes thousands.
TIMES = 40


def deep(open_: bytes, close: bytes) -> Callable[[int], bytes]:
    return lambda size: open_ * (size // (len(open_) + len(close))) + b"1" + close * (size // (len(open_) + len(close)))


def many(part: bytes) -> Callable[[int], bytes]:
    return lambda size: b"[NaN" + (b"," + part) * (size // (len(part) + 1)) + b"]"


#: What stands as the value of `inputs`; NaN makes our own reader read it, as the other refuses it.
HOSTILE: dict[str, Callable[[int], bytes]] = {
    "open_lists": lambda size: b"[" * size,
    "open_objects": lambda size: b'{"":' * (size // 4),
    "nested_lists": deep(b"[", b"]"),
    "nested_objects": deep(b'{"a":', b"}"),
    "keys": lambda size: b"{" + b",".join(b'"%08d":0' % n for n in range(size // 13)) + b"}",
    "equal_keys": lambda size: b"{" + b",".join([b'"a":0'] * (size // 6)) + b"}",
    "empty_lists": many(b"[]"),
    "empty_objects": many(b"{}"),
    "strings": many(b'""'),
    "a_number": lambda size: b"1" * size,
    "a_fraction": lambda size: b"0." + b"1" * size,
    "an_exponent": lambda size: b"1e" + b"9" * size,
    "long_numbers": many(b"1" * 10_000),
    "infinite": many(b"1e400"),
    "escapes": lambda size: b'[NaN, "' + b"\\n" * (size // 2) + b'"]',
    "unicode_escapes": lambda size: b'[NaN, "' + b"\\ud83d\\ude00" * (size // 12) + b'"]',
    "quotes": lambda size: b'"\\"' * (size // 3),
    "white_space": lambda size: b"[NaN," + b" " * size + b"1]",
    "commas": lambda size: b"[" + b"," * size,
    "a_word": lambda size: b"n" * size,
    "not_utf8": lambda size: b'"' + b"\xff" * size + b'"',
    "ragged": lambda size: b"[[NaN]" + b",[1,2]" * (size // 6) + b"]",
    "base64": lambda size: b'[NaN, {"b64": "' + b"=" * size + b'"}]',
}


def took(served: Served, body: bytes, headers: dict[str, str] | None = None) -> float:
    began = time.monotonic()
    status, content = served.rest("POST", "/v1/models/several:predict", body, headers)
    assert status in (200, 400), content[:300]
    return time.monotonic() - began


def body_of(value: bytes, key: bytes = b"inputs") -> bytes:
    return b'{"signature_name": "scalar", "' + key + b'": ' + value + b"}"


@pytest.fixture(scope="module")
def plain(served: Served) -> float:
    """Seconds that a plain list of numbers takes: the slower of two, so that a busy machine is no fault."""
    body = body_of(many(b"1.5")(SIZE))
    return max(took(served, body), took(served, body))


@pytest.mark.parametrize("name", HOSTILE)
def test_body(served: Served, plain: float, name: str) -> None:
    value = HOSTILE[name](SIZE)
    for key in (b"inputs", b"instances", b"ignored"):
        seconds = took(served, body_of(value, key))
        print(f"{name} {key.decode()}: {seconds / plain:.1f}")
        assert seconds < TIMES * plain, f"{key.decode()}: {seconds / plain:.1f} times as long"


def test_examples(served: Served, plain: float) -> None:
    for value in (b"[" * SIZE, b"[{" + b",".join(b'"%08d":0' % n for n in range(SIZE // 13)) + b"}]"):
        began = time.monotonic()
        served.rest("POST", "/v1/models/examples:classify", b'{"examples": ' + value + b"}")
        assert time.monotonic() - began < TIMES * plain


def test_small_chunks(served: Served, plain: float) -> None:
    """A body in chunks of a byte: six bytes on the wire for each."""
    value = body_of(many(b"1.5")(SIZE // 6))
    head = b"POST /v1/models/several:predict HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    began = time.monotonic()
    said = served.converse(head + b"".join(b"1\r\n%c\r\n" % byte for byte in value) + b"0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 "), said[:300]
    assert time.monotonic() - began < TIMES * plain


@pytest.mark.parametrize(
    "head", [b"X: ", b"X", b"Transfer-Encoding: chunked\r\n\r\n1;", b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: "]
)
def test_what_has_no_end_is_refused(served: Served, head: bytes) -> None:
    """A header, a header's name, a chunk's extension and a trailer: none is gathered for ever."""
    said = served.converse(b"POST / HTTP/1.1\r\nHost: x\r\n" + head + b"x" * 2_000_000)
    assert said.startswith(b"HTTP/1.1 431 "), said[:300]


def test_many_trailers(served: Served) -> None:
    trailers = b"".join(b"X-%d: y\r\n" % n for n in range(20_000))
    said = served.converse(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + trailers + b"\r\n")
    assert said.startswith(b"HTTP/1.1 431 "), said[:300]

"""Our own JSON reader: equal to simdjson and to the standard library on what they accept too, and TF Serving's where
they differ.
"""

from __future__ import annotations

import json
import math
import random
import time
from typing import Any

import pytest
import simdjson

from jupyter_tfserve.model_server.codecs.json_text import loads
from jupyter_tfserve.model_server.errors import Code, ServingError

STRINGS = ["", "a", "é", "😀", "\u2028", 'q"q', "b\\s", "\n\t\r\b\f\x01", "/", "\x7f", "0", "NaN", "[", "}"]


def document(chance: random.Random, depth: int = 0) -> Any:
    """Any JSON value, numbers of all kinds included."""
    kind = chance.randrange(9 if depth < 5 else 6)
    if kind == 0:
        return chance.choice([True, False, None])
    if kind == 1:
        return chance.choice(STRINGS) + chance.choice(STRINGS)
    if kind == 2:
        return chance.randrange(-(2**63), 2**64)
    if kind == 3:
        return chance.choice([0, -1, 1, 255, 2**53 + 1, -(2**63), 2**64 - 1])
    if kind == 4:
        return math.ldexp(chance.uniform(-1, 1), chance.randrange(-1060, 1023))
    if kind == 5:
        return chance.choice([0.0, 0.1, 1e22, 5e-324, 1.7976931348623157e308, 123456.789, -2.5])
    if kind == 6:
        return {chance.choice(STRINGS) + str(n): document(chance, depth + 1) for n in range(chance.randrange(4))}
    return [document(chance, depth + 1) for _ in range(chance.randrange(5))]


def written(chance: random.Random, value: Any) -> str:
    """One of the ways to write a document."""
    return json.dumps(
        value,
        ensure_ascii=chance.random() < 0.5,
        indent=chance.choice([None, None, 0, 3, "\t"]),
        separators=chance.choice([(",", ":"), (" , ", "\r\n:\t"), (", ", ": ")]),
    )


def same(one: Any, other: Any) -> bool:
    """Equal, types included: 1 is not 1.0, and not True."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def by_simdjson(body: bytes) -> Any:
    """As simdjson reads it; raises ValueError."""
    found = simdjson.Parser().parse(body)
    if isinstance(found, simdjson.Array):
        return found.as_list()
    return found.as_dict() if isinstance(found, simdjson.Object) else found


def test_as_the_others_read_it() -> None:
    chance = random.Random(1)
    for _ in range(1500):
        text = written(chance, document(chance))
        body = text.encode()
        found = loads(body)
        assert same(found, json.loads(text)), text
        assert same(found, by_simdjson(body)), text


def test_what_is_broken_at_random() -> None:
    """Whatever simdjson accepts after damage, we accept, and read the same from it."""
    chance = random.Random(2)
    accepted = refused = 0
    for _ in range(6000):
        body = bytearray(written(chance, [document(chance, 2)]).encode())
        for _ in range(chance.randrange(1, 3)):
            at = chance.randrange(len(body))
            damage = chance.choice(
                [b"", b",", b"]", b"[", b'"', b"\\", b"0", b"-", b"e", b".", b":", b"{", b" ", b"\0"]
            )
            body[at : at + chance.randrange(2)] = damage
        try:
            expected = json.loads(body)
            by_simdjson(bytes(body))
        except (ValueError, RuntimeError):
            refused += 1
            try:
                loads(bytes(body))
            except ServingError as error:
                assert error.message.startswith("JSON Parse error: ") and " at offset: " in error.message
            continue
        accepted += 1
        found = loads(bytes(body))
        assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True) or b"{" in body, body
    assert accepted > 200 and refused > 2000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NaN", math.nan),
        ("-NaN", math.nan),
        ("Inf", math.inf),
        ("Infinity", math.inf),
        ("-Inf", -math.inf),
        ("-Infinity", -math.inf),
        ("[1,NaN , -Inf]", [1, math.nan, -math.inf]),
        ("-0", 0),
        ("-0.0", -0.0),
        ("18446744073709551616", 2**64),
        ("1" + "0" * 308, 1e308),
        ("1e-400", 0.0),
        ('{"a": 1, "a": 2}', {"a": 1}),
        ('{"a": 1, "\\u0061": 2}', {"a": 1}),
        ('{"a": {"b": 1, "b": 2}}', {"a": {"b": 1}}),
        ("1 2", 1),
        ("[1] nonsense", [1]),
        ('{"a": 1}}', {"a": 1}),
        ("\ufeff[1]", [1]),
        (" \t\r\n[ \n]", []),
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\u0000"', "\0"),
    ],
)
def test_accepted(text: str, value: Any) -> None:
    assert same(loads(text.encode()), value)


def test_of_equal_keys_the_last_where_examples_are_read() -> None:
    assert loads(b'{"a": [{"b": 1, "b": 2}]}', last_inside=True)["a"] == [{"b": 2}]


def test_bytes_that_are_not_utf8_pass() -> None:
    assert loads(b'"\xff\xfe"').encode("utf-8", "surrogateescape") == b"\xff\xfe"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1",
        "[",
        "{",
        '{"a"}',
        '{"a":}',
        '{"a":1,}',
        "{1:2}",
        "{'a':1}",
        "'a'",
        '"a',
        '"\t"',
        '"\n"',
        '"\\x"',
        '"\\u12"',
        '"\\ud800"',
        '"\\ud800\\u0041"',
        '"\\udc00"',
        "[01]",
        "-",
        "+1",
        ".5",
        "[1.]",
        "1e",
        "[0x1]",
        "nan",
        "infinity",
        "+Inf",
        "True",
        "nul",
        "undefined",
        "1e400",
        "-1e400",
        "1" + "0" * 309,
        "9" * 309,
        "-" + "9" * 309,
        "[1,2,nan]",
        "[0,01]",
        "[1,.5]",
        "[NaN,NAN]",
        "// x\n1",
        "[1,\u00a02]",
        "[1,٣]",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ServingError, match="^INVALID_ARGUMENT: JSON Parse error: .* at offset: [0-9]+$") as refused:
        loads(text.encode())
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_the_text_of_an_empty_body() -> None:
    with pytest.raises(ServingError, match="JSON Parse error: The document is empty"):
        loads(b"")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b"[" * 400_000,
        b'"' + b"\\n" * 400_000 + b'"',
        b'"' + b"\\" * 800_001 + b'"',
        b"[" + b'"a",' * 200_000 + b'"b"]',
        b"[" + b"1," * 400_000 + b"1]",
        b"[[" + b"1,2],[" * 100_000 + b"1]]",
        b"-" * 800_000,
        b"1" * 800_000,
        b"[" + b"1" * 800_000 + b"]",
        b"NaN" * 200_000,
        b"A" * 800_000,
        b" " * 800_000 + b"1",
        b"[" + b" " * 800_000,
        b"[1" * 200_000,
    ],
    ids=lambda body: body[:12].decode(),
)
def test_the_time_grows_with_the_size_only(body: bytes) -> None:
    """What is quadratic takes minutes for these; what is linear, less than a second."""
    began = time.monotonic()
    try:
        loads(body)
    except ServingError as error:
        assert len(error.message) < 500
    assert time.monotonic() - began < 20

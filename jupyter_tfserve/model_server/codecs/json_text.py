"""JSON as TF Serving reads it (RapidJSON with NaN and Infinity), for the bodies that simdjson refuses.

RFC 8259 plus ``NaN``, ``Inf``, ``Infinity`` and their negatives; of equal keys the first counts; what follows the
first value is not read; nesting has no limit; bytes that are not UTF-8 pass through as surrogate escapes. Lists of
numbers, where the bytes are, are read at C speed; nothing here is recursive, and the time is linear in the size of
the text.
"""

from __future__ import annotations

import math
import re
from typing import Any, NoReturn

from ..errors import invalid

_SPACE = re.compile(r"[ \t\n\r]*")
_STRUCTURE = re.compile(r'[\[\]{}"]')
_PLAIN = re.compile(r'"([^"\\\x00-\x1f]*)"')
_CHUNK = re.compile(r'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"-?[A-Za-z]+|-?[0-9][0-9A-Za-z.+\-]*")
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERALS: dict[str, Any] = {
    "true": True,
    "false": False,
    "null": None,
    "NaN": math.nan,
    "-NaN": math.nan,
    "Inf": math.inf,
    "Infinity": math.inf,
    "-Inf": -math.inf,
    "-Infinity": -math.inf,
}

_LONGEST_LITERAL = max(map(len, _LITERALS))

#: An integer of more digits may be past what a double holds, and is no integer type's: it is read as a double.
_MAX_DIGITS = 308


def loads(body: bytes, last_inside: bool = False) -> Any:
    """The first JSON value of a body; `last_inside`: below the top the last of equal keys counts. Raises ServingError
    with RapidJSON's text.
    """
    return _Reader(body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape"), last_inside).read()


def _fail(what: str, offset: int) -> NoReturn:
    raise invalid(f"JSON Parse error: {what} at offset: {offset}")


class _Reader:
    def __init__(self, text: str, last_inside: bool) -> None:
        self._text = text
        self._last_inside = last_inside
        self._at = 0

    def read(self) -> Any:
        """A value: containers that are open stand on a stack, each object with the key whose value comes next."""
        stack: list[tuple[list[Any] | dict[str, Any], str]] = []
        if not self._peek():
            _fail("The document is empty.", 0)
        while True:
            value, opened = self._value()
            if opened:
                if isinstance(value, dict):
                    stack.append((value, self._key()))
                else:
                    stack.append((value, ""))
                continue
            # The value is complete: it goes where it belongs, and closes what ends after it.
            while stack:
                container, key = stack.pop()
                if isinstance(container, list):
                    container.append(value)
                    if self._more("]", "Missing a comma or ] after an array element."):
                        stack.append((container, ""))
                        break
                else:
                    if key not in container or (self._last_inside and stack):
                        container[key] = value
                    if self._more("}", "Missing a comma or } after an object member."):
                        stack.append((container, self._key()))
                        break
                value = container
            else:
                return value

    def _peek(self) -> str:
        """The next character that is no white space, "" at the end."""
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._text[self._at : self._at + 1]

    def _value(self) -> tuple[Any, bool]:
        """A scalar or an empty or flat container, and False; or a container whose first element comes next, and
        True.
        """
        first = self._peek()
        if first == '"':
            return self._string(), False
        if first == "[":
            end = _STRUCTURE.search(self._text, self._at + 1)
            if end and end.group() == "]":
                start, self._at = self._at + 1, end.end()
                segment = self._text[start : end.start()]
                if not segment.strip(" \t\n\r"):
                    return [], False
                return [self._scalar(token.strip(" \t\n\r"), start) for token in segment.split(",")], False
            self._at += 1
            return [], True
        if first == "{":
            self._at += 1
            if self._peek() == "}":
                self._at += 1
                return {}, False
            return {}, True
        word = _WORD.match(self._text, self._at)
        if not word:
            _fail("Invalid value.", self._at)
        at, token = self._at, word.group()
        if token[-1:].isalpha() or token in _LITERALS:
            literal = next((token[:n] for n in range(_LONGEST_LITERAL, 0, -1) if token[:n] in _LITERALS), token)
            self._at += len(literal)
            return self._scalar(literal, at), False
        self._at += len(token)
        return self._scalar(token, at), False

    def _scalar(self, token: str, at: int) -> Any:
        """A literal or a number; `at` is for the error."""
        if token in _LITERALS:
            return _LITERALS[token]
        if not _NUMBER.fullmatch(token):
            _fail("Invalid value.", at)
        if token.lstrip("-").isdigit():
            if token == "-0":
                return 0
            if len(token) <= _MAX_DIGITS:
                return int(token)
        number = float(token)
        if math.isinf(number):
            _fail("Number too big to be stored in double.", at)
        return number

    def _key(self) -> str:
        """An object's key and the colon behind it."""
        if self._peek() != '"':
            _fail("Missing a name for object member.", self._at)
        key = self._string()
        if self._peek() != ":":
            _fail("Missing a colon after a name of object member.", self._at)
        self._at += 1
        return key

    def _more(self, close: str, what: str) -> bool:
        """Whether another element follows in the innermost container; steps over the comma or the bracket."""
        following = self._peek()
        if following not in (",", close) or not following:
            _fail(what, self._at)
        self._at += 1
        return following == ","

    def _string(self) -> str:
        plain = _PLAIN.match(self._text, self._at)
        if plain:
            self._at = plain.end()
            return plain.group(1)
        parts = []
        self._at += 1
        while True:
            chunk = _CHUNK.match(self._text, self._at)
            assert chunk  # it matches the empty string, too
            parts.append(chunk.group())
            self._at = chunk.end()
            stop = self._text[self._at : self._at + 1]
            self._at += 1
            if stop == '"':
                return "".join(parts)
            if stop != "\\":
                what = "Invalid encoding in string." if stop else "Missing a closing quotation mark in string."
                _fail(what, self._at - 1)
            letter = self._text[self._at : self._at + 1]
            self._at += 1
            if letter == "u":
                parts.append(self._unicode())
            elif letter in _ESCAPES:
                parts.append(_ESCAPES[letter])
            else:
                _fail("Invalid escape character in string.", self._at - 2)

    def _unicode(self) -> str:
        high = self._hex()
        if not 0xD800 <= high < 0xE000:
            return chr(high)
        if high < 0xDC00 and self._text[self._at : self._at + 2] == "\\u":
            self._at += 2
            low = self._hex()
            if 0xDC00 <= low < 0xE000:
                return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
        _fail("The surrogate pair in string is invalid.", self._at)

    def _hex(self) -> int:
        digits = _HEX.match(self._text, self._at)
        if not digits:
            _fail("Incorrect hex digit after \\u escape in string.", self._at)
        self._at += 4
        return int(digits.group(), 16)

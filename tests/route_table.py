"""Every URL that a Jupyter Server answers, read from its own routing: for walks that prove what a bearer cannot reach.

Used as a server extension of the server under test: it writes the table into the file that ROUTE_TABLE names.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

try:
    from re._parser import parse  # type: ignore[import-not-found]
except ImportError:  # Python 3.10
    from sre_parse import parse


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "route_table"}]


def _load_jupyter_server_extension(app: Any) -> None:
    pass


async def _start_jupyter_server_extension(app: Any) -> None:
    """All handlers of all extensions are there by now."""
    verbs = ("get", "head", "post", "put", "delete", "patch", "options")
    table = []
    for rule in routes(app.web_app):
        handler = rule.target
        methods = [
            v.upper() for v in verbs if isinstance(handler, type) and v in {k for c in own(handler) for k in vars(c)}
        ]
        table.append({"pattern": rule.matcher.regex.pattern, "handler": name(handler), "methods": methods})
    with open(os.environ["ROUTE_TABLE"] + ".part", "w") as file:
        json.dump(table, file)
    os.rename(os.environ["ROUTE_TABLE"] + ".part", os.environ["ROUTE_TABLE"])


def own(handler: type) -> list[type]:
    """The handler's classes up to tornado's base, whose verbs all answer 405."""
    return [
        c for c in handler.__mro__ if c.__module__ != "tornado.web" or c.__name__ not in ("RequestHandler", "object")
    ]


def name(handler: Any) -> str:
    return f"{getattr(handler, '__module__', '')}.{getattr(handler, '__qualname__', repr(handler))}"


def routes(router: Any) -> Any:
    """The leaves of a tornado router, in order."""
    inner = getattr(router, "default_router", None) or router
    for rule in inner.rules:
        target = rule.target
        if hasattr(target, "rules"):
            yield from routes(target)
        elif hasattr(rule.matcher, "regex"):
            yield rule


def example(pattern: str) -> str:
    """A path that a pattern of the table matches."""
    path = _text(parse(pattern))
    assert re.match(pattern, path), (pattern, path)
    return path


def _text(parsed: Any) -> str:
    """The shortest that matches, but what may be there is there once."""
    return "".join(_part(str(kind), value) for kind, value in parsed)


def _part(kind: str, value: Any) -> str:
    if kind == "LITERAL":
        return chr(value)
    if kind in ("NOT_LITERAL", "ANY"):
        return "x"
    if kind == "IN":
        return _one_of(value)
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, inner = value
        return _text(inner) * max(int(least), 1 if most else 0)
    if kind == "SUBPATTERN":
        return _text(value[-1])
    if kind == "BRANCH":
        return _text(value[1][0])
    assert kind in ("AT", "ASSERT", "ASSERT_NOT"), kind
    return ""


def _one_of(choices: Any) -> str:
    kind, value = str(choices[0][0]), choices[0][1]
    if kind == "NEGATE":
        return "x"
    if kind == "RANGE":
        return chr(value[0])
    return "1" if kind == "CATEGORY" else chr(value)

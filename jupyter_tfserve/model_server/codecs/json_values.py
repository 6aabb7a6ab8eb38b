"""What TF Serving's JSON codecs have in common: the names of types, and bytes as ``{"b64": "..."}``."""

from __future__ import annotations

import base64
from typing import Any, TypeGuard

Json = Any


def kind(value: Json) -> str:
    """RapidJSON's name of a value's type."""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, str):
        return "String"
    if isinstance(value, (int, float)):
        return "Number"
    return "Array" if isinstance(value, list) else "Object" if isinstance(value, dict) else "Null"


def is_b64(value: Json) -> TypeGuard[dict[str, str]]:
    """Whether it is the way to write bytes: an object with only that key, a string."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def from_b64(value: dict[str, str]) -> bytes:
    """Its bytes: standard alphabet, padding may be left out. Raises ValueError."""
    text = value["b64"].rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)

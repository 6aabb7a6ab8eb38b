"""The answer of a model as a picture: an image where its shape looks like one, bars where it looks like scores of
classes, else a table. HTML in, nothing asked; everything that comes from a model is escaped.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import Any

#: Rows and columns of a table, classes with a bar, pictures side by side.
_ROWS, _COLUMNS, _CLASSES, _IMAGES = 20, 12, 10, 8

#: Pixels of a side that a picture has at least, and at most.
_SMALLEST, _LARGEST = 4, 2048

_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


def draw(answer: Any, title: str = "") -> str:
    """The JSON value of an output (``predictions`` or ``outputs``) as HTML."""
    if isinstance(answer, list) and answer and all(isinstance(row, dict) and "b64" not in row for row in answer):
        keys = list(dict.fromkeys(key for row in answer for key in row))
        answer = {key: [row.get(key) for row in answer] for key in keys}
    if isinstance(answer, dict) and "b64" not in answer:
        return "".join(draw(value, str(name)) for name, value in answer.items())
    head = f"<div class='jp-jupyter-tfserve-dim'>{escape(title)}</div>" if title else ""
    return head + (images(answer, title or "answer") or _scores(answer) or _table(answer, title or "answer"))


def images(value: Any, name: str) -> str:
    """Pictures, where the value is or looks like a batch of them; "" else."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and set(item) == {"b64"} for item in value):
        found = [uri for item in value[:_IMAGES] if (uri := _encoded(item["b64"]))]
        return "".join(_image(uri, f"{name} {at}", 0) for at, uri in enumerate(found))
    shape = shape_of(value)
    if shape is None or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        return ""
    if not all(_SMALLEST <= side <= _LARGEST for side in shape[1:3]):
        return ""
    return "".join(_image(_png(picture), f"{name} {at}", shape[2]) for at, picture in enumerate(value[:_IMAGES]))


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of a nested list of numbers; None where its parts differ, or are no numbers."""
    if isinstance(value, bool) or not isinstance(value, list):
        return () if isinstance(value, (bool, int, float)) else None
    inner = {shape_of(item) for item in value}
    if len(inner) != 1 or None in inner:
        return None
    (shape,) = inner
    return None if shape is None else (len(value), *shape)


def _scores(value: Any) -> str:
    """Bars, where each row looks like the probabilities of classes."""
    shape = shape_of(value)
    if shape is None or len(shape) != 2 or not shape[1] >= 2 or not shape[0]:
        return ""
    if not all(all(0 <= score <= 1 for score in row) and abs(sum(row) - 1) < 0.02 for row in value):
        return ""
    return "".join(_bars(row, at if len(value) > 1 else None) for at, row in enumerate(value[:_IMAGES]))


def _bars(row: Sequence[float], number: int | None) -> str:
    best = sorted(range(len(row)), key=lambda index: -row[index])[:_CLASSES]
    shown = sorted(best) if len(row) <= _CLASSES else best
    words = f"{'' if number is None else f'row {number}: '}class {best[0]} with {row[best[0]]:.3g}"
    lines = "".join(
        f"<tr><th scope='row'>{index}</th><td>"
        f"<span class='jp-jupyter-tfserve-bar' style='width:{100 * row[index]:.3g}%'></span></td>"
        f"<td class='jp-jupyter-tfserve-number'>{row[index]:.3g}</td></tr>"
        for index in shown
    )
    left = _left(len(row) - len(shown), "classes")
    return f"<table class='jp-jupyter-tfserve-scores' aria-label='{escape(words, quote=True)}'>{lines}</table>{left}"


def _table(value: Any, name: str) -> str:
    rows = value if isinstance(value, list) else [value]
    lines = []
    for at, row in enumerate(rows[:_ROWS]):
        cells = row if isinstance(row, list) else [row]
        shown = "".join(f"<td>{escape(_cell(cell))}</td>" for cell in cells[:_COLUMNS])
        more = f"<td>… {len(cells) - _COLUMNS} more</td>" if len(cells) > _COLUMNS else ""
        lines.append(f"<tr><th scope='row'>{at}</th>{shown}{more}</tr>")
    left = _left(len(rows) - _ROWS, "rows")
    label = escape(name, quote=True)
    return f"<table class='jp-jupyter-tfserve-table' aria-label='{label}'>{''.join(lines)}</table>{left}"


def _left(count: int, what: str) -> str:
    return f"<div class='jp-jupyter-tfserve-dim'>and {count} more {what}</div>" if count > 0 else ""


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _image(uri: str, name: str, width: int) -> str:
    # Small pictures are shown large enough to be seen.
    grown = f" width='{max(1, round(96 / width)) * width}'" if 0 < width < 96 else ""
    return f"<img class='jp-jupyter-tfserve-image' alt='{escape(name, quote=True)}' src='{uri}'{grown}>"


def _encoded(text: Any) -> str:
    """A data URI for the bytes of a picture file; "" for other bytes."""
    if not isinstance(text, str):
        return ""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return ""
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}" if kind else ""


def _png(picture: Sequence[Sequence[Any]]) -> str:
    """A data URI of a picture: its values are 0 to 1, 0 to 255, or whatever there is between its least and largest."""
    flat = [number for line in picture for pixel in line for number in (pixel if isinstance(pixel, list) else [pixel])]
    finite = [number for number in flat if math.isfinite(number)]
    low, high = min(finite, default=0), max(finite, default=1)
    if low >= 0 and high <= 255:
        # Fractions up to 1; few levels of grey, as in scikit-learn's digits (0 to 16); bytes.
        low, high = 0, 1 if high <= 1 else high if high <= 16 else 255
    scale = 255 / ((high - low) or 1)
    channels = len(picture[0][0]) if isinstance(picture[0][0], list) else 1
    kind = {1: 0, 3: 2, 4: 6}[channels]
    raw = bytes(round(min(255, max(0, (number - low) * scale))) if math.isfinite(number) else 0 for number in flat)
    width = len(picture[0]) * channels
    lines = b"".join(b"\0" + raw[at : at + width] for at in range(0, len(raw), width))
    header = struct.pack(">IIBBBBB", len(picture[0]), len(picture), 8, kind, 0, 0, 0)
    chunks = b"".join(_chunk(*part) for part in ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")))
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

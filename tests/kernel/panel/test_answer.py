"""Answers as pictures; whatever a model says is data."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from typing import Any

import pytest

from jupyter_tfserve.kernel.panel.answer import draw, images, shape_of


def pixels(html: str) -> tuple[int, int, bytes]:
    """Width, height and bytes of the first picture."""
    match = re.search(r"src='data:image/png;base64,([^']+)'", html)
    assert match
    data = base64.b64decode(match[1])
    width, height = struct.unpack(">II", data[16:24])
    at, raw = 8, b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + content) == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        raw += content if kind == b"IDAT" else b""
        at += 12 + length
    return width, height, zlib.decompress(raw)


def test_a_batch_of_grey_pictures() -> None:
    width, height, raw = pixels(draw([[[0.0, 0.5, 1.0, 1.0]] * 5]))
    assert (width, height) == (4, 5)
    assert raw[:5] == bytes([0, 0, 128, 255, 255])


@pytest.mark.parametrize(("channels", "bytes_"), [(1, 16), (3, 48), (4, 64)])
def test_channels(channels: int, bytes_: int) -> None:
    _, _, raw = pixels(draw([[[[200] * channels] * 4] * 4]))
    assert len(raw) == bytes_ + 4 and raw[1] == 200


def test_odd_numbers_in_a_picture() -> None:
    _, _, raw = pixels(draw([[[float("nan"), float("inf"), -1.0, 3.0]] * 4]))
    assert raw[:5] == bytes([0, 0, 0, 0, 255])


def test_scores_are_bars() -> None:
    page = draw([[0.1, 0.7, 0.2]])
    assert page.count("jp-jupyter-tfserve-bar'") == 3
    assert "class 1 with 0.7" in page and "width:70%" in page
    assert draw([[0.0005] * 2000]).count("<tr>") == 10


def test_else_it_is_a_table() -> None:
    assert draw([1.5, 2.5]).count("<tr>") == 2
    assert "and 80 more rows" in draw(list(range(100)))
    assert "… 8 more" in draw([list(range(20))])
    assert "name" in draw([{"name": "a"}, {"name": "b"}])
    assert draw(None)


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "'><img src=x onerror=alert(1)>"])
def test_nothing_of_a_model_is_html(hostile: str) -> None:
    for answer in (hostile, [hostile], {hostile: [1]}, [{hostile: hostile}], [{"b64": hostile}]):
        page = draw(answer)
        assert "<script" not in page and "<img src=x" not in page, page


def test_encoded_pictures() -> None:
    png = base64.b64encode(b"\x89PNG and more").decode()
    assert "data:image/png;base64," in draw([{"b64": png}])
    assert images([{"b64": base64.b64encode(b"nothing").decode()}], "x") == ""


@pytest.mark.parametrize(
    ("value", "shape"),
    [(1, ()), ([1, 2], (2,)), ([[1], [2, 3]], None), (["a"], None), ([], None), ([[[0] * 3] * 2], (1, 2, 3))],
)
def test_shapes(value: Any, shape: Any) -> None:
    assert shape_of(value) == shape

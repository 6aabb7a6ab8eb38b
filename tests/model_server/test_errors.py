"""What an error looks like on the wire."""

from __future__ import annotations

import pytest

from jupyter_tfserve.model_server.errors import MAX_MESSAGE, TRUNCATED, truncated


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("x" * MAX_MESSAGE, "x" * MAX_MESSAGE),
        ("x" * (MAX_MESSAGE + 1), "x" * MAX_MESSAGE + TRUNCATED),
        ("😀" * MAX_MESSAGE, "😀" * (MAX_MESSAGE // 4) + TRUNCATED),  # bytes count, whole characters stay
        ("x" + "😀" * MAX_MESSAGE, "x" + "😀" * (MAX_MESSAGE // 4 - 1) + TRUNCATED),
        ("a\udcffb", "a?b"),  # of a name that was no UTF-8
    ],
)
def test_a_message_is_cut(message: str, kept: str) -> None:
    assert truncated(message) == kept

"""What is in sight of a panel: its widgets, as a front end shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from helpers import PATIENCE, publish
from jupyter_process import JupyterServer


def in_sight(widget: Any) -> Iterator[Any]:
    """A widget and all that it shows."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from in_sight(child)


def text(widget: Any) -> str:
    """All HTML in sight, as text."""
    pages = [one.value for one in in_sight(widget) if isinstance(one, widgets.HTML) and "<style>" not in one.value]
    return unescape(re.sub(r"\s+", " ", re.sub(r"<title>.*?</title>|<[^>]*>", " ", " ".join(pages))))


def field(widget: Any, description: str) -> Any:
    """The field or button with these words."""
    found = [one for one in in_sight(widget) if getattr(one, "description", None) == description]
    assert len(found) == 1, (description, [getattr(one, "description", "") for one in in_sight(widget)])
    return found[0]


def button(widget: Any, tooltip: str) -> Any:
    """The button with this tooltip."""
    found = [one for one in in_sight(widget) if isinstance(one, widgets.Button) and one.tooltip == tooltip]
    assert len(found) == 1, tooltip
    return found[0]


def serve(jupyter: JupyterServer, models: Path, name: str, versions: tuple[int, ...] = (1, 2, 3)) -> str:
    """Serve versions of affine under a name of a test's own."""
    for version in versions:
        publish(models / "affine" / str(version), jupyter.store / name, version)
    client = jupyter.client()
    client.register(name, {"policy": {"all": {}}})
    for version in versions:
        client.model(name, wait=version, timeout=PATIENCE)
    client.close()
    return name

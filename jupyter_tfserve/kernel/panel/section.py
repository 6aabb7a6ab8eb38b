"""What the sections of a panel have in common: they are made once, and then only their values change, so that nothing
loses the focus and nothing is sent to the front end that it has already.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ...api import ModelStatus
from .style import PREFIX

if TYPE_CHECKING:
    from .panel import Panel

#: A field's description is as wide as its text.
NARROW = {"description_width": "initial"}

#: Set while a value is filled in by us: what changes then is no wish of the user's.
_filling = threading.local()


@contextmanager
def filling() -> Iterator[None]:
    """Values that are set inside are the server's."""
    before = getattr(_filling, "on", False)
    _filling.on = True
    try:
        yield
    finally:
        _filling.on = before


def on_user(widget: Any, act: Callable[[Any], None]) -> None:
    """Call `act(value)` when the user changes the value of a widget."""

    def changed(change: Any) -> None:
        if not getattr(_filling, "on", False):
            act(change["new"])

    widget.observe(changed, "value")


def set_options(menu: Any, options: Sequence[Any], value: Any) -> None:
    """The choices of a menu and the one that counts, in one step; one that is not there is the first."""
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    if value not in values:
        value = values[0] if values else None
    with filling():
        if tuple(menu.options) != tuple(options):
            with menu.hold_sync():
                menu.options = options
                menu.value = value
        elif menu.value != value:
            menu.value = value


def set_children(box: Any, children: Sequence[Any]) -> None:
    """The content of a box; nothing happens where it is the same."""
    if tuple(box.children) != tuple(children):
        box.children = tuple(children)


def close_whole(widget: Any) -> None:
    """Close a widget with all that was made for it: what is not closed is kept, in the kernel and in the page."""
    for part in [*getattr(widget, "children", ()), getattr(widget, "style", None), widget.layout]:
        if isinstance(part, widgets.DOMWidget):
            close_whole(part)
        elif isinstance(part, widgets.Widget):
            part.close()
    widget.close()


def html(value: str = "", *classes: str, **more: Any) -> Any:
    """A piece of HTML."""
    made = widgets.HTML(value, **more)
    for name in classes:
        made.add_class(PREFIX + name)
    return made


def dim(text: str) -> str:
    """Less important text, as HTML."""
    return f"<div class='{PREFIX}dim'>{escape(text)}</div>" if text else ""


def problem(message: str, remedy: str = "") -> str:
    """An error and what to do about it, as HTML."""
    more = f"<div>What to do: {escape(remedy)}</div>" if remedy else ""
    return f"<div class='{PREFIX}bad'>{escape(message)}{more}</div>" if message else ""


def dot(state: str) -> str:
    """A state's dot; the word stands beside it."""
    first = state.split(" ")[0]
    kind = {"available": "good", "serving": "good", "running": "good", "failed": "bad", "loading": "busy"}
    kind |= dict.fromkeys(("waiting", "unloading", "starting", "restarting"), "busy")
    return f"<span class='{PREFIX}dot {kind.get(first, '')}' aria-hidden='true'></span>"


class Section:
    """A part of the panel that can be chosen. `box` is what is shown; `fill` is called with the model's status whenever
    it has changed, and when the section comes into sight.
    """

    title = ""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.box = widgets.VBox()

    def fill(self, status: ModelStatus) -> None:
        """Show what is so now."""

    def hide(self) -> None:
        """It is not in sight any more."""

    def button(self, text: str, act: Callable[[], Any], tooltip: str = "", **more: Any) -> Any:
        """A button whose work is done off the kernel's main thread, and whose error is shown."""
        made = widgets.Button(
            description=text,
            tooltip=tooltip or text,
            layout=widgets.Layout(width="auto", align_self="flex-start"),
            **more,
        )
        made.on_click(lambda _: self.panel.do(act))
        return made

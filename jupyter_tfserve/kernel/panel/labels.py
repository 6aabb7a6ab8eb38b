"""The labels of a model, and the menu that moves them: what is going to happen is said before it does."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from ...api import ModelStatus
from ..errors import KernelError
from .section import NARROW, Section, dim, html, on_user, set_options
from .style import PREFIX
from .words import available, label_effect


class Labels(Section):
    """A label, a version, the effect, and the button."""

    title = "Labels"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._status: ModelStatus | None = None
        self._now = html()
        self._label = widgets.Combobox(
            style=NARROW,
            description="Label",
            placeholder="stable",
            tooltip="One of the labels, or a new one",
            continuous_update=True,
            layout=widgets.Layout(width="18em"),
        )
        self._version = widgets.Dropdown(style=NARROW, description="to version", layout=widgets.Layout(width="15em"))
        self._effect = html()
        self._apply = self.button("Apply", self._move, "Move the label")
        row = widgets.HBox([self._label, self._version, self._apply])
        row.layout.flex_flow = "row wrap"
        on_user(self._label, lambda _: self._say())
        on_user(self._version, lambda _: self._say())
        self.box.children = (self._now, row, self._effect)

    def fill(self, status: ModelStatus) -> None:
        """See `Section`."""
        self._status = status
        labels = sorted(status["labels"].items())
        where = "".join(f"<span class='{PREFIX}chip'>{escape(label)} → {number}</span>" for label, number in labels)
        self._now.value = where or dim(
            "No label yet. A label is a name for a version that callers can use: /labels/stable."
        )
        names = [label for label, _ in labels] or ["stable", "canary"]
        if list(self._label.options) != names:
            self._label.options = names
        versions = [(str(number), number) for number in available(status)]
        set_options(self._version, [*versions, ("no version", 0)], self._version.value)
        self._say()

    def _say(self) -> None:
        if self._status is not None:
            effect = label_effect(self._status, self._label.value.strip(), self._version.value or None)
            self._effect.value = f"<div role='status'>{escape(effect)}</div>" if effect else ""

    def _move(self) -> None:
        label = self._label.value.strip()
        if not label:
            raise KernelError("A label has a name.", "For example: stable")
        self.panel.move_label(label, self._version.value or None)

"""How requests are merged: the knobs, which act at once, and what is merged and why not."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from ...api import Batching as BatchingStatus
from ...api import ModelStatus
from ..errors import KernelError
from .section import Section, dim, filling, html, on_user

#: By what the API calls them: what the panel does, and what it means.
_NUMBERS = {
    "max_batch_size": ("Max batch size", "Rows of one run"),
    "batch_timeout_micros": ("Window (µs)", "How long a run waits for more; 0: it takes what is there"),
    "num_batch_threads": ("Threads", "Runs of one signature at the same time"),
    "max_enqueued_batches": ("Queue length", "Full batches that may wait; what comes on top is refused"),
}


class Batching(Section):
    """The knobs. A field that is emptied goes back to its default."""

    title = "Batching"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._filled: BatchingStatus | None = None
        self._mode = widgets.Dropdown(
            description="Mode",
            options=["on", "auto", "off"],
            tooltip="on: requests are merged; auto: where rows were seen to be independent; off: none",
            style={"description_width": "9em"},
            layout=widgets.Layout(width="18em"),
        )
        on_user(self._mode, lambda value: self._change("mode", value))
        self._fields = {key: self._field(key, name, what) for key, (name, what) in _NUMBERS.items()}
        self._fields["allowed_batch_sizes"] = self._field(
            "allowed_batch_sizes", "Allowed sizes", "A run is padded to the next of these: 2, 4, 8"
        )
        self._pad = widgets.Checkbox(
            description="Pad variable lengths",
            tooltip="Requests of different lengths are padded to the longest and merged",
            indent=False,
        )
        on_user(self._pad, lambda value: self._change("pad_variable_length_inputs", value))
        self._why = html()
        grid = widgets.HBox([self._mode, *self._fields.values(), self._pad])
        grid.layout.flex_flow = "row wrap"
        self.box.children = (grid, self._why)

    def fill(self, status: ModelStatus) -> None:
        """See `Section`."""
        batching = status["batching"]
        if batching != self._filled:
            self._filled = batching
            self._show()
        lines = [
            f"{name}: {'not merged: ' + why if why else 'merged'}"
            for name, why in sorted(
                batching["signatures"].items(), key=lambda item: (item[0] != "serving_default", item)
            )
        ]
        self._why.value = "".join(map(dim, lines)) + dim("It acts at once. An empty field means the default.")

    def _show(self) -> None:
        """What is so, also where something else was typed that was refused."""
        batching: Any = self._filled
        with filling():
            self._mode.value = batching["mode"]
            for key, field in self._fields.items():
                value = batching[key]
                field.value = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            self._pad.value = batching["pad_variable_length_inputs"]

    def _field(self, key: str, name: str, what: str) -> Any:
        field = widgets.Text(
            description=name,
            placeholder="default",
            tooltip=what,
            continuous_update=False,
            style={"description_width": "9em"},
            layout=widgets.Layout(width="18em"),
        )
        on_user(field, lambda text: self._change(key, text))
        return field

    def _change(self, key: str, value: Any) -> None:
        def change() -> None:
            try:
                self.panel.set_batching(**{key: _parsed(key, value)})
            except BaseException:
                self._show()
                raise

        self.panel.do(change)


def _parsed(key: str, value: Any) -> Any:
    """What the API takes. Raises KernelError for what is no number."""
    if not isinstance(value, str) or key == "mode":
        return value
    words = value.replace(",", " ").split()
    if not words:
        return None
    if not all(word.isdigit() for word in words) or (len(words) > 1 and key != "allowed_batch_sizes"):
        raise KernelError(f"{value!r} is no whole number.", "An empty field goes back to the default.")
    numbers = [int(word) for word in words]
    return numbers if key == "allowed_batch_sizes" else numbers[0]

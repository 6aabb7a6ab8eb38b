"""The versions of a model: their states, who made them, buttons that load and unload them, and the policy."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from ...api import ModelStatus, Policy, VersionStatus
from ..errors import KernelError
from .section import NARROW, Section, close_whole, dim, dot, filling, html, on_user, problem, set_children
from .style import PREFIX
from .words import (
    IDLE,
    active,
    available,
    load_effect,
    moment,
    origin_words,
    size,
    unload_effect,
    version_state,
)

#: Rows; of more versions the newest are shown, and those that answer or failed.
_ROWS = 12


class _Row:
    """One version: its text, and a button that does what its state allows."""

    def __init__(self, section: Versions, number: int) -> None:
        self._panel = section.panel
        self._number = number
        self._text = html()
        self._act: Callable[[], None] = self._load
        self._button = section.button("Load", lambda: self._act())
        self.box = widgets.HBox([self._text, self._button])
        self.box.add_class(PREFIX + "row")

    def fill(self, status: ModelStatus, version: VersionStatus | None) -> None:
        state = "not loaded" if version is None else version_state(version)
        self._text.value = _row(status, self._number, version, state)
        if state in ("available", "loading", "waiting"):
            self._offer("Unload", f"Unload version {self._number}", self._unload, active(status) != [self._number])
        elif state == "failed":
            self._offer("Load again", f"Load version {self._number} again", self._panel.try_again)
        else:
            self._offer("Load", f"Load version {self._number}", self._load, state != "unloading")

    def _offer(self, words: str, tooltip: str, act: Callable[[], None], may: bool = True) -> None:
        self._act = act
        self._button.description, self._button.tooltip, self._button.disabled = words, tooltip, not may

    def _load(self) -> None:
        self._panel.load(self._number)

    def _unload(self) -> None:
        self._panel.unload(self._number)


class Versions(Section):
    """The rows, highest first, and below them which are served."""

    title = "Versions"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._rows: dict[int, _Row] = {}
        self._shown: tuple[int, ...] = ()
        self._more = html()
        self._list = widgets.VBox()
        self._kind = widgets.Dropdown(
            style=NARROW,
            description="Serve",
            options=[("the newest", "latest"), ("all", "all"), ("only these", "specific")],
            tooltip="Which versions are served",
            layout=widgets.Layout(width="15em"),
        )
        self._count = widgets.BoundedIntText(
            style=NARROW, description="How many", min=1, max=1000, value=1, layout=widgets.Layout(width="11em")
        )
        self._which = widgets.Text(
            style=NARROW,
            description="Versions",
            placeholder="4, 3",
            continuous_update=False,
            layout=widgets.Layout(width="18em"),
        )
        self._apply = self.button("Apply", self._set_policy, "Serve these versions")
        self._stop = self.button("Stop serving", lambda: panel.stop_serving(), "Unload all versions; the files stay")
        self._policy: Policy | None = None
        self._choice = widgets.HBox([self._kind, self._count, self._apply])
        self._choice.layout.flex_flow = "row wrap"
        on_user(self._kind, lambda _: self._show_field())
        self.box.children = (self._list, self._more, self._choice, self._stop)

    def fill(self, status: ModelStatus) -> None:
        """See `Section`."""
        known = {version["version"]: version for version in status["versions"]}
        numbers = sorted({*known, *status["on_disk"]}, reverse=True)
        shown = [
            n for at, n in enumerate(numbers) if at < _ROWS or (n in known and version_state(known[n]) != "not loaded")
        ]
        shown = shown[: 2 * _ROWS]
        for number in shown:
            if number not in self._rows:
                self._rows[number] = _Row(self, number)
            self._rows[number].fill(status, known.get(number))
        if tuple(shown) != self._shown:
            self._shown = tuple(shown)
            set_children(self._list, [self._rows[number].box for number in shown])
            for number in self._rows.keys() - set(shown):
                close_whole(self._rows.pop(number).box)
        left = len(numbers) - len(shown)
        self._more.value = dim(f"and {left} more, not loaded: \u201conly these\u201d loads them." if left else "")
        self._stop.tooltip = f"{status['name']} is not served any more; its files stay"
        if status["policy"] != self._policy:
            self._policy = status["policy"]
            with filling():
                self._kind.value = next(iter(self._policy), "latest")
                if "latest" in self._policy:
                    self._count.value = max(1, self._policy["latest"]["num_versions"])
                named = self._policy["specific"]["versions"] if "specific" in self._policy else active(status)
                self._which.value = ", ".join(map(str, sorted(named, reverse=True)))
            self._show_field()

    def _show_field(self) -> None:
        field = {"latest": [self._count], "all": [], "specific": [self._which]}[self._kind.value]
        set_children(self._choice, [self._kind, *field, self._apply])

    def _set_policy(self) -> None:
        if self._kind.value == "all":
            self.panel.set_policy({"all": {}})
        elif self._kind.value == "latest":
            self.panel.set_policy({"latest": {"num_versions": self._count.value}})
        else:
            words = self._which.value.replace(",", " ").split()
            if not words or not all(word.isdigit() for word in words):
                raise KernelError(f"{self._which.value!r} is no list of versions.", "For example: 4, 3")
            self.panel.set_policy({"specific": {"versions": [int(word) for word in words]}})


def _row(status: ModelStatus, number: int, version: VersionStatus | None, state: str) -> str:
    labels = "".join(
        f"<span class='{PREFIX}chip'>{escape(label)}</span>"
        for label, which in sorted(status["labels"].items())
        if which == number
    )
    facts, error = [], ""
    if version is not None:
        made = origin_words(version["origin"])
        facts = [f"made by {made}" if made else ""]
        facts.append(f"since {moment(version['since'])}" if state in ("available", "loading", "failed") else "")
        if state == "available":
            load = version["load_seconds"]
            facts.append(f"loaded in {load:.2g} s" if load is not None else "")
            facts.append(IDLE if version["idle"] else "")
        facts += [size(version["memory"]), ", ".join(version["devices"])]
        error = problem(version["error_message"], version["error_remedy"])
    answering = available(status)
    if state == "available" and len(answering) > 1:
        effect = unload_effect(status, number)
        effect = f"Unloaded: {effect}." if effect else ""
    elif state == "available":
        effect = "The only one that is loaded: \u201cStop serving\u201d below unloads it."
    elif state == "not loaded":
        effect = f"Loaded: {load_effect(status, number)}."
    else:
        effect = ""
    return (
        f"<div class='{PREFIX}version'><span><b>{number}</b> {labels}</span>"
        f"<span>{dot(state)}{state}</span><span class='{PREFIX}dim'>{escape(' · '.join(filter(None, facts)))}</span>"
        + (f"<span class='wide'>{dim(effect)}</span>" if effect else "")
        + (f"<span class='wide'>{error}</span>" if error else "")
        + "</div>"
    )

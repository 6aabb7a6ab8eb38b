"""Where a model is served: the devices that there are, and the menu that moves it. It stays served while it moves."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from ...api import Device as DeviceStatus
from ...api import DeviceList, Event, ModelStatus
from .section import NARROW, Section, dim, dot, filling, html, problem, set_options
from .style import PREFIX
from .words import size


class Device(Section):
    """The devices, asked for when the section comes into sight and when a model has moved; the menu; the progress."""

    title = "Device"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._now = ""  # the model and the device that the menu was filled for
        self._list = html()
        self._menu = widgets.Dropdown(
            description="Device", style=NARROW, options=["auto"], layout=widgets.Layout(width="26em")
        )
        self._move = self.button("Move", lambda: panel.move(self._menu.value), "It stays served while it moves")
        self._progress = html()
        row = widgets.HBox([self._menu, self._move])
        row.layout.flex_flow = "row wrap"
        self.box.children = (self._list, row, self._progress)
        self._placed: tuple[str, str, str] = ("", "", "")
        self._devices: list[DeviceStatus] = []

    def fill(self, status: ModelStatus) -> None:
        """See `Section`."""
        placement = status["placement"]
        there = ", ".join(sorted({device for version in status["versions"] for device in version["devices"]}))
        if placement["moving_to"]:
            if not self._progress.value:
                self._say(f"moving to {placement['moving_to']} …")
        elif placement["error"]:
            self._progress.value = f"<div role='status'>{problem(f'Stayed on {there}: ' + placement['error'])}</div>"
        elif not self._progress.value or "…" in self._progress.value:
            self._progress.value = ""
        self._move.disabled = bool(placement["moving_to"])
        placed = (status["name"], placement["device"], there)
        if placed != self._placed:
            self._placed = placed
            if self._placed[0] != self._now:
                self._now = self._placed[0]
                self._progress.value = ""
            with filling():
                self._fill_menu(placement["device"])
            self.panel.do(self.fetch)

    def hide(self) -> None:
        """See `Section`: when it comes into sight again, the devices are asked for."""
        self._placed = ("", "", "")

    def moved(self, event: Event) -> None:
        """A step of a move of the model."""
        device = event["device"]
        words = {
            "loading": f"loading on {device} …",
            "switched": f"switched to {device}",
            "draining": "draining where it was …",
            "done": f"on {device}",
        }
        if event["state"] in words:
            self._say(words[event["state"]])
        else:
            self._progress.value = f"<div role='status'>{problem('Stayed where it was: ' + event['error'])}</div>"

    def fetch(self) -> None:
        """Ask for the devices."""
        listed: DeviceList = self.panel.endpoint.client.devices()
        self._devices = listed["devices"]
        notice = dim(listed["notice"])
        self._list.value = f"<div>{''.join(map(_device, self._devices))}{notice}</div>"
        with filling():
            self._fill_menu(self._placed[1])

    def _fill_menu(self, asked: str) -> None:
        options = [("auto: where there is memory free", "auto")]
        options += [(f"{d['id']}: {d['name']}", d["id"]) for d in self._devices if d["usable"]]
        if asked not in [value for _, value in options]:
            options.append((asked, asked))
        set_options(self._menu, options, asked)

    def _say(self, words: str) -> None:
        busy = "loading" if "…" in words else "available"
        self._progress.value = f"<div role='status'>{dot(busy)}{escape(words)}</div>"


def _device(device: DeviceStatus) -> str:
    """One device in a row."""
    facts = []
    total, used = device["memory_total"], device["memory_used"]
    if total is not None and used is not None:
        facts.append(f"{size(max(0, total - used))} free of {size(total)}")
    elif total is not None:
        facts.append(size(total))
    if device["load"] is not None:
        facts.append(f"load {device['load']:.0%}")
    if device["models"]:
        facts.append("serves " + ", ".join(device["models"]))
    state = "available" if device["usable"] else "failed"
    return (
        f"<div class='{PREFIX}device'><span>{dot(state)}<b>{escape(device['id'])}</b> {escape(device['name'])}</span>"
        f"<span class='{PREFIX}dim'>{escape(' · '.join(facts))}</span>"
        + problem("" if device["usable"] else device["reason"], device["remedy"])
        + "</div>"
    )

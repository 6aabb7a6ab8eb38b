"""Who may predict with the model: the shares, and the form for a new one."""

from __future__ import annotations

import time
from html import escape
from typing import Any

import ipywidgets as widgets

from ...api import ModelStatus, Share, ShareKind
from ..errors import KernelError
from .section import NARROW, Section, close_whole, dim, html, on_user, set_children, set_options
from .style import PREFIX
from .words import moment, share_what, share_who

_HOUR = 3600.0
_TIMES = {
    "an hour": _HOUR,
    "a day": 24 * _HOUR,
    "a week": 168 * _HOUR,
    "a month": 720 * _HOUR,
    "for good": None,
}


_WHO: dict[ShareKind, str] = {
    "key": "whoever has a key",
    "link": "whoever opens a link",
    "user": "a user of the Hub",
}


class _Row:
    """One share."""

    def __init__(self, section: Shares, share: Share) -> None:
        self.text = html()
        revoke = section.button(
            "Revoke", lambda: section.panel.revoke(share["id"]), f"Revoke the share with {share_who(share)}"
        )
        self.box = widgets.HBox([self.text, revoke])
        self.box.add_class(PREFIX + "row")

    def fill(self, share: Share) -> None:
        ends = f"until {moment(share['expires'])}" if share["expires"] is not None else "until revoked"
        if share["expires"] is not None and share["expires"] <= time.time():
            ends = "expired"
        used = f"last used {moment(share['last_used'])}" if share["last_used"] else "not used yet"
        facts = dim(" · ".join(filter(None, [share_what(share), ends, used, share["note"]])))
        self.text.value = f"<div><b>{escape(share_who(share))}</b>{facts}</div>"


class Shares(Section):
    """The list, fetched whenever the section comes into sight, and the form."""

    title = "Shares"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._rows: dict[str, _Row] = {}
        self._list = widgets.VBox()
        self._none = html()
        self._kind = widgets.Dropdown(
            style=NARROW, description="Share with", options=[], layout=widgets.Layout(width="20em")
        )
        self._user = widgets.Text(style=NARROW, description="User", layout=widgets.Layout(width="16em"))
        self._time = widgets.Dropdown(
            style=NARROW, description="for", options=list(_TIMES), value="a week", layout=widgets.Layout(width="14em")
        )
        self._share = self.button("Share", self._make, "Let them predict with this model, and nothing else")
        self._made = html()
        self._form = widgets.HBox()
        self._form.layout.flex_flow = "row wrap"
        on_user(self._kind, lambda _: self._show_form())
        self.box.children = (self._list, self._none, self._form, self._made)
        self._model = ""

    def fill(self, status: ModelStatus) -> None:
        """See `Section`."""
        if self._model != status["name"]:
            self._model = status["name"]
            self._made.value = ""
        self.panel.do(self.fetch)

    def fetch(self) -> None:
        """Ask for the shares and show those of the model."""
        if self.panel.endpoint.kind != "jupyter-server":
            self._none.value = dim("Sharing goes through a Jupyter Server, and this kernel has none.")
            set_children(self._form, [])
            return
        found = self.panel.endpoint.client.shares()
        set_options(self._kind, [(_WHO[kind], kind) for kind in found["kinds"]], self._kind.value)
        self._show_form()
        shares = [s for s in found["shares"] if self._model in s["models"]]
        shares.sort(key=lambda share: share["created"])
        for share in shares:
            if share["id"] not in self._rows:
                self._rows[share["id"]] = _Row(self, share)
            self._rows[share["id"]].fill(share)
        kept = [share["id"] for share in shares]
        set_children(self._list, [self._rows[share_id].box for share_id in kept])
        for share_id in self._rows.keys() - set(kept):
            close_whole(self._rows.pop(share_id).box)
        self._none.value = "" if shares else dim(f"{self._model} is shared with nobody.")
        if not found["kinds"]:
            self._none.value += dim("Access keys are turned off on this server (TFServe.allow_access_keys).")

    def _show_form(self) -> None:
        field = [self._user] if self._kind.value == "user" else []
        set_children(self._form, [self._kind, *field, self._time, self._share] if self._kind.options else [])

    def _make(self) -> None:
        user = self._user.value.strip() if self._kind.value == "user" else ""
        if self._kind.value == "user" and not user:
            raise KernelError("A user has a name.", "Write the name of a user of the Hub.")
        made = self.panel.share(kind=self._kind.value, with_user=user, expires=_TIMES[self._time.value])
        self._made.value = made._html()

"""The calls of a model, to be copied."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from ...api import ModelStatus
from ..errors import KernelError
from .calls import calls, place
from .section import NARROW, Section, html, on_user, set_options
from .style import PREFIX

#: Runs in the browser: the text of the box below goes to the clipboard; where the page may not write there (no TLS) it
#: is selected, for the keys that copy. Nothing in it comes from outside.
_COPY = (
    "var t=this.parentNode.nextElementSibling,s=this.nextElementSibling,d=function(w){s.textContent=w};"
    "var r=function(){getSelection().selectAllChildren(t);d('selected: copy it with the keyboard')};"
    "if(navigator.clipboard){navigator.clipboard.writeText(t.textContent).then(function(){d('copied')},r)}else{r()}"
)


class Calls(Section):
    """A language, and the call."""

    title = "Calls"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._calls: dict[str, str] = {}
        self._language = widgets.Dropdown(style=NARROW, description="Language", layout=widgets.Layout(width="18em"))
        self._text = html()
        on_user(self._language, lambda _: self._show())
        self.box.children = (self._language, self._text)

    def fill(self, status: ModelStatus) -> None:
        """See `Section`."""
        self.panel.need_example()
        try:
            body = self.panel.request()
        except KernelError:
            body = {}
        self._calls = calls(self.panel.address, status["name"], place(self.panel.which), body, status["signatures"])
        set_options(self._language, list(self._calls), self._language.value)
        self._show()

    def _show(self) -> None:
        call = self._calls.get(self._language.value or "", "")
        copy = (
            f"<button type='button' class='{PREFIX}copy' onclick=\"{_COPY}\">Copy</button> <span role='status'></span>"
        )
        shown = (
            f"<div>{copy}</div><pre class='{PREFIX}code' tabindex='0' aria-label='Call'>{escape(call)}</pre>"
            if call
            else "The model server does not run: there is no address."
        )
        if self._text.value != shown:
            self._text.value = shown

"""The model server's log: its end, and what comes while it is followed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from html import escape
from typing import Any

import ipywidgets as widgets

from ...api import ModelStatus
from ...client import LogStream, TFServeError
from ...log_tail import LocalLog
from ..errors import plain_errors
from .section import Section, html, on_user
from .style import PREFIX

#: Lines that are shown.
_LINES = 200

#: Seconds between two updates, however much is written.
_PACE = 0.25


class Log(Section):
    """The last lines. It follows only while it is in sight."""

    title = "Log"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._follower: _Follower | None = None
        self.follow = widgets.ToggleButton(
            description="Follow",
            value=True,
            tooltip="Show what is written as it is written",
            layout=widgets.Layout(width="auto", align_self="flex-start"),
        )
        self._text = html(tabbable=True, layout=widgets.Layout(max_height="22em", overflow="auto", width="auto"))
        self._text.add_class(PREFIX + "logbox")
        on_user(self.follow, lambda _: self._change())
        self.box.children = (self.follow, self._text)

    def fill(self, status: ModelStatus) -> None:
        """See `Section`."""
        self._change()

    def hide(self) -> None:
        """See `Section`."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def show(self, text: str) -> None:
        """Show a text as the log."""
        shown = escape(text) or "The model server has written no log yet."
        self._text.value = f"<pre class='{PREFIX}log' role='log' aria-live='off' aria-label='Log'>{shown}</pre>"

    def _change(self) -> None:
        if not self.follow.value:
            self.hide()
            if not self._text.value:
                self.panel.do(lambda: self.show(self.panel.endpoint.logs(_LINES)))
        elif self._follower is None or not self._follower.is_alive():
            self._follower = _Follower(self)
            self._follower.start()


class _Follower(threading.Thread):
    """Reads the log until it is closed."""

    def __init__(self, log: Log) -> None:
        super().__init__(name="tfserve-panel-log", daemon=True)
        self._log = log
        self._ended = threading.Event()
        self._stream: LogStream | LocalLog | None = None

    def close(self) -> None:
        self._ended.set()
        if self._stream is not None:
            self._stream.close()

    def run(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TFServeError), plain_errors():
                self._read()
            self._ended.wait(1.0)

    def _read(self) -> None:
        lines: deque[str] = deque(maxlen=_LINES)
        rest, shown = "", 0.0
        with self._log.panel.endpoint.follow_log(_LINES) as self._stream:
            for part in self._stream:
                if self._ended.is_set():
                    return
                *whole, rest = (rest + part).split("\n")
                lines.extend(whole)
                time.sleep(max(0.0, shown + _PACE - time.monotonic()))
                shown = time.monotonic()
                self._log.show("\n".join(lines))

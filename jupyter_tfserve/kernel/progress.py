"""One line that says how far a registration is: replaced by the outcome in front ends, overwritten in terminals. Used
by `magic.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display

from .outcomes import Said

#: IPython leaves it without types.
show: Callable[..., Any] = display


class ProgressLine:
    """Use as a context: what is said last disappears if the context is left by an error, whose own message follows."""

    def __init__(self, shell: InteractiveShell) -> None:
        # A kernel's front end can replace what was displayed; a terminal can only write over its line.
        self._in_terminal = not hasattr(shell, "kernel")
        self._handle: Any = None
        self._said = ""

    def __enter__(self) -> ProgressLine:
        return self

    def say(self, text: str) -> None:
        """Show a line in place of the one before."""
        if text == self._said:
            return
        if self._in_terminal:
            if sys.stderr.isatty():
                sys.stderr.write("\r" + text.ljust(len(self._said)))
                sys.stderr.flush()
        elif self._handle is None:
            self._handle = show(Said(text), display_id=True)
        else:
            self._handle.update(Said(text))
        self._said = text

    def become(self, outcome: Any) -> None:
        """Show the outcome in place of the line."""
        if self._handle is None:
            self._clear()
            show(outcome)
        else:
            self._handle.update(outcome)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            if self._handle is not None:
                self._handle.update(Said(f"{self._said} stopped."))
            self._clear()

    def _clear(self) -> None:
        if self._in_terminal and self._said and sys.stderr.isatty():
            sys.stderr.write("\r" + " " * len(self._said) + "\r")
            sys.stderr.flush()

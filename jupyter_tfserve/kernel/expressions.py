"""What stands in a `%tfserve` line, as values: names that may be interpolated, expressions, objects and paths. Used by
`magic.py`.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Mapping
from typing import Any

from ..client import TFServeError
from .arguments import VERBS, UsageError
from .errors import KernelError


def expand(word: str, scope: Mapping[str, Any]) -> str:
    """``{expression}`` and ``$variable`` as IPython's other magics write them, and quotes: a name as text."""
    expression = re.fullmatch(r"\{(.+)\}|\$([A-Za-z_]\w*)", word)
    if expression:
        return str(evaluate(expression[1] or expression[2], scope, "the line"))
    if len(word) > 1 and word[0] in "'\"" and word[-1] == word[0]:
        return word[1:-1]
    return word


def expanded(word: str | None, scope: Mapping[str, Any]) -> str | None:
    """The same for an option that may be missing."""
    return None if word is None else expand(word, scope)


def evaluate(expression: str, scope: Mapping[str, Any], what: str) -> Any:
    """The value of an expression. Plain errors for slips; what the user's own code raises is not ours to hide."""
    try:
        code = compile(expression.strip(), f"<{what}>", "eval")
    except (SyntaxError, ValueError) as error:
        raise UsageError(
            f"{what}: {expression!r} is not a Python expression.", "Write it as it would stand in Python."
        ) from error
    try:
        return eval(code, dict(scope))  # %tfserve's very purpose is to take the user's own expressions
    except NameError as error:
        if error.name not in code.co_names:  # it happened deeper, in the user's code: its traceback tells more
            raise
        raise KernelError(
            f"There is no variable {error.name!r} in this kernel.", _similar(error.name, scope)
        ) from error


def _similar(name: str, scope: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, [key for key in scope if not key.startswith("_")], 1)
    return f"Did you mean {close[0]!r}?" if close else "Has the cell that defines it been executed?"


def find_object(written: str, scope: Mapping[str, Any], name: str) -> Any:
    """An expression's value, or a path that needs no quotes."""
    if re.match(r"(\.{0,2}/|~|\.{1,2}$)", written):
        return written
    try:
        ast.parse(written, mode="eval")
        return evaluate(written, scope, "OBJECT")
    except Exception as error:
        # `models/digits` is a division too: it means the folder where that exists and the division fails.
        if os.path.exists(os.path.expanduser(written)):
            return written
        slip = difflib.get_close_matches(name, VERBS, 1)
        if isinstance(error, TFServeError) and slip:
            raise KernelError(
                error.message, f"{error.remedy} (Or did you mean the verb `%tfserve {slip[0]}`?)"
            ) from error
        if isinstance(error, SyntaxError):
            raise UsageError(
                f"{written!r} is neither a Python expression nor a folder.", VERBS["register"].usage
            ) from error
        raise

"""Reads and edits models.config while no model server runs, which otherwise is the one to do it: a model that brings
the model server down must be removable. Text proto is looked at as far as its braces go; no protobuf needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..store import Store, write_atomically

_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[A-Za-z_][A-Za-z0-9_]*|[{}]|[^\s]""")


def read(store: Store) -> str:
    """What models.config says; "" where there is none."""
    try:
        return store.config.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def remove(store: Store, name: str, files: bool) -> bool:
    """Serve a model no longer and, with `files`, delete its folder in the store; False if there was nothing to do."""
    with store.locked():
        text = read(store)
        entries = [text[start:end] for found, start, end in _entries(text) if found == name]
        if entries:
            store.set_stopped(name, "model_config_list {\n  " + entries[0] + "\n}\n")
            write_atomically(store.config, without(text, name))
    stored = files and name in store.names()
    if stored:
        store.remove(name)
    return bool(entries) or stored


def names(text: str) -> list[str]:
    """The models that a ModelServerConfig lists."""
    return [name for name, _, _ in _entries(text)]


def without(text: str, name: str) -> str:
    """The same ModelServerConfig, less one model; all else keeps every character."""
    for found, start, end in reversed(list(_entries(text))):
        if found == name:
            text = text[:start].rstrip(" \t") + text[end:].removeprefix("\n")
    return text


def _entries(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of each ``config {...}`` in ``model_config_list {...}``."""
    path: list[str] = []
    before: list[str] = []
    word, word_start, start, name = "", 0, 0, ""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token.startswith("#") or token == ":":
            continue
        if token == "{":
            path.append(word)
            if path == ["model_config_list", "config"]:
                start, name = word_start, ""
        elif token == "}" and path:
            if path == ["model_config_list", "config"]:
                yield name, start, match.end()
            path.pop()
        elif token[0] in "\"'" and path == ["model_config_list", "config"] and before == ["name"]:
            name = token[1:-1]
        before = [token]
        if token[0].isalpha() or token[0] == "_":
            word, word_start = token, match.start()

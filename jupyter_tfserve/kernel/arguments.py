"""The words of a `%tfserve` line: verbs, names, Python expressions and options. Used by `magic.py`; evaluates nothing.

An expression may hold blanks, quotes and brackets (`digits x[:3, 0] --label stable`), which shell-like splitting would
break: words end at blanks outside of quotes and brackets, and stay as they were written.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import KernelError


class UsageError(KernelError):
    """The line is not what the magic understands; the remedy is how to write it."""


@dataclass(frozen=True)
class Verb:
    """What may follow a verb."""

    usage: str
    flags: frozenset[str] = frozenset()  #: options without a value
    values: frozenset[str] = frozenset()  #: options with one; each may come several times
    most: int | None = None  #: words that may stand before the options, None for any number
    behind: frozenset[str] = frozenset()  #: words that may stand behind the options as well


_REGISTER = frozenset(
    {"--version", "--label", "--signature", "--example", "--keep", "--device", "--replicas", "--memory-limit"}
)

VERBS: Mapping[str, Verb] = {
    "status": Verb("%tfserve status [NAME]", most=1),
    "panel": Verb("%tfserve panel [NAME]", most=1),
    "predict": Verb(
        "%tfserve predict NAME EXPR [--version N | --label L] [--signature S]",
        values=frozenset({"--version", "--label", "--signature"}),
    ),
    "label": Verb("%tfserve label NAME LABEL=VERSION ...   (LABEL= takes it away)"),
    "versions": Verb(
        "%tfserve versions NAME [--latest N | --all | --only V ...]",
        flags=frozenset({"--all"}),
        values=frozenset({"--latest", "--only"}),
        most=1,
    ),
    "batching": Verb(
        "%tfserve batching NAME [--max-batch-size N] [--timeout MICROS] [--threads N] [--queue N] "
        "[--allowed-sizes N,N,...] [on | auto | off]",
        values=frozenset({"--max-batch-size", "--timeout", "--threads", "--queue", "--allowed-sizes"}),
        most=2,
        behind=frozenset({"on", "auto", "off"}),
    ),
    "device": Verb(
        "%tfserve device NAME [cpu | gpu:0 | auto] [--replicas N] [--memory-limit 4G]",
        values=frozenset({"--replicas", "--memory-limit"}),
        most=2,
    ),
    "devices": Verb("%tfserve devices", most=0),
    "unload": Verb("%tfserve unload NAME", most=1),
    "remove": Verb("%tfserve remove NAME", most=1),
    "start": Verb("%tfserve start", most=0),
    "stop": Verb("%tfserve stop", most=0),
    "restart": Verb("%tfserve restart", most=0),
    "logs": Verb("%tfserve logs [--lines N] [--process ID]", values=frozenset({"--lines", "--process"}), most=0),
    "share": Verb(
        "%tfserve share NAME [--with USER | --link | --key] [--expires 7d] [--rate 100/s] [--concurrency N] "
        "[--version N | --label L] [--note TEXT] [--notebook FILE]",
        flags=frozenset({"--link", "--key"}),
        values=frozenset(
            {"--with", "--expires", "--rate", "--concurrency", "--version", "--label", "--note", "--notebook"}
        ),
        most=1,
    ),
    "shares": Verb("%tfserve shares", most=0),
    "unshare": Verb("%tfserve unshare ID", most=1),
    "config": Verb("%tfserve config   (%%tfserve config sets it)", most=0),
    "register": Verb(
        "%tfserve [register] NAME OBJECT [--version N] [--label L] [--signature NAME[=EXPR]] [--example EXPR] "
        "[--keep N] [--device D] [--replicas N] [--memory-limit 4G]",
        values=_REGISTER,
    ),
}


@dataclass(frozen=True)
class Line:
    """A line, taken apart. Everything is text as it was written."""

    verb: str  #: "" for none
    words: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]  #: by name, in order; a flag has ("",)

    def rest(self, start: int) -> str:
        """The words from `start` on, as one expression."""
        return " ".join(self.words[start:])

    def last(self, option: str) -> str | None:
        """The value of an option; the last one if it was given several times, None if it was not."""
        return self.options[option][-1] if option in self.options else None


def parse(text: str, is_name: bool = True) -> Line:
    """Take a line apart. A first word that is no verb begins the short form of `register`, if `is_name` allows it.

    Raises UsageError.
    """
    words = split(text)
    verb = "" if not words else words[0]
    if verb in VERBS:
        words = words[1:]
    elif words and (is_name and len(words) > 1):
        verb = "register"
    elif words:
        raise unknown(verb)
    known = VERBS.get(verb, Verb("%tfserve"))
    plain: list[str] = []
    options: dict[str, list[str]] = {}
    at = 0
    while at < len(words):
        word, at = words[at], at + 1
        if not _is_option(word):
            if options and word not in known.behind:
                raise UsageError(f"{word!r} stands behind the options.", known.usage)
            plain.append(word)
            continue
        name, equals, value = word.partition("=")
        if name not in known.flags | known.values:
            close = difflib.get_close_matches(name, known.flags | known.values, 1)
            raise UsageError(
                f"There is no option {name} here." + (f" Did you mean {close[0]}?" if close else ""), known.usage
            )
        given = [value] if equals else []
        while at < len(words) and not _is_option(words[at]) and name in known.values:
            if words[at] in known.behind:
                break
            given.append(words[at])
            at += 1
        if name in known.values and not given:
            raise UsageError(f"{name} needs a value.", known.usage)
        if name == "--only":
            options.setdefault(name, []).extend(given)
        else:
            options.setdefault(name, []).append(" ".join(given))
    if known.most is not None and len(plain) > known.most:
        raise UsageError(f"{plain[known.most]!r} is too much.", known.usage)
    return Line(verb, tuple(plain), {name: tuple(values) for name, values in options.items()})


def unknown(word: str) -> UsageError:
    """The error for a first word that is neither a verb nor followed by an object."""
    close = difflib.get_close_matches(word, VERBS, 1)
    hint = f" Did you mean `%tfserve {close[0]}`?" if close else ""
    return UsageError(
        f"{word!r} is neither a verb nor a model that is served.{hint}",
        f"Verbs: {', '.join(VERBS)}. To serve an object: `%tfserve {word} OBJECT`.",
    )


def whole_number(text: str | None, option: str, least: int = 0) -> int | None:
    """An option's value as a number; None stays None. Raises UsageError."""
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise UsageError(f"{option} takes a whole number, not {text!r}.", f"For example: {option} {max(least, 2)}")
    return int(text)


def split(text: str) -> list[str]:
    """Words as they were written; blanks inside quotes and brackets do not end a word."""
    words: list[str] = []
    word = ""
    closing: list[str] = []
    quote = ""
    at = 0
    while at < len(text):
        char = text[at]
        if quote:
            if char == "\\" and at + 1 < len(text):
                word += char + text[at + 1]
                at += 2
                continue
            if text.startswith(quote, at):
                word, at, quote = word + quote, at + len(quote), ""
                continue
        elif char in "'\"":
            quote = char * 3 if text.startswith(char * 3, at) else char
            word, at = word + quote, at + len(quote)
            continue
        elif char in "([{":
            closing.append({"(": ")", "[": "]", "{": "}"}[char])
        elif closing and char == closing[-1]:
            closing.pop()
        elif char.isspace() and not closing:
            if word:
                words.append(word)
            word, at = "", at + 1
            continue
        word, at = word + char, at + 1
    if quote or closing:
        raise UsageError(
            f"{quote or closing[-1]} is missing at the end of: {text.strip()}", "Close quotes and brackets."
        )
    return [*words, word] if word else words


def _is_option(word: str) -> bool:
    """`--name` or `--name=value`; `--1` and `-x` belong to an expression."""
    return len(word) > 2 and word.startswith("--") and word[2].isalpha()


def names(words: Sequence[str], verb: str, count: int = 1) -> None:
    """Raise UsageError unless there are at least `count` words."""
    if len(words) < count:
        raise UsageError(f"`%tfserve {verb}` needs {'a name' if count == 1 else 'more'}.", VERBS[verb].usage)

"""What the panel says about what is served, and what a change is going to do. The words are those of docs/panel.md,
which the sidebar shares. Nothing here asks anybody, and nothing is HTML yet.
"""

from __future__ import annotations

import os.path
import time
from collections.abc import Collection, Iterable, Mapping

from ...api import ModelStatus, Origin, Policy, Share, VersionStatus

#: States of a version that answers or is about to.
_ACTIVE = ("START", "LOADING", "AVAILABLE")

#: Of a version that has left memory because nobody asks it.
IDLE = "idle: the next request loads it again"

_STATES = {
    "START": "waiting",
    "LOADING": "loading",
    "AVAILABLE": "available",
    "UNLOADING": "unloading",
    "END": "not loaded",
}


def available(status: ModelStatus) -> list[int]:
    """The versions that answer, highest first."""
    return [version["version"] for version in status["versions"] if version["state"] == "AVAILABLE"]


def active(status: ModelStatus) -> list[int]:
    """The versions that answer or are on their way, highest first."""
    return [version["version"] for version in status["versions"] if version["state"] in _ACTIVE]


def version_state(version: VersionStatus) -> str:
    """A version's state in a word."""
    return "failed" if version["state"] == "END" and version["error_message"] else _STATES[version["state"]]


def model_state(status: ModelStatus) -> str:
    """A model's state in some words."""
    answering, loading = available(status), [v for v in active(status) if v not in available(status)]
    words = [f"serving version {answering[0]}"] if answering else []
    words += [f"loading version {loading[0]}"] if loading else []
    if words:
        return ", ".join(words)
    failed = status["error"] or any(version_state(version) == "failed" for version in status["versions"])
    return "failed" if failed else "not served"


def label_effect(status: ModelStatus, label: str, number: int | None) -> str:
    """What moving a label is going to do; "" for no label."""
    if not label:
        return ""
    before = status["labels"].get(label)
    where = f"requests to /labels/{label}"
    if before == number:
        return f"{label} is at {number} already." if number is not None else f"There is no label {label}."
    if number is None:
        return f"{label} is taken away from {before}; {where} are refused from then on."
    if before is None:
        return f"{label} → {number}; {where} are answered from then on."
    return f"{label}: {before} → {number}; {where} go to version {number} at once."


def load_effect(status: ModelStatus, number: int) -> str:
    """What loading a version is going to do."""
    served = sorted({*active(status), number}, reverse=True)
    many = "just the versions" if len(served) > 1 else "just the version"
    words = f"from then on {many} {_and(map(str, served))} {'are' if len(served) > 1 else 'is'} served"
    if number == served[0]:
        words += f", and requests without a version go to {number}"
    return words


def unload_effect(status: ModelStatus, number: int) -> str:
    """What unloading a version is going to do; "" for one whose absence nobody notices."""
    left = [version for version in available(status) if version != number]
    words = []
    if left and number > max(left):
        words.append(f"requests without a version go to version {max(left)} then")
    labels = sorted(label for label, version in status["labels"].items() if version == number)
    if labels:
        words.append(f"requests to {_and('/labels/' + label for label in labels)} are refused then")
    return ", and ".join(words)


def policy_words(policy: Policy) -> str:
    """Which versions a policy wants."""
    if "all" in policy:
        return "all"
    if "specific" in policy:
        return "only " + _and(str(version) for version in sorted(policy["specific"]["versions"], reverse=True))
    count = policy["latest"]["num_versions"] if "latest" in policy else 1
    return "the newest" if count <= 1 else f"the newest {count}"


def origin_words(origin: Origin | None) -> str:
    """Who made a version; "" where it is not known."""
    if origin is None:
        return ""
    notebook = os.path.basename(origin["notebook"])
    where = notebook + (f", cell {origin['cell']}" if origin["cell"] is not None else "")
    return " · ".join(filter(None, [where.removeprefix(", "), origin["user"]]))


def moment(when: float, now: float | None = None) -> str:
    """A time as short as it can be: today's without the day."""
    there, here = time.localtime(when), time.localtime(now)
    return time.strftime("%H:%M" if there[:3] == here[:3] else "%Y-%m-%d %H:%M", there)


def size(count: int | None) -> str:
    """Bytes, in the unit that suits; "" for unknown."""
    if count is None:
        return ""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}"


def milliseconds(value: float | None) -> str:
    """A latency, in the unit that suits; "–" for none."""
    if value is None:
        return "–"
    return f"{value * 1000:.0f} µs" if value < 1 else f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def share_who(share: Share) -> str:
    """For whom a share is."""
    return {"key": "whoever has the key", "link": "whoever opens the link", "user": f"user {share['user']}"}[
        share["kind"]
    ]


def share_what(share: Share) -> str:
    """What a share lets them ask."""
    which: Mapping[str, Collection[object]] = {"version": share["versions"], "label": share["labels"]}
    words = [f"{kind} {_and(map(str, values))}" for kind, values in which.items() if values]
    limits = [f"{share['rate']:g} requests/s"] if share["rate"] else []
    limits += [f"{share['concurrency']} at once"] if share["concurrency"] else []
    return ", ".join([_and(share["models"]), *words, *limits])


def _and(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last

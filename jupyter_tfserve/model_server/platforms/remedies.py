"""What to do about a SavedModel that TensorFlow does not load, told from what TensorFlow says. For those who read the
error in a panel, where nobody is at hand to ask.
"""

from __future__ import annotations

import re

_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"Op type not registered '(?P<op>[^']+)'",
        "The op {op} is not part of TensorFlow: export the model without it, or serve it where the package that brings "
        "it is installed.",
    ),
    (
        r"MetaGraphDef associated with tags",
        "Export it for serving (tag 'serve'), or name its tags: flag --saved_model_tags.",
    ),
    (
        r"(?i)cannot parse file|checksum does not match|not an sstable|bad magic number|data ?loss|truncated|corrupted",
        "The files are damaged or not complete: copy or export the version again, as a new version.",
    ),
    (
        r"(?i)matching files|not a valid checkpoint|variables\.(index|data)|No such file or directory",
        "Files are missing: copy the whole version folder, with variables/ and assets/, as a new version.",
    ),
    (
        r"(?i)\bOOM\b|out of memory|failed to allocate|cannot allocate|bad_alloc",
        "There is not enough memory: unload a version or a model, then load this one again.",
    ),
)


def remedy(message: str) -> str:
    """What to do about a failed load, "" where nothing can be said."""
    for pattern, text in _REMEDIES:
        if found := re.search(pattern, message):
            return text.format(**found.groupdict())
    return ""

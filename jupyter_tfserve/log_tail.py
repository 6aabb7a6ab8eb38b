"""The end of a log file, and then what is written to it. The Jupyter Server follows the model server's log with it, and
so does a kernel that owns a model server.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

#: Bytes of one part; whoever lags behind gets the next ones when it asks again.
PART = 64 * 1024

#: Seconds between two looks at a log to which nothing is written.
LOOK = 0.2

#: Bytes of a line, as a rule: where the last lines are looked for.
_LINE = 400


class LogTail:
    """Follows a log over its rotation, which is a rename and a new file. Not for two threads at once."""

    def __init__(self, path: Path, lines: int) -> None:
        """To begin with the last `lines` of what is there."""
        self._path = path
        self._begin = b""
        self._file = self._open()
        if self._file is not None:
            size = self._file.seek(0, os.SEEK_END)
            start = self._file.seek(max(0, size - _LINE * lines))
            found = self._file.read(size - start).splitlines(keepends=True)
            self._begin = b"".join(found[-lines:] if lines else [])

    def read(self) -> bytes:
        """The next part; b"" while nothing new is there. Raises OSError if the log cannot be read."""
        if self._begin:
            part, self._begin = self._begin[:PART], self._begin[PART:]
            return part
        self._file = self._file or self._open()
        if self._file is None:
            return b""
        part = self._file.read(PART)
        if not part and self._is_replaced(self._file):
            part = self._file.read(PART)  # written between our read and the rename
            if not part:
                self.close()
                return self.read()
        return part

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> FileIO | None:
        with contextlib.suppress(FileNotFoundError):
            return open(self._path, "rb", buffering=0)
        return None

    def _is_replaced(self, file: FileIO) -> bool:
        """Whether the path names another file now, or this one was cut."""
        ours = os.fstat(file.fileno())
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False  # between the rename and the new file
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) or ours.st_size < file.tell()


class LocalLog:
    """The same as text, for a thread that waits for what comes; another one may close it."""

    def __init__(self, path: Path, lines: int) -> None:
        self._tail = LogTail(path, lines)
        self._ended = threading.Event()

    def __enter__(self) -> LocalLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._tail.close()

    def __iter__(self) -> Iterator[str]:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        while not self._ended.is_set():
            part = self._tail.read()
            if part:
                yield decode(part)
            else:
                self._ended.wait(LOOK)

    def close(self) -> None:
        """End it."""
        self._ended.set()

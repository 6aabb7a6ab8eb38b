"""The end of a log, and what comes after it."""

from __future__ import annotations

import os
from pathlib import Path

from jupyter_tfserve.log_tail import PART, LogTail


def everything(tail: LogTail) -> str:
    parts = []
    while part := tail.read():
        assert len(part) <= PART
        parts.append(part)
    return b"".join(parts).decode()


def test_it_begins_with_the_last_lines_and_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    tail = LogTail(log, 2)
    assert everything(tail) == "line 98\nline 99\n"
    with open(log, "a") as file:
        file.write("half a l")
        file.flush()
        assert everything(tail) == "half a l"
        file.write("ine\n" + "x" * 3 * PART)
    assert everything(tail) == "ine\n" + "x" * 3 * PART
    tail.close()


def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tail = LogTail(log, 10)
    assert everything(tail) == ""
    log.write_text("first\n")
    assert everything(tail) == "first\n"
    tail.close()


def test_rotation_loses_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old 1\n")
    tail = LogTail(log, 10)
    assert everything(tail) == "old 1\n"
    with open(log, "a") as file:
        file.write("old 2\n")
    os.replace(log, tmp_path / "log.1")
    assert everything(tail) == "old 2\n"  # the new one is not there yet
    with open(tmp_path / "log.1", "a") as file:
        file.write("old 3\n")
    log.write_text("new 1\n")
    assert everything(tail) == "old 3\nnew 1\n"
    tail.close()


def test_a_log_that_was_cut(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a long line that is there\n")
    tail = LogTail(log, 10)
    everything(tail)
    log.write_text("short\n")
    assert everything(tail) == "short\n"
    tail.close()


def test_no_lines_of_the_past(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("past\n")
    tail = LogTail(log, 0)
    assert everything(tail) == ""
    tail.close()

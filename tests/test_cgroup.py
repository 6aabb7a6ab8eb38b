"""Limits and out-of-memory kills, in real control groups where this user may make one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from control_group import ControlGroup

from jupyter_tfserve.cgroup import OutOfMemoryKills, memory_limit, memory_used

MIB = 2**20


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    with ControlGroup.make() as made:
        yield made


def test_without_a_limit_it_is_the_machine() -> None:
    assert 0 < memory_limit() <= psutil.virtual_memory().total
    assert 0 < memory_used() < memory_limit()


def test_a_group_s_limit_and_use(group: ControlGroup) -> None:
    group.limit(512 * MIB)
    code = "print(flush=True); input(); x = b'1' * (200 * 2**20); print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdout.readline()
        group.add(child.pid)
        assert memory_limit(child.pid) == 512 * MIB
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        assert 200 * MIB < memory_used(child.pid) < 300 * MIB
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()


def test_a_kill_for_want_of_memory_shows(group: ControlGroup) -> None:
    group.limit(64 * MIB)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()\nx = []\nwhile True: x.append(b'1' * 2**20)"], stdin=subprocess.PIPE
    )
    assert child.stdin is not None
    try:
        group.add(child.pid)
        kills = OutOfMemoryKills(child.pid)
        assert kills.known
        assert not kills.happened()
        child.stdin.write(b"\n")
        child.stdin.close()
        assert child.wait(60) == -9
        assert kills.happened()
        kills.look()  # one look that came between the kill and the end does not hide it
        assert kills.happened()
    finally:
        child.kill()
        child.wait()

"""What the machine, or the container that a process is in, gives it: how much memory, and whether the kernel took a
process's life for want of it. Linux's control groups, both versions; elsewhere the machine counts.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def memory_limit(pid: int | str = "self") -> int:
    """Bytes that a process may use together with what shares its control group: the lowest limit on its way up, at
    most what the machine has.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _memory_groups(pid):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit():
                limits.append(int(text))
    return min(limits)


def memory_used(pid: int | str = "self") -> int:
    """Bytes in use of what `memory_limit` says, by all who share it; what the kernel can take back at once (file
    caches) is left out.
    """
    used = 0
    limit = memory_limit(pid)
    for folder in _memory_groups(pid):
        for limited, usage, prefix in (
            ("memory.max", "memory.current", ""),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        ):
            if _read(folder / limited).strip() == str(limit):
                stat = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines())
                cached = sum(int(stat.get(f"{prefix}{name}_file", 0)) for name in ("inactive", "active"))
                used = max(used, int(_read(folder / usage) or 0) - cached)
    if used:
        return used
    machine = {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in _read(Path("/proc/meminfo")).splitlines())
        if name in ("MemTotal", "MemAvailable")
    }
    return machine.get("MemTotal", 0) - machine.get("MemAvailable", 0)


def resident(pid: int | str = "self") -> int:
    """Bytes that a process has in memory; 0 if that is not known."""
    pages = _read(Path(f"/proc/{pid}/statm")).split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


class OutOfMemoryKills:
    """Tells whether the kernel has just killed for want of memory in the control group of a process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # Of two looks the older one counts: the later one may have come between the kill and the end it led to.
        self._seen: deque[dict[Path, int]] = deque(maxlen=2)
        self.look()

    def look(self) -> None:
        """Note the counters; to be called now and then while the process lives."""
        files = [
            folder / name for folder in _memory_groups(self._pid) for name in ("memory.events", "memory.oom_control")
        ]
        self._seen.append(_counters([*files, Path("/proc/vmstat")]))

    @property
    def known(self) -> bool:
        """Whether there are such counters here."""
        return bool(self._seen[0])

    def happened(self) -> bool:
        """Whether one has risen since the look before the last one."""
        before = self._seen[0]
        return any(count > before[file] for file, count in _counters(list(before)).items())


def _memory_groups(pid: int | str) -> list[Path]:
    """The folders of the control groups that count a process's memory, its own first."""
    for line in _read(Path(f"/proc/{pid}/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            mounted = _ROOT / "memory"
        elif not controllers and (_ROOT / "cgroup.controllers").exists():
            mounted = _ROOT
        else:
            continue
        own = mounted / path.lstrip("/")
        if not own.is_dir():  # a container sees its own group as the root, and may be told the name outside
            own = mounted
        return [own, *(parent for parent in own.parents if parent == mounted or mounted in parent.parents)]
    return []


def _counters(files: list[Path]) -> dict[Path, int]:
    """``oom_kill`` of each file that has it."""
    found = {}
    for file in files:
        for line in _read(file).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                found[file] = int(count)
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""

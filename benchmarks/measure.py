"""One interleaved run: starts the line-up for a group of works, takes turns, ends it. Called by `__main__.py`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .line_up import Contender, Running, Settings
from .load import Run, Shape, run, shape_for
from .names import FLOOR
from .servers import Endpoint, NotStarted, Watch, ask
from .works import Work

#: Where settings are tried.
_TUNED_AT = 32


@dataclass
class Results:
    """What was measured, JSON-safe: every run, every start, and what could not be measured."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    servers: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """How it is measured."""

    contenders: list[Contender]
    in_flight: tuple[int, ...]
    protocols: tuple[str, ...]
    seconds: int
    rounds: int
    tune: bool
    more_shapes: bool


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


class _Entry:
    """A target that answered rightly: what is sent to it, and what it then says."""

    def __init__(self, running: Running, endpoint: Endpoint, work: Work, body: bytes, answer: bytes) -> None:
        self.running, self.endpoint, self.work, self.body, self.answer = running, endpoint, work, body, answer

    def load(self, shape: Shape, seconds: int) -> tuple[Run, dict[str, float]]:
        """A run; and for one request the CPU of the server's tree, and what others took of our cores meanwhile."""
        self.running.server.wait_until_idle()
        watch, before = Watch(), self.running.server.cpu_seconds()
        seen = run(self.endpoint, self.body, self.answer, shape, seconds)
        used = self.running.server.cpu_seconds() - before
        others = watch.others(used + seen.generator * seconds)
        self.running.server.wait_until_idle()
        return seen, {"cpu_us": 1e6 * used / max(1, seen.requests), "others": round(others, 3)}


class Session:
    """The servers of one group of works."""

    def __init__(self, plan: Plan, works: dict[str, Work], folder: Path, results: Results) -> None:
        self._plan, self._works, self._folder, self._results = plan, works, folder, results
        self._running: list[Running] = []
        self._entries: list[_Entry] = []
        self._floor: Running | None = None
        self._count = 0

    def start(self) -> None:
        """One after the other; each must answer rightly."""
        for contender in self._plan.contenders:
            names = contender.works_of(tuple(self._works))
            if not names:
                continue
            for group in [(name,) for name in names] if contender.one_work else [names]:
                try:
                    self._start(contender, group)
                except NotStarted as error:
                    title = contender.targets[0].name if contender.targets else FLOOR
                    self._skip(f"{title} ({', '.join(group)}): {error}")

    def _skip(self, why: str) -> None:
        say(f"left out: {why}")
        self._results.skipped.append(why)

    def _start(self, contender: Contender, group: tuple[str, ...]) -> None:
        if why := contender.missing():
            raise NotStarted(why)
        if contender.key == "floor":
            self._floor = self._launch(contender, group, Settings())
            return
        settings = contender.settings[0]
        if self._plan.tune and len(contender.settings) > 1:
            settings = self._tune(contender, group)
        running = self._launch(contender, group, settings)
        title = contender.targets[0].name
        began = self._enter(running, group)
        if not any(entry.running is running for entry in self._entries):
            running.server.stop()
            self._running.remove(running)
            return
        say(f"{title} answers after {began:.1f} s{f' ({settings})' if settings.max_batch > 1 else ''}")
        running.record = {
            "server": title,
            "protocols": sorted({_protocol(entry.endpoint) for entry in self._entries if entry.running is running}),
            "works": list(group),
            "start_s": round(began, 3),
            "settings": str(settings),
        }

    def _launch(self, contender: Contender, group: tuple[str, ...], settings: Settings) -> Running:
        self._count += 1
        running = Running(contender, group, self._folder / "models", self._folder / f"{self._count}", settings)
        self._running.append(running)
        return running

    def _enter(self, running: Running, group: tuple[str, ...]) -> float:
        """Check every address with every work; returns the seconds until the first one was right."""
        began = 0.0
        for name in group:
            work = self._works[name]
            for target, endpoint in running.endpoints(name):
                if _protocol(endpoint) not in self._plan.protocols:
                    continue
                body = endpoint.api.encode(work)
                if not began:
                    try:
                        began = running.server.wait_for(endpoint, body, work)
                    except NotStarted:
                        running.server.stop()
                        self._running.remove(running)
                        raise
                try:
                    answer, why = ask(endpoint, body, work)
                except OSError as error:
                    answer, why = b"", str(error)
                if why:
                    self._skip(f"{target.name} ({name}, {endpoint.api.name}): {why}")
                else:
                    self._entries.append(_Entry(running, endpoint, work, body, answer))
        return began

    def _tune(self, contender: Contender, group: tuple[str, ...]) -> Settings:
        """Try the settings, one second each at 32 in flight; the one with the highest rates is kept."""
        best, best_rate = contender.settings[0], 0.0
        for settings in contender.settings:
            running = self._launch(contender, group, settings)
            known = len(self._entries)
            try:
                self._enter(running, group)
                rate = 1.0
                for entry in self._entries[known:]:
                    seen, _ = entry.load(shape_for(entry.endpoint, _TUNED_AT), 1)
                    rate *= max(1.0, seen.rate)
                if rate > best_rate:
                    best, best_rate = settings, rate
            finally:
                del self._entries[known:]
                running.server.stop()
                if running in self._running:
                    self._running.remove(running)
        return best

    def measure(self) -> None:
        """The rounds. In each, for each work and number in flight, all servers take their turn."""
        for entry in self._entries:
            entry.load(shape_for(entry.endpoint, 8), 1)  # warm-up
        for turn in range(self._plan.rounds):
            for work in self._works.values():
                for protocol in self._plan.protocols:
                    for in_flight in self._plan.in_flight:
                        if in_flight > work.most_in_flight:
                            continue
                        self._turn(turn, work, protocol, in_flight)
                if self._floor is not None:
                    self._measure_floor(turn, work, self._floor)
            say(f"{', '.join(self._works)}: round {turn + 1} of {self._plan.rounds} done")
        for running in self._running:
            if running.record:  # after the load: what it grew to
                anonymous, whole = running.server.memory_mb()
                running.record |= {"anonymous_mb": round(anonymous, 1), "memory_mb": round(whole, 1)}
                self._results.servers.append(running.record)

    def _turn(self, turn: int, work: Work, protocol: str, in_flight: int) -> None:
        for entry in self._entries:
            if entry.work is not work or _protocol(entry.endpoint) != protocol:
                continue
            shapes = [shape_for(entry.endpoint, in_flight)]
            if protocol == "gRPC" and in_flight == _TUNED_AT and self._plan.more_shapes:
                shapes += [Shape(in_flight, 1), Shape(1, in_flight)]
            for shape in shapes:
                seen, more = entry.load(shape, self._plan.seconds)
                if seen.failed:
                    say(f"{entry.endpoint.target}, {protocol} {work.name}, {shape}: {seen.failed} failed: {seen.error}")
                self._results.runs.append(
                    {
                        "target": entry.endpoint.target, "protocol": protocol, "work": work.name,
                        "in_flight": in_flight, "shape": str(shape), "usual": shape == shapes[0], "round": turn,
                        **more, **seen.as_dict(),
                    }
                )  # fmt: skip

    def _measure_floor(self, turn: int, work: Work, floor: Running) -> None:
        pipe_in, pipe_out = floor.server.process.stdin, floor.server.process.stdout
        assert pipe_in is not None and pipe_out is not None
        for in_flight in self._plan.in_flight:
            if in_flight > work.most_in_flight:
                continue
            pipe_in.write(f"{work.name} {in_flight} {self._plan.seconds}\n".encode())
            pipe_in.flush()
            line = pipe_out.readline()
            if not line:
                self._skip(f"{FLOOR}: {floor.server.said()}")
                self._floor = None
                return
            told = json.loads(line)
            self._results.runs.append(
                {
                    "target": FLOOR, "protocol": "", "work": work.name, "in_flight": in_flight,
                    "shape": f"{in_flight} rows a call", "usual": True, "round": turn, "cpu_us": 1e6 / told["rate"],
                    "failed": 0, **told,
                }
            )  # fmt: skip

    def stop(self) -> None:
        """End all servers: at once, as some take their time."""
        for running in self._running:
            running.server.terminate()
        for running in self._running:
            running.server.stop()
        self._running.clear()


def _protocol(endpoint: Endpoint) -> str:
    return "gRPC" if endpoint.api.is_grpc else "REST"

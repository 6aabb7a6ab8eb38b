"""The project's own measurements: `make bench`, or `.bench-venv/bin/python -m benchmarks --help`.

Starts every server of `line_up.py`, one after the other, bound to the first core; checks its answers; then loads them
in turns from the last core, in rounds, and prints medians, ratios and what is promised. `README.md` beside this file
says how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from . import report, works
from .line_up import contenders
from .measure import Plan, Results, Session, say
from .servers import CORES, allow_open_files

FOLDER = Path(__file__).parent / "results"
_PACKAGES = "tensorflow mosec mlserver litserve fastapi uvicorn granian tornado grpcio pygrpc-native uvloop".split()
_QUICK_WORKS = ("half_plus_two", "mlp")


def main() -> int:
    options = _arguments()
    plan = _plan(options)
    for program in ("wrk", "h2load"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is missing: benchmarks/setup says how to get it.")
    allow_open_files(8192)
    results = Results()
    # Quick: the works share a server process. Else each has its own, whose memory and start are then its own too.
    groups = [tuple(options.work)] if options.quick else [(name,) for name in options.work]
    began = time.perf_counter()
    try:
        for group in groups:
            with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
                folder = Path(scratch)
                session = Session(plan, works.make(folder / "models", group), folder, results)
                try:
                    session.start()
                    session.measure()
                finally:
                    session.stop()
    except KeyboardInterrupt:
        say("interrupted: what was measured so far follows")
    except BaseException:
        say("failed: what was measured so far follows")
        raise
    finally:
        told = {"machine": _machine(), "plan": _told(options, began), **vars(results)}
        FOLDER.mkdir(exist_ok=True)
        file = options.json or FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
        file.write_text(json.dumps(told, indent=1))
        print(report.text(told))
        say(f"every run: {file}")
    if options.publish:
        report.publish(told)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    names = list(dict.fromkeys(contender.key for contender in contenders()))
    _list(parser, "--only", names, "these contenders")
    _list(parser, "--without", names, "all but these")
    _list(parser, "--work", list(works.NAMES), "these works")
    _list(parser, "--protocol", ["REST", "gRPC"], "only REST or only gRPC")
    parser.add_argument("--connections", type=_numbers, help="requests in flight (default: 1,8,32,128)")
    parser.add_argument("--seconds", type=int, help="of each run (default: 2)")
    parser.add_argument("--rounds", type=int, help="of which the median counts (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one round of one second, two works: a first look")
    parser.add_argument("--json", type=Path, help="where the runs are kept (default: a new file in benchmarks/results)")
    parser.add_argument(
        "--publish", action="store_true", help="write the result into docs/performance.md and its charts"
    )
    options = parser.parse_args()
    options.work = tuple(options.work or (_QUICK_WORKS if options.quick else works.NAMES))
    options.connections = options.connections or ((1, 32) if options.quick else (1, 8, 32, 128))
    options.seconds = options.seconds or (1 if options.quick else 2)
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def _list(parser: argparse.ArgumentParser, flag: str, choices: list[str], what: str) -> None:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [one for one in chosen if one not in choices]:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(choices)}")
        return chosen

    parser.add_argument(flag, type=parse, default=[], help=f"{what}, separated by commas: {', '.join(choices)}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _plan(options: argparse.Namespace) -> Plan:
    chosen = [
        contender
        for contender in contenders()
        if (not options.only or contender.key in options.only)
        and contender.key not in options.without
        and (contender.in_quick or not options.quick)
    ]
    return Plan(
        chosen,
        options.connections,
        tuple(options.protocol) or ("REST", "gRPC"),
        options.seconds,
        options.rounds,
        tune=not options.quick,
        more_shapes=not options.quick,
    )


def _machine() -> dict[str, Any]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return {
        "when": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": len(CORES) or os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "load_average": [round(one, 1) for one in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": found,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _told(options: argparse.Namespace, began: float) -> dict[str, Any]:
    keys = ("only", "without", "work", "protocol", "connections", "seconds", "rounds", "quick")
    return {key: getattr(options, key) for key in keys} | {"took_s": round(time.perf_counter() - began)}


if __name__ == "__main__":
    sys.exit(main())

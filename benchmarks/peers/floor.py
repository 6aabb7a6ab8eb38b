"""The floor: how many rows a second the session callable itself does, without any server. A line
`WORK ROWS SECONDS` on standard input is answered by one of JSON; the rows of a call are what a server could merge.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from . import common
from .session import Callable


def main() -> None:
    models = {work: Callable(common.MODELS / work / "1") for work in common.WORKS}
    common.freeze()
    for line in sys.stdin:
        work, rows, seconds = line.split()
        model = models[work]
        x = np.concatenate([np.load(common.MODELS / f"{work}.npy", allow_pickle=True)] * int(rows))
        for _ in range(3):
            model(x)
        spans, start = [], time.perf_counter()
        now = start
        while now - start < float(seconds):
            model(x)
            now, before = time.perf_counter(), now
            spans.append(now - before)
        spans.sort()
        told = {
            "rate": len(spans) * int(rows) / (now - start),
            "p50_us": 1e6 * spans[len(spans) // 2],
            "p99_us": 1e6 * spans[len(spans) * 99 // 100],
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()

"""What a loading version does to the one that serves: ``python -m benchmarks.loading``. The same paced requests go to
`tfserve` with everything in one process, and with a process for each version, while versions of a large graph are
published one after the other; latencies with and without a load under way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

_BODY = b'{"instances": [1.0, 2.0]}'

#: Makes a SavedModel that takes about a second to load: many ops, as an image model has, and variables.
_MODEL = """
import sys, numpy as np, tensorflow as tf
layers = int(sys.argv[2])
module = tf.Module()
module.weights = [tf.Variable(np.eye(64, dtype=np.float32)) for _ in range(layers)]
def run(x):
    y = tf.tile(x[:, None], [1, 64])
    for weight in module.weights:
        y = tf.nn.relu(tf.matmul(y, weight))
    return {"y": x + 0.0 * tf.reduce_sum(y, 1)}
spec = [tf.TensorSpec([None], tf.float32, name="x")]
signatures = {"serving_default": tf.function(run, input_signature=spec).get_concrete_function()}
tf.saved_model.save(module, sys.argv[1], signatures=signatures)
"""


class Server:
    """A `tfserve` on a folder of versions."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.port = 8790
        self._log = open(folder / "log", "wb")  # noqa: SIM115 (as long as the server)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_tfserve.model_server"),
                *(f"--model_base_path={folder / 'model'}", "--model_name=model", "--port=0"),
                *(f"--rest_api_port={self.port}", "--file_system_poll_wait_seconds=1", "--auto_batching", *flags),
            ],
            stderr=self._log,
        )
        self.wait(1)

    def wait(self, version: int) -> None:
        """Until a version answers."""
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models/model") as reply:
                    states = json.load(reply)["model_version_status"]
                if any(v["version"] == str(version) and v["state"] == "AVAILABLE" for v in states):
                    return
            except OSError:
                pass
            time.sleep(0.05)

    def close(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._log.close()


class Paced:
    """Requests at a fixed rate, whatever the answers take; each is timed from when it was due."""

    def __init__(self, port: int, rate: float, connections: int) -> None:
        self.taken: list[tuple[float, float]] = []  #: when it was due, and seconds
        self._port, self._rate, self._connections = port, rate, connections
        self.running = True

    async def run(self) -> None:
        """Until `running` is false."""
        began = time.monotonic()
        await asyncio.gather(*(self._one(place, began) for place in range(self._connections)))

    async def _one(self, place: int, began: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"POST /v1/models/model:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(_BODY)}\r\n\r\n".encode()
        number = place
        while self.running:
            due = began + number / self._rate
            number += self._connections
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            writer.write(head + _BODY)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            size = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(size)
            self.taken.append((due, time.monotonic() - due))
        writer.close()


async def measure(folder: Path, source: Path, flags: tuple[str, ...], loads: int, rate: float) -> dict[str, float]:
    """Latencies in ms while nothing loads, and while something does."""
    shutil.rmtree(folder / "model", ignore_errors=True)
    shutil.copytree(source, folder / "model" / "1")
    server = Server(folder, *flags)
    paced = Paced(server.port, rate, 8)
    asking = asyncio.create_task(paced.run())
    spans = []
    try:
        await asyncio.sleep(3)  # executors are built, the caches are warm
        quiet_since = time.monotonic()
        for version in range(2, 2 + loads):
            await asyncio.sleep(4)
            staged = folder / "model" / f".{version}"
            shutil.copytree(source, staged)
            begin = time.monotonic()
            staged.rename(folder / "model" / str(version))
            await asyncio.to_thread(server.wait, version)
            spans.append((begin, time.monotonic()))
            await asyncio.sleep(1)  # the old one is unloaded, and its process ends
    finally:
        paced.running = False
        await asking
        server.close()
    loading = [took for due, took in paced.taken if any(a <= due <= b for a, b in spans)]
    settling = [(b, b + 1.0) for _, b in spans]
    quiet = [
        took
        for due, took in paced.taken
        if due > quiet_since and not any(a <= due <= b for a, b in [*spans, *settling])
    ]
    return {
        "quiet_p50": 1e3 * float(np.percentile(quiet, 50)),
        "quiet_p99": 1e3 * float(np.percentile(quiet, 99)),
        "loading_p50": 1e3 * float(np.percentile(loading, 50)),
        "loading_p99": 1e3 * float(np.percentile(loading, 99)),
        "loading_max": 1e3 * max(loading),
        "load_seconds": float(np.mean([b - a for a, b in spans])),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--layers", type=int, default=600)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory(prefix="loading-") as name:
        folder = Path(name)
        source = folder / "source"
        subprocess.run([sys.executable, "-c", _MODEL, source, str(options.layers)], check=True)
        for title, flags in (
            ("one process", ()),
            ("--isolation=version", ("--isolation=version",)),
        ):
            found = asyncio.run(measure(folder, source, flags, options.loads, options.rate))
            ratio = found["loading_p99"] / found["quiet_p99"]
            print(f"{title}: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()) + f", p99 ratio {ratio:.2f}")


if __name__ == "__main__":
    main()

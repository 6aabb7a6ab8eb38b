"""`make bench`: Predict requests per second of our model server, of plain servers and, if there is one on the PATH, of
tensorflow_model_server.

All of them run in the same session, one at a time under load, in turns; the median of the rounds counts. Where there
are two cores or more, the servers are bound to the first and the load generator to the last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
METHOD = "/tensorflow.serving.PredictionService/Predict"
OURS = "jupyter_tfserve"
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "no_proxy": "*"}

#: What is asked: name, one line of what it is.
WORK = {"half_plus_two": "x / 2 + 2 of one number", "mlp": "784-512-512-10, one row of 784 floats"}


@dataclass(frozen=True)
class Server:
    """A server under test. A port of None: it does not speak that protocol."""

    name: str
    rest: int | None
    grpc: int | None


def make_models(folder: Path, bodies: Path) -> None:
    """Write the SavedModels and, for each, the one request that is sent, as JSON and as a PredictRequest."""
    import numpy as np
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    rng = np.random.default_rng(1)
    weights = [tf.constant(rng.normal(0, 0.05, shape), tf.float32) for shape in ((784, 512), (512, 512), (512, 10))]

    class HalfPlusTwo(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def serve(self, x):  # type: ignore[no-untyped-def]
            return {"y": x / 2 + 2}

    class MLP(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 784], tf.float32, "x")])
        def serve(self, x):  # type: ignore[no-untyped-def]
            for layer in weights[:-1]:
                x = tf.nn.relu(x @ layer)
            return {"y": tf.nn.softmax(x @ weights[-1])}

    row = rng.random(784).round(4)
    for name, module, instances in (
        ("half_plus_two", HalfPlusTwo(), np.array([1.5])),
        ("mlp", MLP(), row[None, :]),
    ):
        tf.saved_model.save(module, str(folder / name / "1"), signatures=module.serve)
        (bodies / f"{name}.rest").write_text(json.dumps({"instances": instances.tolist()}))
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(instances.astype(np.float32)))
        (bodies / f"{name}.grpc").write_bytes(request.SerializeToString())


def bound(command: list[str], core: int) -> list[str]:
    """The command, bound to one core where that is possible."""
    if len(CORES) < 2 or shutil.which("taskset") is None:
        return command
    return ["taskset", "-c", str(CORES[core]), *command]


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A server process on the first core, ended afterwards."""
    with open(log, "w") as errors:
        process = subprocess.Popen(
            bound(command, 0), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=QUIET
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[str], log: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"{process.args} did not start:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def model_server(name: str, program: list[str], models: Path, scratch: Path) -> Iterator[Server]:
    """Ours or tensorflow_model_server: they take the same flags."""
    config = scratch / "models.config"
    entries = "".join(
        f' config {{ name: "{p.name}" base_path: "{p}" model_platform: "tensorflow" }}' for p in models.iterdir()
    )
    config.write_text(f"model_config_list {{{entries} }}")
    grpc, rest = free_port(), free_port()
    log = scratch / f"{name}.log"
    with running(
        [*program, f"--model_config_file={config}", f"--port={grpc}", f"--rest_api_port={rest}"], log
    ) as process:
        wait_for_port(grpc, process, log)
        wait_for_port(rest, process, log)
        yield Server(name, rest, grpc)


@contextlib.contextmanager
def peer(name: str, kind: str, models: Path, scratch: Path) -> Iterator[Server]:
    """One of peers.py."""
    log = scratch / f"{kind}.log"
    with running([sys.executable, str(HERE / "peers.py"), kind, str(models)], log) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{name} did not start:\n{log.read_text()[-2000:]}")
        rest = kind in ("tornado", "empty-rest")
        yield Server(name, int(line) if rest else None, None if rest else int(line))


def load(protocol: str, port: int, in_flight: int, seconds: float, body: Path, model: str) -> dict[str, Any]:
    """One run of the load generator on the second core."""
    target = METHOD if protocol == "grpc" else f"/v1/models/{model}:predict"
    command = [
        sys.executable,
        str(HERE / "load.py"),
        protocol,
        f"127.0.0.1:{port}",
        str(in_flight),
        str(seconds),
        str(body),
        target,
    ]
    done = subprocess.run(bound(command, -1), check=True, stdout=subprocess.PIPE, text=True, env=QUIET)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def table(results: dict[tuple[str, str, int, str], list[dict[str, Any]]], names: list[str]) -> str:
    """Markdown: a row for each kind of work, a column for each server; ratios are ours to theirs."""
    lines = [f"| {'work':32} | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for protocol in ("rest", "grpc"):
        for model in WORK:
            for in_flight in (1, 32):
                rates = {
                    name: statistics.median(run["rate"] for run in runs)
                    for name in names
                    if (runs := results.get((protocol, model, in_flight, name)))
                }
                cells = []
                for name in names:
                    if name not in rates:
                        cells.append("")
                        continue
                    p50 = statistics.median(run["p50_us"] for run in results[protocol, model, in_flight, name])
                    ratio = "" if name == OURS else f", **{rates[OURS] / rates[name]:.1f}x**"
                    cells.append(f"{rates[name]:,.0f}/s ({p50:,.0f} us{ratio})")
                spoken = "REST" if protocol == "rest" else "gRPC"
                lines.append(f"| {f'{spoken} {model}, {in_flight} in flight':32} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one round of one second: a first look, not a measurement")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 1.0, 1
    results: dict[tuple[str, str, int, str], list[dict[str, Any]]] = {}
    failed = False
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        models, bodies = scratch / "models", scratch / "bodies"
        bodies.mkdir()
        print("Making the models and starting the servers ...", file=sys.stderr)
        made = subprocess.run(
            [sys.executable, __file__, "--make-models", models, bodies], capture_output=True, text=True, env=QUIET
        )
        if made.returncode:
            raise SystemExit(made.stderr)
        start = stack.enter_context
        servers = [start(model_server(OURS, [sys.executable, "-m", "jupyter_tfserve.model_server"], models, scratch))]
        if stock := shutil.which("tensorflow_model_server"):
            servers.append(start(model_server("tensorflow_model_server", [stock], models, scratch)))
        servers += [
            start(peer("Tornado + signature", "tornado", models, scratch)),
            start(peer("grpcio + signature", "grpcio", models, scratch)),
            start(peer("empty handler", "empty-rest", models, scratch)),
            start(peer("empty handler", "empty-grpc", models, scratch)),
        ]
        for turn in range(options.rounds):
            for protocol in ("rest", "grpc"):
                for model in WORK:
                    for in_flight in (1, 32):
                        for server in servers:
                            port = server.rest if protocol == "rest" else server.grpc
                            if port is None:
                                continue
                            body = bodies / f"{model}.{protocol}"
                            run = load(protocol, port, in_flight, options.seconds, body, model)
                            results.setdefault((protocol, model, in_flight, server.name), []).append(run)
                            if run["failed"]:
                                failed = True
                                print(f"{server.name}, {protocol} {model}: {run['failed']} failed: {run['error']}")
            print(f"round {turn + 1} of {options.rounds} done", file=sys.stderr)
    cores = len(CORES) or os.cpu_count()
    software = f"Python {platform.python_version()}, TensorFlow {version('tensorflow')}"
    print(
        f"\nPredict requests per second (p50; **ours to theirs**), median of {options.rounds} x {options.seconds:g} s,"
    )
    print(f"{platform.machine()}, {cores} cores, {software}\n")
    print(table(results, list(dict.fromkeys(server.name for server in servers))))
    if options.json:
        runs = [[*key, run] for key, all_runs in results.items() for run in all_runs]
        options.json.write_text(json.dumps(runs, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make-models"]:
        make_models(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(main())

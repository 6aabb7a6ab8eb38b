"""Who is measured, and how each is started: every peer in its best configuration for one process on one core."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .names import BARE, EMPTY_JUPYTER, OURS, PROTOBUF, THROUGH_JUPYTER
from .servers import Endpoint, Server, free_ports, python
from .works import APIS

PREDICT_URL = "/v1/models/{work}:predict"
PREDICT_CALL = "/tensorflow.serving.PredictionService/Predict"
TOKEN = "benchmark"  # of a Jupyter Server that listens on loopback for as long as the run takes


@dataclass(frozen=True)
class Settings:
    """How requests are merged: at most so many, waiting so long for more; one: not at all."""

    max_batch: int = 1
    wait_ms: int = 0

    def __str__(self) -> str:
        return f"batches of up to {self.max_batch}, {self.wait_ms} ms" if self.max_batch > 1 else ""


@dataclass(frozen=True)
class Start:
    """What a command line is made from."""

    works: tuple[str, ...]
    models: Path
    folder: Path
    ports: list[int]
    settings: Settings

    def config(self, models: Path) -> Path:
        """A ModelServerConfig of the works."""
        entries = "".join(
            f'  config {{ name: "{work}" base_path: "{models / work}" model_platform: "tensorflow" }}\n'
            for work in self.works
        )
        file = self.folder / "models.config"
        file.write_text(f"model_config_list {{\n{entries}}}\n")
        return file


@dataclass(frozen=True)
class Target:
    """One address of a contender: a column of the results."""

    name: str
    api: str
    path: str
    port: int = 0  # which of the four
    headers: dict[str, str] = field(default_factory=dict)
    works: tuple[str, ...] = ()  # empty: all


@dataclass(frozen=True)
class Contender:
    """A program and what it offers. `key` is what `--only` names."""

    key: str
    targets: tuple[Target, ...]
    command: Callable[[Start], list[str]]
    needs: str = ""  # a module of .bench-venv
    works: tuple[str, ...] = ()
    one_work: bool = False  # a process for each
    settings: tuple[Settings, ...] = (Settings(),)  # the best of them, at 32 in flight, is measured
    in_quick: bool = True
    talks: bool = False

    def missing(self) -> str:
        """Why it cannot be measured here; "" if it can."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed in .bench-venv (see its installation above)"
        return ""

    def works_of(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Those that it does."""
        return tuple(work for work in wanted if not self.works or work in self.works)


class Running:
    """A contender that was started, for some works."""

    def __init__(
        self,
        contender: Contender,
        works: tuple[str, ...],
        models: Path,
        folder: Path,
        settings: Settings,
        bound: bool = True,
    ) -> None:
        self.contender, self.works, self.settings = contender, works, settings
        self.record: dict[str, Any] = {}  # its line in the results
        self._ports = free_ports(4)
        folder.mkdir()
        start = Start(works, models, folder, self._ports, settings)
        environment = {
            "BENCH_WORKS": ",".join(works),
            "BENCH_MODELS": str(models),
            "BENCH_PORT": str(self._ports[0]),
            "BENCH_GRPC_PORT": str(self._ports[1]),
            "BENCH_MAX_BATCH": str(settings.max_batch),
            "BENCH_MAX_WAIT_MS": str(settings.wait_ms),
            # mosec reads its settings from here.
            "MOSEC_PORT": str(self._ports[0]),
            "MOSEC_ADDRESS": "127.0.0.1",
            "MOSEC_LOG_LEVEL": "warning",
            "MOSEC_TIMEOUT": "120000",
            "MOSEC_MAX_REQUEST_SIZE": str(2**30),
        }
        self.server = Server(contender.command(start), environment, folder / "log", bound, contender.talks)

    def endpoints(self, work: str) -> list[tuple[Target, Endpoint]]:
        """Where the work can be asked for."""
        return [
            (
                target,
                Endpoint(
                    target.name,
                    APIS[target.api],
                    f"http://127.0.0.1:{self._ports[target.port]}{target.path.format(work=work)}",
                    target.headers,
                ),
            )
            for target in self.contender.targets
            if not target.works or work in target.works
        ]


def _peer(name: str) -> Callable[[Start], list[str]]:
    return lambda start: [python(".bench-venv"), "-m", f"benchmarks.peers.{name}"]


def _ours(start: Start) -> list[str]:
    return [
        python(".venv"), "-m", "jupyter_tfserve.model_server",
        f"--port={start.ports[0]}", f"--rest_api_port={start.ports[1]}",
        f"--model_config_file={start.config(start.models)}", "--enable_batching",
    ]  # fmt: skip


def _jupyter(start: Start) -> list[str]:
    store = start.folder / "store"
    for work in start.works:
        shutil.copytree(start.models / work, store / work)
    shutil.copy(start.config(store), store / "models.config")
    extensions = {"jupyter_tfserve": True, "benchmarks.peers.jupyter_empty": True}
    off = {"jupyterlab": False, "notebook": False, "jupyter_lsp": False, "jupyter_server_terminals": False}
    home = [f"JUPYTER_{what}_DIR={start.folder / what.lower()}" for what in ("CONFIG", "DATA", "RUNTIME")]
    return [
        "env", *home, python(".venv"), "-m", "jupyter_server", "--no-browser", "--allow-root",
        f"--ServerApp.port={start.ports[0]}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={start.folder}",
        f"--ServerApp.jpserver_extensions={extensions | off}", f"--IdentityProvider.token={TOKEN}",
        "--ServerApp.log_level=WARN", f"--TFServe.store={store}",
        f"--TFServe.grpc_port={start.ports[1]}", f"--TFServe.rest_port={start.ports[2]}",
        "--TFServe.model_server_flags=--enable_batching",
    ]  # fmt: skip


def _tf_serving(start: Start) -> list[str]:
    flags = [
        f"--port={start.ports[0]}", f"--rest_api_port={start.ports[1]}",
        f"--model_config_file={start.config(start.models)}",
        "--grpc_max_threads=64", "--rest_api_num_threads=64",  # its own 4 a core refuse calls and never fill batches
    ]  # fmt: skip
    if start.settings.max_batch > 1:
        file = start.folder / "batching.config"
        file.write_text(
            f"max_batch_size {{ value: {start.settings.max_batch} }}\n"
            f"batch_timeout_micros {{ value: {1000 * start.settings.wait_ms} }}\n"
            "max_enqueued_batches { value: 1000 }\nnum_batch_threads { value: 2 }\n"
        )
        flags += ["--enable_batching", f"--batching_parameters_file={file}"]
    return [*shlex.split(os.environ["TFS_CMD"]), *flags]


_BEARER = {"Authorization": f"token {TOKEN}"}
_BATCHES = tuple(Settings(*pair) for pair in ((32, 1), (16, 1), (16, 2), (64, 2)))
_EMPTY = ("half_plus_two",)  # their one answer


def _plain(name: str) -> Target:
    return Target(name, "rest", PREDICT_URL)


def _v2(name: str) -> tuple[Target, Target]:
    return (
        Target(name, "v2-rest", "/v2/models/{work}/infer"),
        Target(name, "v2-grpc", "/inference.GRPCInferenceService/ModelInfer", port=1),
    )


def _tfs(name: str) -> tuple[Target, Target]:
    return Target(name, "grpc", PREDICT_CALL), Target(name, "rest", PREDICT_URL, port=1)


def contenders() -> list[Contender]:
    """All that can be measured, ours first."""
    line_up = [
        Contender("floor", (), _peer("floor"), talks=True),
        Contender(
            "ours",
            (
                *_tfs(OURS),
                Target(PROTOBUF, "rest-protobuf", PREDICT_URL, port=1, works=("mlp", "image")),
            ),
            _ours,
        ),
        Contender(
            "jupyter",
            (
                Target(THROUGH_JUPYTER, "rest", "/tfserve" + PREDICT_URL, headers=_BEARER),
                Target(EMPTY_JUPYTER, "rest", "/bench/empty", headers=_BEARER, works=_EMPTY),
            ),
            _jupyter,
        ),
        Contender("bare", (_plain(BARE),), _peer("bare_rest"), "simdjson", one_work=True),
        Contender(
            "bare", (Target(BARE, "grpc", PREDICT_CALL),), _peer("bare_grpc"), "pygrpc_native", one_work=True
        ),
        Contender("mosec", (_plain("mosec"),), _peer("mosec_server"), "mosec", in_quick=False),
        Contender("mosec", (_plain("mosec, batching"),), _peer("mosec_server"), "mosec", settings=_BATCHES),
        Contender("mlserver", _v2("MLServer"), _peer("mlserver_server"), "mlserver"),
        Contender(
            "mlserver", _v2("MLServer, batching"), _peer("mlserver_server"), "mlserver", settings=_BATCHES,
            in_quick=False,
        ),
        Contender("litserve", (_plain("LitServe"),), _peer("litserve_server"), "litserve"),
        Contender(
            "litserve", (_plain("LitServe, batching"),), _peer("litserve_server"), "litserve", settings=_BATCHES,
            in_quick=False,
        ),
        Contender("fastapi", (_plain("FastAPI"),), _peer("fastapi_server"), "fastapi"),
        Contender("grpcio", (Target("grpcio", "grpc", PREDICT_CALL),), _peer("grpcio_server"), "grpc"),
        Contender("empty", (_plain("empty, Tornado"),), _peer("empty_tornado"), "tornado", works=_EMPTY),
        Contender("empty", (_plain("empty, granian"),), _peer("empty_granian"), "granian", works=_EMPTY),
        Contender(
            "empty", (Target("empty, grpcio", "grpc", PREDICT_CALL),), _peer("empty_grpcio"), "grpc", works=_EMPTY
        ),
        Contender(
            "empty", (Target("empty, pygrpc-native", "grpc", PREDICT_CALL),), _peer("empty_pygrpc"), "pygrpc_native",
            works=_EMPTY,
        ),
    ]  # fmt: skip
    if os.environ.get("TFS_CMD"):
        line_up += [
            Contender("tfs", _tfs("TensorFlow Serving"), _tf_serving),
            Contender("tfs", _tfs("TensorFlow Serving, batching"), _tf_serving, settings=(*_BATCHES, Settings(32, 0))),
        ]
    return line_up

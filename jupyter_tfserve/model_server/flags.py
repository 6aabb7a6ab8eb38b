"""The command line of `tfserve`: tensorflow_model_server's flags with its defaults, and ours.

A flag is ``--name=value`` or ``--name value``; a boolean one may stand alone. Flags that stock knows and that mean
nothing here are accepted and named once in the log. An unknown flag ends the program, naming the closest known one
(stock prints its usage and goes on).
"""

from __future__ import annotations

import argparse
import difflib
import os
from typing import Any, NoReturn

_TRUE = {"true", "1", "t", "yes", "y"}
_FALSE = {"false", "0", "f", "no", "n"}


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")


class _Parser(argparse.ArgumentParser):
    """argparse, with an error that names the closest flag."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"tfserve: {message}\nTry 'tfserve --help'.\n")

    def flag(self, name: str, default: Any, help: str) -> None:
        """Add one flag; its type is that of its default."""
        if isinstance(default, bool):
            self.add_argument(f"--{name}", type=_boolean, nargs="?", const=True, default=default, help=help)
        else:
            self.add_argument(f"--{name}", type=type(default), default=default, help=f"{help} (default: {default!r})")


#: Ports tried after the one asked for, with --find_free_ports.
PORTS_TRIED = 100

#: What can have a worker process of its own.
ISOLATIONS = ("none", "device", "model", "version")

#: Accepted as stock does, without effect here.
WITHOUT_EFFECT: dict[str, tuple[bool | int | str, str]] = {
    "flush_filesystem_caches": (True, "file system caches are the operating system's business"),
    "use_alts_credentials": (False, "ALTS exists on Google Cloud only"),
    "platform_config_file": ("", "platforms are configured by flags"),
    "remove_unused_fields_from_bundle_metagraph": (True, "nothing is kept that could be removed"),
    "thread_pool_factory_config_file": ("", "thread pools are not pluggable"),
    "skip_initialize_tpu": (False, "there is no TPU support"),
}


def cpus() -> int:
    """The cores this process may use: affinity and a container's quota count, not what the machine has."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    return count


def _parser() -> _Parser:
    parser = _Parser(
        prog="tfserve",
        description="Serves TensorFlow models over TensorFlow Serving's REST and gRPC APIs.",
        allow_abbrev=False,
    )
    parser.exit_on_error = True
    flag = parser.flag
    flag("port", 8500, "gRPC port; 0: none")
    flag("grpc_socket_path", "", "gRPC on this Unix socket as well")
    flag("rest_api_port", 0, "REST port; 0: none; must differ from --port")
    flag("rest_api_num_threads", 4 * cpus(), "threads that decode and run REST requests")
    flag("rest_api_timeout_in_ms", 30000, "a REST request's time limit in ms; 0: none")
    flag("rest_api_enable_cors_support", False, "let any web page call the REST API")
    flag("enable_batching", False, "merge requests into batches")
    flag("batching_parameters_file", "", "BatchingParameters, text proto; needs --enable_batching")
    flag("enable_per_model_batching_parameters", False, "read batching_params.pbtxt in a version's folder")
    flag("allow_version_labels_for_unavailable_models", False, "a new label may name a version that is not loaded yet")
    flag("model_config_file", "", "ModelServerConfig, text proto; overrides --model_name and --model_base_path")
    flag("model_config_file_poll_wait_seconds", 0, "seconds between two reads of that file; 0: read once")
    flag("model_name", "default", "name of the one model")
    flag("model_base_path", "", "folder with the version folders of the one model")
    flag("num_load_threads", 0, "threads that load; 0: one for each core, at most 4")
    flag("num_unload_threads", 0, "threads that unload; 0: one")
    flag("max_num_load_retries", 5, "tries to load a version after the first one failed")
    flag("load_retry_interval_micros", 60_000_000, "microseconds between two tries; negative: none")
    flag(
        "file_system_poll_wait_seconds", 1, "seconds between two looks for new versions; 0: look once; negative: never"
    )
    flag("tensorflow_session_parallelism", 0, "threads of both TensorFlow pools; 0: automatic")
    flag("tensorflow_intra_op_parallelism", 0, "threads of one op; 0: automatic")
    flag("tensorflow_inter_op_parallelism", 0, "ops at once; 0: automatic")
    flag("tensorflow_session_config_file", "", "ConfigProto, text proto")
    flag("ssl_config_file", "", "SSLConfig, text proto with the PEM texts: TLS for gRPC and REST")
    flag("per_process_gpu_memory_fraction", 0.0, "part of a GPU's memory that may be used; 0: grows as needed")
    flag("saved_model_tags", "serve", "tags of the graph to load, with commas")
    flag("grpc_channel_arguments", "", "gRPC server arguments: key=value, with commas")
    flag("grpc_max_threads", 4 * cpus(), "gRPC requests at once; more wait")
    flag("enable_model_warmup", True, "replay assets.extra/tf_serving_warmup_requests before a version is available")
    flag("num_request_iterations_for_warmup", 0, "times that each warm-up request runs; 0: once")
    flag("version", False, "print the versions and exit")
    flag("monitoring_config_file", "", "MonitoringConfig, text proto: the metrics page")
    flag("prefer_tflite_model", False, "serve model.tflite where a version has one")
    flag("num_tflite_pools", cpus(), "TFLite interpreter pools")
    flag("num_tflite_interpreters_per_pool", 1, "TFLite interpreters in each")
    flag("enable_signature_method_name_check", False, "classify and regress need the matching method name")
    flag("xla_cpu_compilation_enabled", False, "compile with XLA on CPU")
    flag("xla_gpu_compilation_enabled", False, "compile with XLA on GPU")
    flag("enable_profiler", True, "TensorFlow's profiler service on the gRPC port")
    flag("mixed_precision", "", "'bfloat16' or nothing")
    flag("enable_grpc_healthcheck_service", False, "the standard gRPC health service")
    flag("enable_serialization_as_tensor_content", False, "gRPC answers carry tensor_content")
    for name, (default, why) in WITHOUT_EFFECT.items():
        flag(name, default, f"no effect: {why}")
    # Ours.
    flag(
        "isolation",
        "none",
        "what has a worker process of its own: 'device', 'model' or 'version'; 'none': one process runs all models",
    )
    flag("workers", "auto", "'always': workers even where there is one device only, and without --isolation")
    flag("worker", False, "for a front: serve on the management socket what it says, and nothing else")
    flag("gpu_memory_limit_mb", 0, "MB of its GPU's memory that this process may use; 0: all, as needed")
    flag("hang_timeout_seconds", 30.0, "a worker that answers no heartbeat for so long is killed; 0: none is")
    flag("host", "127.0.0.1", "address that the ports are opened on")
    flag("find_free_ports", False, "take the next free port where one is taken")
    flag("instances", 1, "processes that share the ports, for machines with many cores; each has the models in memory")
    flag("store", "", "folder of models.config and its models, changed through the management API; watched")
    flag("management_socket", "", "Unix socket (0600) for the management API, and REST beside it")
    flag(
        "bearer_hashes_file",
        "",
        "SHA-256 of each bearer that the ports ask for, hex, a line each; or grants; none: open",
    )
    flag(
        "callers_socket",
        "",
        "Unix socket that is asked about bearers that are not in the file; with bearer_hashes_file",
    )
    flag("grpc_transport", "auto", "'grpcio', or 'native': pygrpc-native where it can; 'auto' is native")
    flag(
        "auto_batching",
        False,
        "without --enable_batching, merge requests where rows were seen to be independent at load",
    )
    flag("drain_timeout_seconds", 30.0, "seconds that requests in flight get after SIGTERM")
    flag("load_timeout_seconds", 1800.0, "seconds that a version may take to load; then it has failed; 0: no limit")
    flag(
        "memory_budget_mb",
        0,
        "MiB for all loaded versions together; a load that would not fit is refused. 0: what the container or machine "
        "has left; -1: no limit",
    )
    flag(
        "unload_idle_seconds",
        0.0,
        "seconds without a request after which a version leaves memory until the next one, which waits for its load; "
        "also earlier, where a load needs the room. 0: none does",
    )
    flag("max_body_bytes", 2**31 - 1, "largest REST body")
    flag("reuse_port", False, "for --instances: other processes of this user may listen on the same ports")
    flag("owner_fd", -1, "for whoever starts tfserve: a pipe that ends when they do")
    flag("ready_fd", -1, "for whoever starts tfserve: a pipe that is told the ports")
    return parser


class Flags(argparse.Namespace):
    """The parsed command line; one attribute for each flag."""

    port: int
    grpc_socket_path: str
    rest_api_port: int
    rest_api_num_threads: int
    rest_api_timeout_in_ms: int
    rest_api_enable_cors_support: bool
    enable_batching: bool
    batching_parameters_file: str
    enable_per_model_batching_parameters: bool
    allow_version_labels_for_unavailable_models: bool
    model_config_file: str
    model_config_file_poll_wait_seconds: int
    model_name: str
    model_base_path: str
    num_load_threads: int
    num_unload_threads: int
    max_num_load_retries: int
    load_retry_interval_micros: int
    file_system_poll_wait_seconds: int
    tensorflow_session_parallelism: int
    tensorflow_intra_op_parallelism: int
    tensorflow_inter_op_parallelism: int
    tensorflow_session_config_file: str
    ssl_config_file: str
    per_process_gpu_memory_fraction: float
    saved_model_tags: str
    grpc_channel_arguments: str
    grpc_max_threads: int
    enable_model_warmup: bool
    num_request_iterations_for_warmup: int
    version: bool
    monitoring_config_file: str
    prefer_tflite_model: bool
    num_tflite_pools: int
    num_tflite_interpreters_per_pool: int
    enable_signature_method_name_check: bool
    xla_cpu_compilation_enabled: bool
    xla_gpu_compilation_enabled: bool
    enable_profiler: bool
    mixed_precision: str
    enable_grpc_healthcheck_service: bool
    enable_serialization_as_tensor_content: bool
    isolation: str
    workers: str
    worker: bool
    gpu_memory_limit_mb: int
    hang_timeout_seconds: float
    host: str
    find_free_ports: bool
    instances: int
    store: str
    management_socket: str
    bearer_hashes_file: str
    callers_socket: str
    grpc_transport: str
    auto_batching: bool
    drain_timeout_seconds: float
    load_timeout_seconds: float
    memory_budget_mb: int
    unload_idle_seconds: float
    max_body_bytes: int
    reuse_port: bool
    owner_fd: int
    ready_fd: int

    def ineffective(self) -> list[str]:
        """Flags that were set and that do nothing here, each with the reason."""
        return [f"--{name}: {why}" for name, (default, why) in WITHOUT_EFFECT.items() if getattr(self, name) != default]


def parse(arguments: list[str]) -> Flags:
    """Parse a command line; ends the program with status 2 and a message on standard error if it is wrong."""
    parser = _parser()
    known = [name[2:] for name in parser._option_string_actions if name.startswith("--")]
    flags, unknown = parser.parse_known_args(arguments, namespace=Flags())
    for argument in unknown:
        name = argument.lstrip("-").partition("=")[0]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        parser.error(f"unknown flag {argument!r}." + (f" Did you mean --{close[0]}?" if close else ""))
    if flags.rest_api_port and flags.rest_api_port == flags.port:
        parser.error("--rest_api_port must differ from --port.")
    if flags.batching_parameters_file and not (flags.enable_batching or flags.auto_batching):
        parser.error("--batching_parameters_file needs --enable_batching.")
    if flags.tensorflow_session_parallelism and (
        flags.tensorflow_intra_op_parallelism or flags.tensorflow_inter_op_parallelism
    ):
        parser.error(
            "--tensorflow_session_parallelism cannot be set together with --tensorflow_intra_op_parallelism or "
            "--tensorflow_inter_op_parallelism."
        )
    if flags.grpc_transport not in ("auto", "grpcio", "native"):
        parser.error(f"--grpc_transport takes 'auto', 'grpcio' or 'native', not {flags.grpc_transport!r}.")
    if flags.callers_socket and not flags.bearer_hashes_file:
        parser.error("--callers_socket needs --bearer_hashes_file: without it the ports ask for no bearer.")
    for name, known_values in (("isolation", ISOLATIONS), ("workers", ("auto", "always"))):
        if getattr(flags, name) not in known_values:
            parser.error(f"--{name} takes one of {', '.join(known_values)}, not {getattr(flags, name)!r}.")
    if flags.worker and not flags.management_socket:
        parser.error("--worker needs --management_socket.")
    if flags.instances < 1:
        parser.error(f"--instances takes a number from 1 on, not {flags.instances}.")
    if flags.instances > 1:
        if flags.isolation != "none" or flags.workers == "always":
            parser.error("--isolation and --instances cannot be used together: `%tfserve device NAME --replicas N`.")
        for name in ("store", "management_socket", "grpc_socket_path"):
            if getattr(flags, name):
                parser.error(
                    f"--{name} belongs to one process and cannot be used with --instances={flags.instances}: leave out "
                    "one of the two."
                )
    if flags.unload_idle_seconds < 0:
        parser.error(f"--unload_idle_seconds takes a number of seconds, not {flags.unload_idle_seconds:g}.")
    if flags.mixed_precision not in ("", "bfloat16"):
        parser.error(f"--mixed_precision takes only 'bfloat16', not {flags.mixed_precision!r}.")
    return flags

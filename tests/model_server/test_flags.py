"""The command line: stock's flags with stock's defaults, and refusals that help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

from jupyter_tfserve.model_server.flags import WITHOUT_EFFECT, Flags, cpus, parse

#: Release 2.21's flags and their defaults (`model_servers/main.cc`).
STOCK = {
    "port": 8500,
    "grpc_socket_path": "",
    "rest_api_port": 0,
    "rest_api_num_threads": 4 * cpus(),
    "rest_api_timeout_in_ms": 30000,
    "rest_api_enable_cors_support": False,
    "enable_batching": False,
    "batching_parameters_file": "",
    "enable_per_model_batching_parameters": False,
    "allow_version_labels_for_unavailable_models": False,
    "model_config_file": "",
    "model_config_file_poll_wait_seconds": 0,
    "model_name": "default",
    "model_base_path": "",
    "num_load_threads": 0,
    "num_unload_threads": 0,
    "max_num_load_retries": 5,
    "load_retry_interval_micros": 60_000_000,
    "file_system_poll_wait_seconds": 1,
    "flush_filesystem_caches": True,
    "tensorflow_session_parallelism": 0,
    "tensorflow_intra_op_parallelism": 0,
    "tensorflow_inter_op_parallelism": 0,
    "tensorflow_session_config_file": "",
    "use_alts_credentials": False,
    "ssl_config_file": "",
    "platform_config_file": "",
    "per_process_gpu_memory_fraction": 0.0,
    "saved_model_tags": "serve",
    "grpc_channel_arguments": "",
    "grpc_max_threads": 4 * cpus(),
    "enable_model_warmup": True,
    "num_request_iterations_for_warmup": 0,
    "version": False,
    "monitoring_config_file": "",
    "remove_unused_fields_from_bundle_metagraph": True,
    "prefer_tflite_model": False,
    "num_tflite_pools": cpus(),
    "num_tflite_interpreters_per_pool": 1,
    "enable_signature_method_name_check": False,
    "xla_cpu_compilation_enabled": False,
    "xla_gpu_compilation_enabled": False,
    "enable_profiler": True,
    "thread_pool_factory_config_file": "",
    "mixed_precision": "",
    "skip_initialize_tpu": False,
    "enable_grpc_healthcheck_service": False,
    "enable_serialization_as_tensor_content": False,
}


def test_stock_defaults() -> None:
    flags = vars(parse([]))
    assert {name: flags[name] for name in STOCK} == STOCK
    ours = flags.keys() - STOCK.keys()
    assert ours == Flags.__annotations__.keys() - STOCK.keys()


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--port=1"], "port", 1),
        (["--port", "1"], "port", 1),
        (["--enable_batching"], "enable_batching", True),
        (["--enable_model_warmup=false"], "enable_model_warmup", False),
        (["--enable_model_warmup=0"], "enable_model_warmup", False),
        (["--load_retry_interval_micros=-1"], "load_retry_interval_micros", -1),
        (["--file_system_poll_wait_seconds", "-1"], "file_system_poll_wait_seconds", -1),
        (["--per_process_gpu_memory_fraction=0.5"], "per_process_gpu_memory_fraction", 0.5),
        (["--model_name=a b"], "model_name", "a b"),
    ],
)
def test_ways_to_write_one(arguments: list[str], name: str, value: object) -> None:
    assert getattr(parse(arguments), name) == value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rest_api_prt=1"], r"unknown flag '--rest_api_prt=1'\. Did you mean --rest_api_port\?"),
        (["--enable-batching"], r"Did you mean --enable_batching\?"),
        (["--zzz"], r"unknown flag '--zzz'\.\n"),
        (["left_over"], "unknown flag 'left_over'"),
        (["--model_base_pat=/x"], "Did you mean --model_base_path"),  # no guessing from a beginning
        (["--port=http"], "--port: invalid int value: 'http'"),
        (["--enable_batching=maybe"], "expected true or false, not 'maybe'"),
        (["--rest_api_port=8500"], "--rest_api_port must differ from --port"),
        (["--batching_parameters_file=/x"], "needs --enable_batching"),
        (["--tensorflow_session_parallelism=1", "--tensorflow_intra_op_parallelism=1"], "cannot be set together"),
        (["--mixed_precision=float16"], "takes only 'bfloat16'"),
    ],
)
def test_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert re.search(said, capsys.readouterr().err)


def test_flags_without_effect_are_named() -> None:
    assert parse([]).ineffective() == []
    for name, (default, why) in WITHOUT_EFFECT.items():
        value = "x" if default == "" else str(not default).lower()
        assert parse([f"--{name}={value}"]).ineffective() == [f"--{name}: {why}"]


def test_the_program_refuses_before_it_imports_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['tfserve', '--modelname=x']\n"
        "from jupyter_tfserve.model_server.__main__ import main\n"
        "try: main()\n"
        "finally: assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Did you mean --model_name?" in done.stderr
    assert "Traceback" not in done.stderr

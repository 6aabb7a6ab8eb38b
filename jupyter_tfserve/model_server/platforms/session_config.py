"""The flags that say how TensorFlow runs, as the ConfigProto of every session."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2

from ..errors import invalid
from ..flags import Flags, cpus


def session_config(flags: Flags) -> config_pb2.ConfigProto:
    """Raises ServingError if --tensorflow_session_config_file cannot be read."""
    both = flags.tensorflow_session_parallelism
    session = config_pb2.ConfigProto(
        intra_op_parallelism_threads=both or flags.tensorflow_intra_op_parallelism or cpus(),
        inter_op_parallelism_threads=both or flags.tensorflow_inter_op_parallelism or cpus(),
    )
    # Of its own for each model: one whose runs are long would keep all threads of a common pool from the others.
    session.use_per_session_threads = True
    session.gpu_options.allow_growth = True
    if flags.gpu_memory_limit_mb:
        session.gpu_options.experimental.virtual_devices.add(memory_limit_mb=[flags.gpu_memory_limit_mb])
    session.gpu_options.per_process_gpu_memory_fraction = flags.per_process_gpu_memory_fraction
    if flags.xla_cpu_compilation_enabled or flags.xla_gpu_compilation_enabled:
        session.graph_options.optimizer_options.global_jit_level = config_pb2.OptimizerOptions.ON_1
    if flags.mixed_precision == "bfloat16":
        rewrite = session.graph_options.rewrite_options
        rewrite.auto_mixed_precision_onednn_bfloat16 = rewriter_config_pb2.RewriterConfig.ON
    if flags.tensorflow_session_config_file:
        try:
            text_format.Merge(Path(flags.tensorflow_session_config_file).read_text(), session)
        except (OSError, text_format.ParseError) as error:
            raise invalid(f"--tensorflow_session_config_file: {error}") from None
    return session

"""The floor under every server: the session callable (`tf.compat.v1`), run in the calling thread. For the two bare
servers, and for `floor.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.types_pb2 import DT_STRING
from tensorflow.core.protobuf.config_pb2 import CallableOptions


class Callable:
    """`x` -> `y` of one SavedModel, arrays on both sides."""

    def __init__(self, version: Path) -> None:
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        with tf.Graph().as_default() as graph:
            session = tf.compat.v1.Session(graph=graph, config=config)
            loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(version))
        signature = loaded.signature_def["serving_default"]
        options = CallableOptions(feed=[signature.inputs["x"].name], fetch=[signature.outputs["y"].name])
        options.run_options.inter_op_thread_pool = -1  # no hop to another thread
        self._run = session._make_callable_from_options(options)
        self.is_string = signature.inputs["x"].dtype == DT_STRING

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y: np.ndarray = self._run(x)[0]
        return y

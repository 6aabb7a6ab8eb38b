"""The heartbeat: a tiny run of TensorFlow whenever the owner of this process asks (`GET /api/heartbeat` on the Unix
socket), so that one which is stopped or held up in its interpreter is found. `process.py` asks.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from tensorflow.core.protobuf import config_pb2

from . import tensorflow_parts as parts
from .errors import Code, ServingError


class Heartbeat:
    """Runs in a thread of its own, and in that thread alone: TensorFlow's pools may be full of a slow model's work,
    which is no reason to kill the process.
    """

    def __init__(self, config: config_pb2.ConfigProto) -> None:
        """`config` is that of the models' sessions: this is the first session of the process, and TensorFlow makes the
        pool that all of them share as the first one says.
        """
        graph = parts.Graph()
        with graph.as_default():
            x = parts.placeholder(parts.float32, [], "x")
            y = parts.add(x, 1.0, "y")
        without_gpus = config_pb2.ConfigProto()
        without_gpus.CopyFrom(config)
        without_gpus.device_count["GPU"] = 0
        without_gpus.use_per_session_threads = False
        self._session = parts.Session(graph=graph, config=without_gpus)
        options = config_pb2.CallableOptions(feed=[x.name], fetch=[y.name])
        options.run_options.inter_op_thread_pool = -1  # in the calling thread
        self._run: Callable[[Any], list[Any]] = self._session._make_callable_from_options(options)
        self._pool = ThreadPoolExecutor(1, "heartbeat")

    def __call__(self) -> Future[None]:
        """Begin a beat; the future fails with ServingError if TensorFlow does not work."""
        return self._pool.submit(self._beat)

    def _beat(self) -> None:
        try:
            [found] = self._run(np.float32(1.0))
        except parts.errors.OpError as error:
            raise ServingError(Code.INTERNAL, f"TensorFlow fails: {error.message}") from None
        if found != 2.0:
            raise ServingError(Code.INTERNAL, f"TensorFlow finds that 1 + 1 is {found}.")

    def close(self) -> None:
        """No beat is asked for any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

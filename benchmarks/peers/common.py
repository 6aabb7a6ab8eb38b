"""What all peers have alike: what they serve and where, and a model as people call it. They are programs, started by
`servers.py` with their settings in the environment.
"""

from __future__ import annotations

import base64
import gc
import os
from pathlib import Path
from typing import Any

PORT = int(os.environ["BENCH_PORT"])
GRPC_PORT = int(os.environ.get("BENCH_GRPC_PORT", "0"))
MODELS = Path(os.environ["BENCH_MODELS"])
WORKS = os.environ["BENCH_WORKS"].split(",")

#: Of servers that merge requests: rows, and milliseconds that a batch is waited for.
MAX_BATCH = int(os.environ.get("BENCH_MAX_BATCH", "1"))
MAX_WAIT_MS = int(os.environ.get("BENCH_MAX_WAIT_MS", "0"))

HOST = "127.0.0.1"
PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Signature:
    """`loaded.signatures["serving_default"]`: what people write a handler around. One core, so one thread."""

    def __init__(self, work: str) -> None:
        import tensorflow as tf

        if tf.config.threading.get_intra_op_parallelism_threads() == 0:
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        self._tf = tf
        self._loaded = tf.saved_model.load(str(MODELS / work / "1"))  # it dies with its last reference
        self._call = self._loaded.signatures["serving_default"]
        self._dtype = self._call.structured_input_signature[1]["x"].dtype

    def tensor(self, rows: Any) -> Any:
        """From a JSON list, or from an array: `tf.constant` reads nested lists ten times as fast as numpy."""
        if self._dtype == self._tf.string and isinstance(rows, list) and isinstance(rows[0], dict):
            rows = [base64.b64decode(row["b64"]) for row in rows]
        return self._tf.constant(rows, self._dtype)

    def __call__(self, x: Any) -> Any:
        """Tensor or array -> array."""
        return self._call(x=x)["y"].numpy()


def json_safe(array: Any) -> Any:
    """What orjson writes: arrays of floats as they are, bytes as text."""
    return [row.decode() for row in array] if array.dtype == object else array


def load() -> dict[str, Signature]:
    """Every work's signature, called once; then what was loaded is put out of the garbage collector's sight, which is
    worth a factor of two with large JSON.
    """
    signatures = {work: Signature(work) for work in WORKS}
    freeze()
    return signatures


def freeze() -> None:
    gc.collect()
    gc.freeze()


#: A right answer to `half_plus_two`, for handlers that do nothing else.
CANNED_JSON = b'{"predictions": [2.75]}'


def canned_predict() -> bytes:
    """The same as a PredictResponse, written by hand so that TensorFlow need not be imported."""
    tensor = b"\x08\x01" + b"\x12\x04\x12\x02\x08\x01" + b"\x22\x04" + b"\x00\x00\x30\x40"  # float, [1], 2.75
    entry = b"\x0a\x01y\x12" + bytes([len(tensor)]) + tensor
    return b"\x0a" + bytes([len(entry)]) + entry

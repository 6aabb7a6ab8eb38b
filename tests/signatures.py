"""Signatures by the types of their inputs and outputs."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from jupyter_tfserve.model_server.core.servable import Signature, TensorInfo

NUMPY: dict[str, Any] = {
    "float": np.float32,
    "double": np.float64,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "string": object,
    "half": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "complex64": np.complex64,
}


def info(dtype: str) -> TensorInfo:
    return TensorInfo(f"{dtype}:0", dtype, np.dtype(NUMPY[dtype]), (-1,))


def signature(inputs: dict[str, str], outputs: dict[str, str] | None = None) -> Signature:
    return Signature(
        "s", {k: info(v) for k, v in inputs.items()}, {k: info(v) for k, v in (outputs or {}).items()}, "predict"
    )

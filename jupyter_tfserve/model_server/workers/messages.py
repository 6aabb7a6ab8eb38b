"""What a front and its workers say to each other, on the worker's Unix socket. Both ends are this package at the same
version, so nothing here is kept compatible.

=======  ==================================  ===========================================================================
PUT      /worker/NAME/VERSION                :class:`Assignment` -> :class:`Loaded`, once it has loaded and is warm
DELETE   /worker/NAME/VERSION                unloads it, once nothing runs in it
PUT      /worker/NAME/VERSION/batching       how its requests are run -> :class:`Loaded`
PUT      /worker/NAME/logging                :class:`Logging` or null
GET      /worker                             :class:`Report`
=======  ==================================  ===========================================================================

Requests go to ``/v1/models/NAME/versions/VERSION:predict`` and ``/grpc-web/...``, as anyone's would.
"""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any, TypedDict

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np

from ..core.batching import Batcher, Batching, BatchingParameters
from ..core.policy import LoggingConfig
from ..core.servable import Signature, TensorInfo


class Logging(TypedDict):
    """How requests of a model are logged."""

    filename_prefix: str
    sampling_rate: float


class Assignment(TypedDict):
    """A version that a worker is to load."""

    path: str
    batching: dict[str, Any]
    logging: Logging | None


class Loaded(TypedDict):
    """What a front must know of a version that a worker has loaded."""

    signatures: list[Any]
    signature_def_map: str  #: base64
    memory: int | None  #: bytes that it takes
    dependent: dict[str, str]  #: why ``auto`` does not merge the requests for a signature


class Report(TypedDict):
    """What a worker has counted since it started."""

    metrics: dict[str, Any]


def batching_message(batching: Batching) -> dict[str, Any]:
    """For `batching`."""
    return asdict(batching)


def batching(message: dict[str, Any]) -> Batching:
    """What `batching_message` was made of."""
    parameters = dict(message["parameters"])
    parameters["allowed_batch_sizes"] = tuple(parameters["allowed_batch_sizes"])
    return Batching(message["mode"], BatchingParameters(**parameters), message["threads"])


def logging_message(config: LoggingConfig | None) -> Logging | None:
    """For `logging_config`."""
    return Logging(filename_prefix=config.filename_prefix, sampling_rate=config.sampling_rate) if config else None


def logging_config(message: Logging | None) -> LoggingConfig | None:
    """What `logging_message` was made of."""
    return LoggingConfig(message["filename_prefix"], message["sampling_rate"]) if message else None


def loaded(batcher: Batcher) -> Loaded:
    """A version that has loaded here."""
    return Loaded(
        signatures=[
            [s.name, s.method_name, _tensors(s.inputs), _tensors(s.outputs)] for s in batcher.signatures.values()
        ],
        signature_def_map=base64.b64encode(batcher.signature_def_map).decode(),
        memory=batcher.memory,
        dependent=dict(batcher.dependent),
    )


def signatures(message: Loaded) -> dict[str, Signature]:
    """The signatures as the management API tells them; values of defaults stay in the worker."""
    return {
        name: Signature(name, _infos(inputs), _infos(outputs), method)
        for name, method, inputs, outputs in message["signatures"]
    }


def _tensors(infos: Any) -> list[Any]:
    return [[key, info.name, info.dtype, info.numpy.name, info.shape] for key, info in infos.items()]


def _infos(tensors: list[Any]) -> dict[str, TensorInfo]:
    return {
        key: TensorInfo(name, dtype, np.dtype(numpy), None if shape is None else tuple(shape))
        for key, name, dtype, numpy, shape in tensors
    }


def signature_def_map(message: Loaded) -> bytes:
    """A serialized SignatureDefMap."""
    return base64.b64decode(message["signature_def_map"])

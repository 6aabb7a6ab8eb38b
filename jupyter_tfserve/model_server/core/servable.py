"""What a loaded version offers: signatures to call. Platforms make servables, everyone else only sees this."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: The signature that is meant when a request names none (`tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY`).
DEFAULT_SIGNATURE = "serving_default"

#: Of a tensor that is taken from a client. TF Serving takes 254; TensorFlow's Python interface walks arrays of strings
#: by numpy's old iterators, which know 32, and corrupts memory past them.
MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class TensorInfo:
    """One input or output as the model declares it."""

    name: str  #: of the tensor in the graph: "serving_default_x:0"
    dtype: str  #: TensorFlow's name: "float", "int32", "string", "half", ... (`DataTypeString`)
    numpy: np.dtype[Any]  #: what its arrays have; object for strings
    shape: tuple[int, ...] | None  #: -1 for an open dimension; None for unknown rank


@dataclass(frozen=True)
class Signature:
    """A way to call a servable."""

    name: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    method_name: str
    defaults: Mapping[str, Array] = field(default_factory=dict)  #: inputs that may be left out over gRPC

    @functools.cached_property
    def output_names(self) -> tuple[str, ...]:
        """Its outputs, in order."""
        return tuple(self.outputs)


class Servable(Protocol):
    """A loaded version. `run` may be called from many threads at once."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The ways to call it, by name."""

    @property
    def signature_def_map(self) -> bytes:
        """A serialized SignatureDefMap, for metadata."""

    def run(
        self, signature: Signature, inputs: Sequence[Array], outputs: tuple[str, ...], timeout_ms: int = 0
    ) -> list[Array]:
        """The named outputs for the inputs, which are all there, in the signature's order; string arrays have dtype
        object and hold bytes.

        Raises ServingError with the graph's own code and message; DEADLINE_EXCEEDED after `timeout_ms` (0: no limit).
        """

    def is_quick(self, signature: Signature) -> bool:
        """Whether its runs are known to be so short that they may happen in the thread that serves connections."""

    def close(self) -> None:
        """Free what it holds; no `run` is under way or will follow."""

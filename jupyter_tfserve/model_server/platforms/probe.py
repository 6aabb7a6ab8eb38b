"""The probe: which signatures answer a row in the same way whatever rows stand beside it, so that ``auto`` batching may
merge their requests. Called by `batching_settings.py` while a version loads, before it is available.

A signature passes if all of its inputs and outputs have an open leading dimension, a run of it leaves nothing behind,
and two rows that have different answers have the same ones alone and together, in either order. This is evidence and
no proof: where it says too little, or nothing can be run, the signature is not merged.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tensorflow_serving.apis import prediction_log_pb2

from .. import tensorflow_parts as parts
from ..codecs import proto_tensor
from ..core.servable import DEFAULT_SIGNATURE, Array, Servable, Signature, TensorInfo
from ..errors import ServingError
from ..inference import complete
from .warmup import WARMUP_FILE

log = logging.getLogger(__name__)

#: The time limit of REST requests by default: TensorFlow makes an executor for each limit, and theirs is made anyway.
_TIMEOUT_MS = 30_000

#: What an open inner dimension is tried with: the second is for models of images, which shrink what they are given.
_SIZES = (4, 64)

#: Rows made up of floats lie between 0 and this; where the answers are all the same they are tried farther apart.
_SCALES = (1.0, 100.0)

#: Warm-up records that are looked at.
_RECORDS = 100

#: By dtype the relative difference that is rounding, and the absolute one in parts of the largest number.
_ROUNDING = {
    "float16": (1e-2, 1e-3),
    "bfloat16": (5e-2, 1e-2),
    "float32": (1e-4, 1e-5),
    "complex64": (1e-4, 1e-5),
    "float64": (1e-9, 1e-10),
    "complex128": (1e-9, 1e-10),
}

#: So many times as much as rounding must two rows' answers differ to tell anything.
_CLEARLY = 10

#: Verdicts where the rows' answers are too much alike to tell. Numbers that are the same to the bit in all runs are
#: those of a model that is not trained, and harmless; a class or a word hides what made it.
_ALIKE = "the probe's rows all had the same answer, which tells nothing; warm-up requests give it other rows"
_CONSTANT = "constant"

#: One row for each input of a signature, shape [1, ...].
Row = Sequence[Array]


@runtime_checkable
class _HasGraph(Protocol):
    """A servable whose graph can be looked at."""

    def effect(self, signature: Signature) -> str:
        """The type of an op that keeps state or is random; "" if there is none."""


def probe(servable: Servable, path: Path) -> dict[str, str]:
    """Why requests must not be merged, by signature; one that is not in it passed. It does not raise."""
    recorded = _recorded(servable, path)
    found = {}
    for name, signature in servable.signatures.items():
        try:
            why = _why_not(servable, signature, recorded.get(name, ()))
        except Exception as error:  # what a model does when it is asked something odd must not fail its load
            log.warning("The probe of signature %s in %s failed", name, path, exc_info=True)
            why = f"the probe failed: {type(error).__name__}: {error}"
        if why:
            found[name] = why
    return found


def _why_not(servable: Servable, signature: Signature, recorded: Sequence[Row]) -> str:
    """Why requests for a signature must not be merged, "" if they may be."""
    if not signature.inputs:
        return "it has no input"
    for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        for name, info in tensors.items():
            if not info.shape or info.shape[0] != -1:
                return f"{kind} {name!r} has no open leading dimension"
    if not isinstance(servable, _HasGraph):
        return "its graph cannot be looked at"
    effect = servable.effect(signature)
    if effect:
        return f"its graph has {effect}, which keeps state, is random, or is not known"
    why = ""
    for one, other in _pairs(signature, recorded):
        try:
            verdict = _compare(servable, signature, one, other)
        except ServingError as error:
            why = why or f"the probe could not run it: {(error.message.strip() or error.code.name).splitlines()[0]}"
            continue
        if verdict not in (_ALIKE, _CONSTANT):
            return verdict
        why = _ALIKE if why == _ALIKE else verdict
    return "" if why == _CONSTANT else why


def _compare(servable: Servable, signature: Signature, one: Row, other: Row) -> str:
    """Why rows depend on each other, "" if they do not; _ALIKE or _CONSTANT if their answers do not tell."""

    def run(*rows: Row) -> list[Array]:
        inputs = [np.concatenate(arrays) for arrays in zip(*rows, strict=True)]
        return servable.run(signature, inputs, signature.output_names, _TIMEOUT_MS)

    first, second = run(one), run(other)
    noise = dict.fromkeys(signature.outputs, 0.0)
    for alone, together in ((first, second), run(one, other)), ((second, first), run(other, one)):
        for name, before, after, got in zip(signature.outputs, *alone, together, strict=True):
            if len(before) != 1 or len(after) != 1:
                return f"output {name!r} does not have a row for each row of the inputs"
            if got.shape != (2, *before.shape[1:]) or before.shape != after.shape:
                return f"the shape of output {name!r} depends on what rows there are"
            expected = np.concatenate([before, after])
            if not _is_close(expected, got):
                return f"the rows of output {name!r} depend on each other"
            noise[name] = max(noise[name], _distance(expected, got))
    # Where the rows' answers hardly differ, the one that leaks into the other is hardly seen: no more than rounding.
    differ = any(
        _distance(x, y) > _CLEARLY * noise[name] for name, x, y in zip(signature.outputs, first, second, strict=True)
    )
    if differ:
        return ""
    is_constant = all(array.dtype.name in _ROUNDING for array in first) and not any(noise.values())
    return _CONSTANT if is_constant else _ALIKE


def _is_close(expected: Array, got: Array) -> bool:
    """Whether they differ by rounding only; NaN is NaN."""
    rounding = _ROUNDING.get(expected.dtype.name)
    if rounding is None:
        return bool(np.array_equal(expected, got))
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    expected, got = expected.astype(wide), got.astype(wide)
    finite = np.abs(expected[np.isfinite(expected)])
    largest = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(got, expected, rounding[0], rounding[1] * largest, equal_nan=True))


def _distance(one: Array, other: Array) -> float:
    """The largest difference between two arrays of one shape; 1 where things differ that are no numbers."""
    if one.dtype.kind not in "fciu" and one.dtype.name not in _ROUNDING:
        return float(not np.array_equal(one, other))
    wide = np.complex128 if one.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):
        difference = np.abs(one.astype(wide) - other.astype(wide))
    finite = difference[np.isfinite(difference)]
    return float(finite.max()) if finite.size else 0.0


def _pairs(signature: Signature, recorded: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Pairs of rows to try: two of the recorded ones; else one beside a made-up one, then made-up ones alone."""
    infos = list(signature.inputs.values())
    if recorded:
        first = recorded[0]
        for row in recorded[1:]:
            if all(x.shape == y.shape for x, y in zip(first, row, strict=True)) and not all(
                map(np.array_equal, first, row)
            ):
                yield first, row
                return
        yield first, [_made_up(info, array.shape[1:], 1, 1.0) for info, array in zip(infos, first, strict=True)]
    is_open = any(-1 in (info.shape or ())[1:] for info in infos)
    for scale, size in itertools.product(_SCALES, _SIZES if is_open else _SIZES[:1]):
        shapes = [tuple(size if n == -1 else n for n in (info.shape or ())[1:]) for info in infos]
        one, other = (
            [_made_up(info, shape, which, scale) for info, shape in zip(infos, shapes, strict=True)] for which in (0, 1)
        )
        yield one, other


def _made_up(info: TensorInfo, shape: Sequence[int], which: int, scale: float) -> Array:
    """A row of a type and shape; two of them, `which` 0 and 1, differ."""
    size = (1, *shape)
    if info.numpy.hasobject:
        return np.full(size, (b"a", b"b")[which], object)
    if info.numpy.kind in "biu":
        return np.full(size, which, info.numpy)
    return (np.random.default_rng(which).random(size) * scale).astype(info.numpy)  # fractions, each time the same


def _recorded(servable: Servable, path: Path) -> Mapping[str, list[Row]]:
    """The rows of the Predict requests in a version's warm-up file, by signature; what is wrong with the file is said
    by the warm-up itself.
    """
    found: dict[str, list[Row]] = {}
    file = path / WARMUP_FILE
    if not file.exists():
        return found
    try:
        for record in itertools.islice(parts.tf_record_iterator(str(file)), _RECORDS):
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            signature = servable.signatures.get(request.model_spec.signature_name or DEFAULT_SIGNATURE)
            if signature is not None and request.inputs:
                given = {key: proto_tensor.decode(tensor, key) for key, tensor in request.inputs.items()}
                found.setdefault(signature.name, []).extend(_rows(signature, given))
    except Exception:  # protobuf's DecodeError differs between its implementations
        log.info("The probe cannot use %s", file, exc_info=True)
    return found


def _rows(signature: Signature, given: Mapping[str, Any]) -> Iterator[Row]:
    """The first two rows of a request; none where its inputs have no rows in common."""
    inputs = complete(signature, given)
    arrays = [inputs[name] for name in signature.inputs]
    if all(array.ndim for array in arrays):
        for start in range(min(2, *(len(array) for array in arrays), 2)):
            yield [array[start : start + 1] for array in arrays]

"""A request to try a model with: what a registration kept with the version, else one made from the signature. The
management API hands it out; the panels fill their *try it* boxes with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..api import Example
from ..store import EXAMPLE
from .core.servable import DEFAULT_SIGNATURE, Signature, TensorInfo
from .errors import Code, ServingError
from .origin import read_json

#: Numbers that an example may hold: an image of 512 x 512 x 3 is written as JSON in 3 MB.
_LARGEST = 1 << 20


def example(signatures: Mapping[str, Signature], path: Path, wanted: str = "") -> Example:
    """The example of the signature `wanted` ("": the default). Raises ServingError for one that there is not, or whose
    example would be too large.
    """
    default = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures), "")
    name = wanted or default
    signature = signatures.get(name)
    if signature is None:
        raise ServingError(
            Code.NOT_FOUND, f"There is no signature {name!r}.", f"There are: {', '.join(sorted(signatures)) or 'none'}."
        )
    kept = read_json(path / EXAMPLE)
    if kept is not None and kept.get("signature_name", default) == name and _is_request(kept):
        return Example(signature=name, body=kept)
    return Example(signature=name, body=_made_up(signature))


def _is_request(body: dict[str, Any]) -> bool:
    """Whether what lay beside the model is a predict request in plain JSON."""
    try:
        json.dumps(body, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return "instances" in body or "inputs" in body


def _made_up(signature: Signature) -> dict[str, Any]:
    """One row, or as many as the signature wants."""
    inputs = signature.inputs
    size = sum(math.prod(map(abs, info.shape or ())) for info in inputs.values())
    if size > _LARGEST:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f"An example for signature {signature.name!r} would have {size:,} values.",
            "Send such tensors as bytes: TensorFlow Serving's gRPC API, or application/x-protobuf on the same URL.",
        )
    body: dict[str, Any] = {} if signature.name == DEFAULT_SIGNATURE else {"signature_name": signature.name}
    if len(inputs) == 1 and (info := next(iter(inputs.values()))).shape != ():
        return {**body, "instances": [_zero(info)] if info.shape is None else _zeros(info)}
    return {**body, "inputs": {name: _zeros(info) for name, info in inputs.items()}}


def _zeros(info: TensorInfo) -> Any:
    value: Any = _zero(info)
    for size in reversed(info.shape or ()):
        value = [value] * (1 if size == -1 else size)
    return value


def _zero(info: TensorInfo) -> Any:
    kind = info.numpy.kind
    return "" if kind == "O" else False if kind == "b" else 0 if kind in "iu" else 0.0

"""Python values to and from TF Serving's JSON. Used by `predict` and for examples; needs no TensorFlow."""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Mapping
from typing import Any

from .errors import KernelError


def plain(value: Any) -> Any:
    """`value` as `json.dumps` takes it: arrays and tensors of any library become lists, bytes become ``{"b64": ...}``.

    Raises KernelError for what has no place in JSON.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return {"b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    array = value
    for method in (
        "detach",
        "to_numpy",
        "numpy",
    ):  # torch with gradients; pandas and polars; TensorFlow, Keras and torch
        if callable(getattr(array, method, None)):
            array = getattr(array, method)()
    kind = getattr(getattr(array, "dtype", None), "kind", "")
    if kind == "c" or not callable(getattr(array, "tolist", None)):
        raise KernelError(
            f"A {type(value).__name__}{' of complex numbers' if kind == 'c' else ''} cannot be sent as JSON.",
            "Give arrays, tensors, lists, numbers, strings or bytes, or a dict of them by input name.",
        )
    items = array.tolist()
    return items if kind in "iufb" and kind else plain(items)


def request_body(value: Any, signature: str = "") -> dict[str, Any]:
    """The body of a Predict request: a dict becomes columns by input name, anything else the rows of the only input.

    A dict that is a request already (``instances`` or ``inputs``) stays as it is.
    """
    if isinstance(value, Mapping):
        body: dict[str, Any] = plain(value)
        if "instances" not in body and "inputs" not in body:
            body = {"inputs": body}
    else:
        rows = plain(value)
        body = {"instances": rows if isinstance(rows, list) else [rows]}
    if signature:
        body["signature_name"] = signature
    return body


def results(response: Any) -> Any:
    """What a Predict response holds, as numpy arrays where there is numpy: one array, or a dict by output name."""
    if not isinstance(response, dict):
        return response
    if "predictions" not in response:
        outputs = response.get("outputs", response)
        return {name: _array(item) for name, item in outputs.items()} if _by_name(outputs) else _array(outputs)
    rows = response["predictions"]
    if isinstance(rows, list) and rows and all(_by_name(row) for row in rows):
        return {name: _array([row[name] for row in rows]) for name in rows[0]}
    return _array(rows)


def first_row(body: dict[str, Any]) -> dict[str, Any]:
    """A request body cut to its first row, as an example that is short enough to read."""
    if isinstance(body.get("instances"), list):
        return {**body, "instances": body["instances"][:1]}
    inputs = body.get("inputs")
    if isinstance(inputs, dict) and inputs and all(isinstance(item, list) for item in inputs.values()):
        return {**body, "inputs": {name: item[:1] for name, item in inputs.items()}}
    return body


def _by_name(item: Any) -> bool:
    return isinstance(item, dict) and set(item) != {"b64"}


def _decoded(item: Any) -> Any:
    if isinstance(item, dict) and set(item) == {"b64"}:
        return base64.b64decode(item["b64"])
    if isinstance(item, list):
        return [_decoded(part) for part in item]
    return item


def _array(item: Any) -> Any:
    """A list as an array if it is rectangular; else as it is."""
    item = _decoded(item)
    if not isinstance(item, list) or importlib.util.find_spec("numpy") is None:
        return item
    import numpy as np

    try:
        array = np.array(item)
    except ValueError:  # ragged
        return item
    # Python strings and bytes of unequal length stay objects: numpy's fixed width would strip trailing NULs.
    return np.array(item, dtype=object) if array.dtype.kind in "US" else array

"""Tensors to replies in TF Serving's JSON (`util/json_tensor.cc`): row format (`predictions`), columns (`outputs`)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence

import numpy as np
import orjson

from ..core.servable import Array, Signature
from ..errors import invalid
from .json_tensor import DTYPES, Json


def encode_rows(outputs: Sequence[Array], signature: Signature) -> bytes:
    """``{"predictions": [...]}``: a value for each row, or an object where there are several outputs. `outputs` are all
    of the signature's, in its order.
    """
    if len(outputs) == 1 and (text := _plain_numbers(outputs[0])) is not None:
        return b'{\n    "predictions": ' + text + b"\n}"
    count: int | None = None
    for name, array in zip(signature.outputs, outputs, strict=True):
        _check_written(name, signature)
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if count is None:
            count = len(array)
        elif len(array) != count:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {count}")
    if len(outputs) == 1:
        return b'{\n    "predictions": ' + _write(signature.output_names[0], outputs[0]) + b"\n}"
    columns = {name: _listed(name, array) for name, array in zip(signature.outputs, outputs, strict=True)}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return b'{\n    "predictions": ' + _dumps(rows) + b"\n}"


def encode_many_rows(array: Array, counts: Sequence[int]) -> list[bytes] | None:
    """`encode_rows` of the only output for many requests at once: `array` has the rows of all of them, `counts` says
    how many each of them has. None where that is more than one text, cut.
    """
    text = _plain_numbers(array) if array.ndim <= 2 else None
    if text is None:
        return None
    if len(counts) == 1:
        return [b'{\n    "predictions": %b\n}' % text]
    brackets = array.ndim
    between = b"],[" if brackets == 2 else b","
    rows = text[brackets:-brackets].split(between)
    if len(rows) > len(counts):
        start, cut = 0, rows
        rows = []
        for count in counts:
            end = start + count
            rows.append(between.join(cut[start:end]))
            start = end
    if brackets == 2:
        return [b'{\n    "predictions": [[%b]]\n}' % row for row in rows]
    return [b'{\n    "predictions": [%b]\n}' % row for row in rows]


def encode_columns(outputs: Sequence[Array], signature: Signature) -> bytes:
    """``{"outputs": ...}``: a value, or an object where there are several outputs."""
    if len(outputs) == 1 and (text := _plain_numbers(outputs[0])) is not None:
        return b'{\n    "outputs": ' + text + b"\n}"
    for name in signature.outputs:
        _check_written(name, signature)
    if len(outputs) == 1:
        return b'{\n    "outputs": ' + _write(signature.output_names[0], outputs[0]) + b"\n}"
    parts = [
        json.dumps(name).encode() + b": " + _write(name, array)
        for name, array in zip(signature.outputs, outputs, strict=True)
    ]
    return b'{\n    "outputs": {\n        ' + b",\n        ".join(parts) + b"\n    }\n}"


def encode_classes(classes: Sequence[Sequence[tuple[bytes, float]]]) -> bytes:
    """``{"results": [[["label", score], ...], ...]}``."""
    results = [[[label.decode("utf-8", "surrogateescape"), score] for label, score in row] for row in classes]
    return b'{\n    "results": ' + _dumps(results) + b"\n}"


def encode_values(values: Array) -> bytes:
    """``{"results": [value, ...]}``, floats of shape [n]."""
    return b'{\n    "results": ' + _write("", values) + b"\n}"


def _check_written(name: str, signature: Signature) -> None:
    dtype = signature.outputs[name].dtype
    if dtype not in DTYPES:
        raise invalid(f"Failed to write JSON value for tensor type: {dtype}")


#: numpy's characters for the types whose arrays orjson writes as they are to be written.
_PLAIN = frozenset("fdbhilqBILQ?")


def _plain_numbers(array: Array) -> bytes | None:
    """Numbers as JSON: any text that reads back as the same values. None where it takes more than orjson."""
    if array.dtype.char not in _PLAIN or not array.ndim:
        return None
    try:
        text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # its values do not lie one behind the other
        text = orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    return None if b"n" in text else text  # what is not finite would be null


def _write(name: str, array: Array) -> bytes:
    """One output's value as JSON: any text that reads back as the same values."""
    text = _plain_numbers(array)
    return _dumps(_listed(name, array)) if text is None else text


def _has_non_finite(array: Array) -> bool:
    return array.dtype.kind == "f" and not bool(np.isfinite(array).all())


def _listed(name: str, array: Array) -> Json:
    """An output as Python values: floats as the shortest double that reads back as the same value."""
    if array.dtype == object:
        if name.endswith("_bytes"):
            return _map(array, lambda item: {"b64": base64.b64encode(item).decode()})
        return _map(array, lambda item: item.decode("utf-8", "surrogateescape"))
    if array.dtype == np.float32 and array.ndim and not _has_non_finite(array):
        # Each as its shortest decimal: half the digits of what tolist() would give.
        return orjson.loads(_write(name, array))
    return array.tolist()


def _map(array: Array, convert: Callable[[bytes], Json]) -> Json:
    flat: Sequence[bytes] = array.ravel().tolist()
    changed = np.empty(array.size, object)
    changed[:] = [convert(item) for item in flat]
    return changed.reshape(array.shape).tolist()


def _dumps(value: Json) -> bytes:
    # Not orjson: it writes NaN as null and refuses text that is not UTF-8.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")

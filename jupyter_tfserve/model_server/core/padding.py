"""The arrays of many requests as those of one run: rows below each other, padded where the settings ask for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import Code, ServingError, invalid
from .servable import Array


def rows_of(inputs: Sequence[Array], strict: bool) -> int:
    """The rows that the inputs have in common; 0 without inputs, and where they have none unless that is an error."""
    rows = -1
    for array in inputs:
        shape = array.shape
        if not shape:
            if strict:
                raise invalid("Batching Run() input tensors must have at least one dimension")
            return 0
        if shape[0] != rows >= 0:
            if strict:
                raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
            return 0
        rows = shape[0]
    return max(rows, 0)


def merged(requests: Sequence[Sequence[Array]], padding: int, lengthen: bool) -> list[Array]:
    """The inputs of all requests with their rows below each other, and `padding` copies of the first row; with
    `lengthen` of the longest length, where lengths differ.
    """
    inputs = []
    for arrays in map(list, zip(*requests, strict=True)):
        if lengthen and len({array.shape[1:] for array in arrays}) > 1:
            longest = np.max([array.shape[1:] for array in arrays], axis=0)
            arrays = [_lengthened(array, longest) for array in arrays]
        if padding:
            arrays.append(np.repeat(arrays[0][:1], padding, axis=0))
        inputs.append(np.concatenate(arrays))
    return inputs


def _lengthened(array: Array, shape: Array) -> Array:
    """Padded to a row shape with its own first value, as TF Serving does."""
    widths = [(0, 0), *((0, int(size) - have) for size, have in zip(shape, array.shape[1:], strict=True))]
    fill = array.reshape(-1)[0] if array.size else (b"" if array.dtype.hasobject else 0)
    return np.pad(array, widths, constant_values=fill)


def check_rows(found: Sequence[Array], rows: int) -> None:
    """Raise FAILED_PRECONDITION if outputs do not have a row for each row of the inputs."""
    for array in found:
        shape = array.shape
        if not shape:
            raise ServingError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if shape[0] != rows:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                "input tensors",
            )

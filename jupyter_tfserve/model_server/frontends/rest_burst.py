"""Predict requests in JSON that came in one burst, to one path, and are alike: they wait, run and are answered as one,
so that each of them costs little more than its bytes. What is not so plain goes its own way (`rest_predict.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..codecs import json_numbers, json_reply
from ..core.batch_queue import Queue
from ..core.manager import Version
from ..core.servable import Array
from ..core.tasks import Task
from ..errors import Code, ServingError
from .http import Exchange

if TYPE_CHECKING:
    from ..core.batching import Batcher
    from .rest_predict import Target

log = logging.getLogger(__name__)


class Together(Task):
    """Requests whose rows are below each other already."""

    __slots__ = ("_alike", "_began", "_queue", "_target", "_version", "requests")

    api = "Predict"

    def __init__(self, target: Target, version: Version, queue: Queue, alike: Alike) -> None:
        """The version is held for them; it is released when they are answered."""
        super().__init__([alike.rows], target.deadline)
        self.requests = len(alike.exchanges)
        self._alike = alike
        self._began = target.began
        self._target = target
        self._version = version
        self._queue = queue

    def done(self, outputs: list[Array]) -> None:
        """Answer."""
        self._target.where_there_is_time([outputs], self._answer, outputs)

    def _answer(self, outputs: list[Array]) -> None:
        alike, target = self._alike, self._target
        exchanges: Sequence[Exchange] = alike.exchanges
        replies = None
        if alike.row_format and len(outputs) == 1:
            replies = json_reply.encode_many_rows(outputs[0], alike.counts)
        if replies is None:
            exchanges, replies = self._encode_each(outputs)
        target.shared.core.manager.release(self._version)
        target.answer(exchanges, replies, [self._began] * len(replies))

    def _encode_each(self, outputs: list[Array]) -> tuple[list[Exchange], list[bytes]]:
        """The answers, and whose they are; who cannot be answered has been told."""
        alike, signature = self._alike, self._queue.signature
        encode = json_reply.encode_rows if alike.row_format else json_reply.encode_columns
        answered: list[Exchange] = []
        replies: list[bytes] = []
        start = 0
        for exchange, count in zip(alike.exchanges, alike.counts, strict=True):
            try:
                replies.append(encode([array[start : start + count] for array in outputs], signature))
                answered.append(exchange)
            except ServingError as error:
                self._target.refuse(exchange, error)
            except Exception:
                log.exception("A reply failed")
                self._target.refuse(exchange, ServingError(Code.INTERNAL, "Internal error"))
            start += count
        return answered, replies

    def failed(self, error: ServingError) -> None:
        """An error is its request's: each is run alone."""
        target = self._target
        target.shared.core.manager.release(self._version)
        target.shared.call(target.start_each, self._alike.exchanges)

    def is_cancelled(self) -> bool:
        """Whether all clients have gone away."""
        return all(exchange.connection.is_abandoned for exchange in self._alike.exchanges)


@dataclass(slots=True)
class Alike:
    """Requests that can be one run."""

    exchanges: list[Exchange]
    rows: Array  #: of all of them, below each other
    counts: list[int]  #: how many of these each has
    row_format: bool


def start_together(target: Target, exchanges: list[Exchange]) -> Sequence[Exchange]:
    """Run those requests at once that can be run together; returns the others. In the event loop's thread."""
    core = target.shared.core
    if target.model in core.logged:
        return exchanges  # each of them is to be written down
    try:
        version = core.acquire(*target.spec)
    except ServingError:
        return exchanges  # an error in a body is told before this one
    sorted_out: Sequence[Alike] = ()
    try:
        queue = version.loaded.whole("")
        if queue is None or not queue.merges_at_once or not json_numbers.is_taken_by(queue.signature):
            return exchanges
        sorted_out, others = _sort(exchanges, version.loaded, queue)
    finally:
        if not sorted_out:
            core.manager.release(version)
    for _ in sorted_out[1:]:  # each releases it when it is answered, and the first is at once
        core.manager.hold(version)
    for place, alike in enumerate(sorted_out):
        task = Together(target, version, queue, alike)
        try:
            # The first runs now; for the others there may be no time in this turn.
            queue.submit(task, target.shared.loop.call_soon, now=place == 0)
        except ServingError:  # too much waits; there may be room for some
            core.manager.release(version)
            others.extend(alike.exchanges)
    return others


def _sort(exchanges: list[Exchange], servable: Batcher, queue: Queue) -> tuple[Sequence[Alike], list[Exchange]]:
    """Runs, and the requests that are to go their own way."""
    most = queue.largest_run
    together = json_numbers.read_together([exchange.body for exchange in exchanges], queue.signature)
    if together is not None and len(together[0]) <= most:
        return [Alike(exchanges, *together, True)], []
    kinds: dict[tuple[object, ...], list[tuple[Exchange, Array]]] = {}
    others = []
    for exchange in exchanges:
        decoded = _decode(exchange.body, servable, queue)
        if decoded is None or len(decoded[1]) > most:
            others.append(exchange)
        else:
            row_format, array = decoded
            kinds.setdefault((row_format, *array.shape[1:]), []).append((exchange, array))
    return [alike for kind, found in kinds.items() for alike in _runs(found, most, bool(kind[0]))], others


def _decode(body: bytes, servable: Batcher, queue: Queue) -> tuple[bool, Array] | None:
    """Whether a body is in row format, and its array; None if that is not all there is to it."""
    numbers = json_numbers.read(body)
    if numbers is None or servable.whole(numbers.signature_name) is not queue:
        return None
    array = numbers.array(queue.signature)
    return None if array is None else (numbers.row_format, array)


def _runs(decoded: Sequence[tuple[Exchange, Array]], most: int, row_format: bool) -> Iterator[Alike]:
    """Requests of one kind as runs of up to so many rows."""
    exchanges: list[Exchange] = []
    arrays: list[Array] = []
    counts: list[int] = []
    for exchange, array in decoded:
        if sum(counts) + len(array) > most:
            yield Alike(exchanges, np.concatenate(arrays), counts, row_format)
            exchanges, arrays, counts = [], [], []
        exchanges.append(exchange)
        arrays.append(array)
        counts.append(len(array))
    yield Alike(exchanges, arrays[0] if len(arrays) == 1 else np.concatenate(arrays), counts, row_format)

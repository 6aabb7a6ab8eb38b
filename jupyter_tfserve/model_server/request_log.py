"""Request logging: a sample of a model's requests and replies as TFRecords of PredictionLog, which TensorFlow reads
and which are a valid warm-up file. A model asks for it by `logging_config` in its ModelConfig.

A request never waits for the log nor fails with it: records go through a bounded queue to a thread that writes; what
does not fit, or cannot be written, is counted and dropped.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import metrics
from .core.policy import LoggingConfig

log = logging.getLogger(__name__)

#: Bytes after which a new file is begun.
ROTATE_BYTES = 64 * 1024 * 1024

#: Seconds after which what was written can be read by others, at the latest.
FLUSH_SECONDS = 1.0

#: Records that may wait for the disk.
_MAX_WAITING = 1000

#: Seconds between two complaints about a disk that does not take what is written.
_COMPLAINT_SECONDS = 60.0


@dataclass
class _File:
    """The file that a prefix is written to now."""

    writer: Any  #: a TFRecordWriter
    path: Path
    size: int = 0


class RequestLogs:
    """The logs of all models. `sampled` is asked for each request: it costs a dictionary look-up where nothing is
    logged.
    """

    def __init__(self, rotate_bytes: int = ROTATE_BYTES) -> None:
        self._rotate_bytes = rotate_bytes
        self._waiting: queue.Queue[tuple[str, LoggingConfig, Callable[[], bytes]] | None] = queue.Queue(_MAX_WAITING)
        self._files: dict[str, _File] = {}
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._complained = 0.0
        self._number = 0

    def offer(self, model: str, config: LoggingConfig | None, record: Callable[[float], bytes]) -> None:
        """Log a request if its model's config (None: nothing is logged) and the dice say so; never waits, never fails.

        `record` makes the serialized PredictionLog from the sampling rate, in the log's own thread.
        """
        if config is None or random.random() >= config.sampling_rate:
            return
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="request-log", daemon=True)
                self._thread.start()
        rate = config.sampling_rate
        try:
            self._waiting.put_nowait((model, config, lambda: record(rate)))
        except queue.Full:
            metrics.LOG_RECORDS.add(model, "dropped")

    def close(self) -> None:
        """Write what waits and close the files."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    # In the log's thread.

    def _write_all(self) -> None:
        flushed = time.monotonic()
        while True:
            try:
                item = self._waiting.get(timeout=FLUSH_SECONDS)
                if item is None:
                    break
                self._write(*item)
            except queue.Empty:
                pass
            if time.monotonic() - flushed >= FLUSH_SECONDS:
                flushed = time.monotonic()
                self._each(lambda file: file.writer.flush())
        self._each(lambda file: file.writer.close())
        self._files.clear()

    def _write(self, model: str, config: LoggingConfig, record: Callable[[], bytes]) -> None:
        try:
            content = record()
            file = self._files.get(config.filename_prefix) or self._open(config.filename_prefix)
            file.writer.write(content)
            file.size += len(content)
            metrics.LOG_RECORDS.add(model, "written")
            if file.size >= self._rotate_bytes:
                del self._files[config.filename_prefix]
                file.writer.close()
        except Exception as error:  # a full disk, a folder that went away: the request was answered long ago
            self._files.pop(config.filename_prefix, None)
            metrics.LOG_RECORDS.add(model, "failed")
            if time.monotonic() - self._complained > _COMPLAINT_SECONDS:
                self._complained = time.monotonic()
                log.error("Requests of %s cannot be logged to %s: %s", model, config.filename_prefix, error)

    def _open(self, prefix: str) -> _File:
        from .tensorflow_parts import (
            TFRecordWriter,  # here, as a front has such logs and no TensorFlow: its workers write them
        )

        self._number += 1
        name = f"{prefix}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}-{self._number:05d}.tfrecord"
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600))  # requests are nobody else's to read
        file = self._files[prefix] = _File(TFRecordWriter(name), Path(name))
        return file

    def _each(self, action: Callable[[_File], None]) -> None:
        for prefix, file in list(self._files.items()):
            try:
                action(file)
            except Exception as error:  # TensorFlow's: the disk is full
                del self._files[prefix]
                log.error("%s: %s", file.path, error)

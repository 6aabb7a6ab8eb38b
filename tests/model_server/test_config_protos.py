"""The config messages that we declare ourselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_tfserve.model_server import config_protos
from jupyter_tfserve.model_server.errors import Code, ServingError


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "batching.config"
    path.write_text("max_batch_size { value: 8 } allowed_batch_sizes: [2, 8]")
    message = config_protos.read("BatchingParameters", path)
    assert (message.max_batch_size.value, list(message.allowed_batch_sizes)) == (8, [2, 8])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "batching.config"
    for content, code, said in (
        (None, Code.NOT_FOUND, "batching.config"),
        (b"\xff\xfe", Code.INVALID_ARGUMENT, "is no text"),
        (b"max_batch_sise {}", Code.INVALID_ARGUMENT, "Error parsing text-format"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ServingError, match=said) as refused:
            config_protos.read("BatchingParameters", path)
        assert refused.value.code is code

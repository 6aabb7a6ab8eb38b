"""Requests to try a model with: those made from a signature are answered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import StoreServer, publish

from jupyter_tfserve.client import TFServeError
from jupyter_tfserve.model_server.core.servable import Signature, TensorInfo
from jupyter_tfserve.model_server.errors import ServingError
from jupyter_tfserve.model_server.example import example
from jupyter_tfserve.store import EXAMPLE


@pytest.mark.parametrize("name", ["affine", "several", "echo", "keras_export", "tf1"])
def test_every_signature_answers_its_example(server: StoreServer, name: str) -> None:
    with server.client() as client:
        answered = 0
        for signature in client.model(name)["signatures"]:
            found = client.example(name, signature)
            assert found["signature"] == signature
            try:
                answer = client.predict(name, found["body"])
            except TFServeError as error:
                # What TF Serving's JSON cannot say, and the signature that refuses everything.
                assert re.search("not supported|no shape information|x is too large", error.message), (signature, error)
                continue
            assert answer.get("predictions", answer.get("outputs")) is not None, (signature, answer)
            answered += 1
        assert answered
        assert client.example(name)["signature"] in ("serving_default", next(iter(client.model(name)["signatures"])))


def test_what_was_kept_comes_first(server: StoreServer, models: Path) -> None:
    folder = publish(models / "affine" / "1", server.store / "kept", 1)
    (folder / EXAMPLE).parent.mkdir(exist_ok=True)
    (folder / EXAMPLE).write_text('{"instances": [41.0]}')
    with server.client() as client:
        client.register("kept", {})
        client.model("kept", wait=1, timeout=60)
        assert client.example("kept") == {"signature": "serving_default", "body": {"instances": [41.0]}}
        assert client.predict("kept", client.example("kept")["body"]) == {"predictions": [42.0]}
        client.unregister("kept")


def signature(*shape: int | None, dtype: str = "float32", known: bool = True) -> dict[str, Signature]:
    kind = np.dtype(object if dtype == "string" else dtype)
    info = TensorInfo("x:0", dtype, kind, tuple(shape) if known else None)  # type: ignore[arg-type]
    return {"s": Signature("s", {"x": info}, {}, "")}


@pytest.mark.parametrize(
    ("signatures", "body"),
    [
        (signature(-1, 2), {"instances": [[0.0, 0.0]]}),
        (signature(3), {"instances": [0.0, 0.0, 0.0]}),
        (signature(), {"inputs": {"x": 0.0}}),
        (signature(known=False), {"instances": [0.0]}),
        (signature(-1, -1, dtype="string"), {"instances": [[""]]}),
        (signature(-1, dtype="bool"), {"instances": [False]}),
        (signature(-1, dtype="int64"), {"instances": [0]}),
    ],
)
def test_shapes(signatures: dict[str, Signature], body: dict[str, Any], tmp_path: Path) -> None:
    assert example(signatures, tmp_path) == {"signature": "s", "body": {"signature_name": "s", **body}}


def test_too_large(tmp_path: Path) -> None:
    with pytest.raises(ServingError) as refused:
        example(signature(-1, 2048, 2048), tmp_path)
    assert "4,194,304" in refused.value.message and "gRPC" in refused.value.remedy


@pytest.mark.parametrize(
    "kept", [b"[1]", b'{"instances": NaN}', b'{"rows": 1}', b'{"instances": ' + b"[" * 5000 + b"]" * 5000 + b"}"]
)
def test_a_bad_file_is_no_example(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / EXAMPLE).parent.mkdir()
    (tmp_path / EXAMPLE).write_bytes(kept)
    found = example(signature(-1), tmp_path)
    assert found["body"]["instances"] == [0.0]
    json.dumps(found, allow_nan=False)


def test_refusals(server: StoreServer) -> None:
    with server.client() as client:
        for name, wanted in (("nothing", ""), ("affine", "no_such")):
            with pytest.raises(TFServeError) as refused:
                client.example(name, wanted)
            assert refused.value.status == 404 and refused.value.remedy

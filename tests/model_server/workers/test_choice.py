"""When there are workers: decided without TensorFlow, before anything slow is imported."""

from __future__ import annotations

import pytest
import tensorflow as tf

from jupyter_tfserve.model_server.flags import parse
from jupyter_tfserve.model_server.workers import choice


@pytest.mark.parametrize(
    "flags, simulated, expected",
    [
        ([], "", False),
        (["--isolation=device"], "", False),  # one device: nothing is gained by a front
        (["--isolation=device"], "cpu:1", True),
        (["--isolation=device", "--workers=always"], "", True),
        (["--workers=always"], "", True),
        (["--isolation=model"], "", True),
        (["--isolation=version"], "", True),
        (["--worker", "--management_socket=/s", "--isolation=version"], "", False),
    ],
)
def test_is_front(monkeypatch: pytest.MonkeyPatch, flags: list[str], simulated: str, expected: bool) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TFSERVE_SIMULATED_DEVICES", simulated)
    assert choice.is_front(parse(flags)) is expected


def test_the_build_is_known_without_an_import() -> None:
    assert choice._is_cuda_build() is bool(tf.sysconfig.get_build_info()["is_cuda_build"])


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--isolation=nonsense"], "--isolation takes one of none, device, model, version"),
        (["--workers=many"], "--workers takes one of auto, always"),
        (["--worker"], "--worker needs --management_socket"),
        (["--isolation=device", "--instances=2"], "--isolation and --instances cannot be used together"),
    ],
)
def test_flags_that_cannot_be(capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        parse(flags)
    assert message in capsys.readouterr().err

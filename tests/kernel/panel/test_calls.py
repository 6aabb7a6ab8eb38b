"""Calls that can be copied, run as they stand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PATIENCE
from jupyter_process import JupyterServer

from jupyter_tfserve.kernel.endpoint import JupyterEndpoint
from jupyter_tfserve.kernel.outcomes import Address
from jupyter_tfserve.kernel.panel.calls import calls, place

BODY = {"instances": [1.0, 5.0]}


def run(command: list[str], token: str, folder: Path) -> str:
    environment = {**os.environ, "JUPYTER_TOKEN": token, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("which", "answer"), [("", "[4.0, 8.0]"), ("1", "[2.0, 6.0]")])
def test_each_is_answered(
    jupyter: JupyterServer, endpoint: JupyterEndpoint, which: str, answer: str, tmp_path: Path
) -> None:
    status = endpoint.client.model("affine")
    found = calls(endpoint.address(), "affine", place(which), BODY, status["signatures"])
    assert list(found) == ["curl", "Python", "gRPC", "JavaScript"]
    token = jupyter.token
    assert answer.replace(" ", "") in run(["sh", "-c", found["curl"]], token, tmp_path)
    assert answer in run([sys.executable, "-c", found["Python"]], token, tmp_path)
    if which:  # importing TensorFlow once is enough
        assert "[2., 6.]" in run([sys.executable, "-c", found["gRPC"]], token, tmp_path)
    node = shutil.which("node")
    assert node
    script = f"const token = process.env.JUPYTER_TOKEN;\n{found['JavaScript']}"
    (tmp_path / "call.mjs").write_text(script)
    assert answer.replace(".0", "").replace("[", "[ ").replace("]", " ]") in run([node, "call.mjs"], token, tmp_path)


def test_a_long_request_comes_from_a_file(endpoint: JupyterEndpoint, jupyter: JupyterServer, tmp_path: Path) -> None:
    body = {"instances": [1.0] * 1000}
    found = calls(endpoint.address(), "affine", "", body, endpoint.client.model("affine")["signatures"])
    assert all(len(call) < 1500 for call in found.values())
    (tmp_path / "request.json").write_text('{"instances": [1.0]}')
    assert "4.0" in run(["sh", "-c", found["curl"]], jupyter.token, tmp_path)
    assert "4.0" in run([sys.executable, "-c", found["Python"]], jupyter.token, tmp_path)


def test_quotes_are_quoted() -> None:
    address = Address("http://h/tfserve", "", "", "")
    found = calls(address, "m", place("it's"), {"instances": ["it's; $(rm) `x`"]}, {})
    assert "'\"'\"'" in found["curl"] and "it%27s" in found["curl"]
    assert "gRPC" not in found
    assert calls(Address("", "", "", ""), "m", "", {}, {}) == {}

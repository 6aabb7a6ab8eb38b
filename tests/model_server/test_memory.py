"""What a model server holds in memory, in a real one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
from helpers import PATIENCE, Tfserve


def test_a_small_model_needs_little(start: Callable[..., Tfserve], models: Path) -> None:
    one = start(f"--model_base_path={models / 'affine'}").wait_until_ready()
    process = psutil.Process(one.process.pid)
    for _ in range(200):
        assert one.call("POST", "/v1/models/default:predict", {"instances": [1.0]}).status == 200
    assert process.memory_info().rss < 450e6
    # Both are in this environment; TensorFlow would bring the one and the other.
    maps = Path(f"/proc/{one.process.pid}/maps").read_text()
    assert "scikit_learn" not in maps and "/sklearn/" not in maps


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def test_parts_of_tensorflow_and_then_the_whole() -> None:
    """A server begins with the parts; what asks for more has everything, eager execution too, beside sessions."""
    run("""
import sys
from jupyter_tfserve.model_server.memory import is_postponed, postpone_tensorflow
postpone_tensorflow()
from jupyter_tfserve.model_server import tensorflow_parts as parts
import jupyter_tfserve.model_server.local
assert is_postponed() and "tensorflow._api" not in sys.modules and len(sys.modules) < 1500, len(sys.modules)
with parts.Graph().as_default() as graph:
    x = parts.placeholder(parts.float32, [], "x")
    y = parts.add(x, 1.0)
session = parts.Session(graph=graph)
assert session.run(y, {x: 1.0}) == 2.0
import tensorflow as tf
assert is_postponed()
assert tf.executing_eagerly() and (tf.constant(1) + 1).numpy() == 2 and tf.__version__
assert not is_postponed() and sys.modules["tensorflow"] is not tf
assert sys.modules["tensorflow"].compat.v1.Session is parts.Session
assert session.run(y, {x: 2.0}) == 3.0
""")

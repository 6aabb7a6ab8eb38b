"""What a model server holds in memory, in a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
from helpers import Tfserve


def test_a_small_model_needs_little(start: Callable[..., Tfserve], models: Path) -> None:
    one = start(f"--model_base_path={models / 'affine'}").wait_until_ready()
    process = psutil.Process(one.process.pid)
    for _ in range(200):
        assert one.call("POST", "/v1/models/default:predict", {"instances": [1.0]}).status == 200
    assert process.memory_info().rss < 450e6
    # Both are in this environment; TensorFlow would bring the one and the other.
    maps = Path(f"/proc/{one.process.pid}/maps").read_text()
    assert "scikit_learn" not in maps and "/sklearn/" not in maps

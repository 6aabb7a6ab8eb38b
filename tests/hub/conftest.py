"""One Hub for all tests of this folder, under a base URL that needs care; its owner has a name that does, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_process import JupyterHub, UserServer

OWNER = "zoë b"
COLLEAGUE = "bob"


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterHub]:
    one = JupyterHub(tmp_path_factory.mktemp("hub"), base_url="/jupyter hüb/")
    try:
        yield one.wait_until_ready()
    finally:
        one.close()


@pytest.fixture(scope="session")
def owner(hub: JupyterHub, models: Path) -> UserServer:
    """The owner's server; it serves affine and echo."""
    hub.add_user(COLLEAGUE)
    one = UserServer(hub, OWNER).start()
    one.serve(models, "affine", "echo")
    return one

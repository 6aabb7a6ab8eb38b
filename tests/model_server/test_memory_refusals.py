"""Loads that the memory budget refuses, in real servers: what is served goes on, the answer names what to unload, and
after that the version loads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from fronts import Front
from helpers import PATIENCE, StoreServer, Tfserve, publish, wait_for
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc


@pytest.mark.parametrize("program", [StoreServer, Front])
def test_a_registration(program: type[StoreServer], models: Path, tmp_path: Path) -> None:
    isolation = "--isolation=model" if program is Front else "--isolation=none"
    server = program(tmp_path, "--memory_budget_mb=80", isolation, "--max_num_load_retries=0")
    try:
        server.wait_until_ready()
        with server.client() as client:
            for name in ("first", "second"):
                publish(models / "large" / "1", server.store / name, 1)
                client.register(name, {})
                client.model(name, wait=1, timeout=PATIENCE)
            assert server.predict("first", [1.0]) == [2.0]

            def ended() -> Any:
                [version] = client.model("second")["versions"]
                return version["state"] == "END" and version

            version = wait_for("the second one to be refused", ended)
            assert version["error_code"] == "RESOURCE_EXHAUSTED"
            assert "Version 1 of second needs about 4" in version["error_message"]
            assert "of the 80.0 MiB of --memory_budget_mb are left" in version["error_message"]
            assert "Unload one of: first version 1 (" in version["error_message"]
            answer = server.call("POST", "/v1/models/second:predict", {"instances": [1.0]})
            assert answer.status == 404
            client.unregister("first")
            client.register("second", {})
            [version] = client.model("second", wait=1, timeout=PATIENCE)["versions"]
            assert version["state"] == "AVAILABLE", version
            assert server.predict("second", [1.0]) == [2.0]
    finally:
        server.close()


def test_a_reload(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    """TensorFlow Serving's own way to add a model: the call fails with the same text."""
    for name in ("first", "second"):
        publish(models / "large" / "1", tmp_path / name, 1)
    one = start(f"--model_base_path={tmp_path / 'first'}", "--memory_budget_mb=80", "--model_name=first")
    one.wait_until_ready()
    request = model_management_pb2.ReloadConfigRequest()
    for name in ("first", "second"):
        request.config.model_config_list.config.add(
            name=name, base_path=str(tmp_path / name), model_platform="tensorflow"
        )
    with grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.HandleReloadConfigRequest(request, timeout=PATIENCE)
    assert "second" in refused.value.details()
    assert "Unload one of: first version 1" in refused.value.details()
    assert one.predict("first", [1.0]) == [2.0]

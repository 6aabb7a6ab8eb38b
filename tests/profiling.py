"""What a model server does inside, as TensorFlow's profiler sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from helpers import PATIENCE, Tfserve
from tensorflow.tsl.profiler.protobuf import profiler_options_pb2, xplane_pb2

from jupyter_tfserve.model_server import config_protos


@contextmanager
def asked_again_and_again(one: Tfserve, instances: list[Any]) -> Iterator[None]:
    """Requests to the model "default", one after the other, as long as the block runs."""
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            one.predict("default", instances)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        end.set()
        asking.join()


def profile(one: Tfserve, name: str, metadata: tuple[tuple[str, str], ...] = (), **fields: object) -> bytes:
    """Call a method of the profiler's service."""
    with grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel:
        call = channel.unary_unary(f"/tensorflow.ProfilerService/{name}")
        request = config_protos.to_bytes("ProfileRequest" if name == "Profile" else "TerminateRequest", **fields)
        answer: bytes = call(request, timeout=PATIENCE, metadata=metadata)
        return answer


def names_in(file: Path) -> set[str]:
    """The events of a profile that was written."""
    space = xplane_pb2.XSpace.FromString(file.read_bytes())
    return {entry.name for plane in space.planes for entry in plane.event_metadata.values()}


def what_runs(one: Tfserve, instances: list[Any], folder: Path) -> set[str]:
    """The ops that these requests run, and what else is traced."""
    for _ in range(3):
        one.predict("default", instances)
    every_op = profiler_options_pb2.ProfileOptions(version=1, host_tracer_level=3).SerializeToString()
    fields = {"session_id": "s", "host_name": "h", "repository_root": str(folder), "opts": every_op}
    with asked_again_and_again(one, instances):
        profile(one, "Profile", duration_ms=1000, **fields)
    return names_in(folder / "s" / "h.xplane.pb")

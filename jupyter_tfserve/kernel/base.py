"""What both kinds of endpoint can do: the vocabulary of `%tfserve` and of `jupyter_tfserve.connect()`. The two kinds
are in `endpoint.py`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..api import (
    BatchingRequest,
    DeviceList,
    ModelStatus,
    PlacementRequest,
    Policy,
    ServerInfo,
    ShareKind,
    ShareRequest,
    State,
)
from ..client import Client, EventStream, LogStream, TFServeError
from ..log_tail import LocalLog
from ..store import Store
from . import devices, lineage, render
from .devices import DeviceReport
from .export import read_example
from .outcomes import Address, ModelReport, Overview, Registered
from .registering import Wish, register
from .sharing import Shared, ShareReport, forget_key, share
from .values import request_body, results

Progress = Callable[[str], None]

#: Seconds that a prediction waits for a model server that is being restarted.
_PATIENCE = 10.0


def _silent(line: str) -> None:
    pass


class Endpoint(ABC):
    """Where models are served. All methods raise `TFServeError`, which says what to do about it."""

    kind: Literal["jupyter-server", "kernel"]
    why: str  #: which one is used and why, in one sentence for the user

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._since = time.time()

    @property
    @abstractmethod
    def client(self) -> Client:
        """The management and REST API; raises KernelError if the model server cannot be reached for a known reason."""

    @property
    @abstractmethod
    def url(self) -> str:
        """What stands before ``/v1``, as seen from outside; "" while nothing listens."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it makes sense to go on with this endpoint; asks nobody."""

    @abstractmethod
    def state(self) -> State:
        """Everything at a glance."""

    @abstractmethod
    def info(self) -> ServerInfo:
        """The model server process."""

    @abstractmethod
    def store(self) -> Store | None:
        """The store, made where it is missing; None if the endpoint does not share a disk with this kernel."""

    def make_ready(self) -> None:
        """Begin to start the model server: it comes up while the object is being exported. `start` waits for it."""

        def begin() -> None:
            with contextlib.suppress(TFServeError):  # `start` will say it
                self.start()

        if self.info()["state"] in ("stopped", "failed"):
            threading.Thread(target=begin, name="tfserve-start", daemon=True).start()

    @abstractmethod
    def start(self) -> ServerInfo:
        """Start the model server; waits until it answers."""

    @abstractmethod
    def stop(self) -> ServerInfo:
        """Drain and stop the model server; what it served is served again after a start."""

    @abstractmethod
    def restart(self) -> ServerInfo:
        """Stop, then start."""

    @abstractmethod
    def logs(self, lines: int = 200) -> str:
        """The end of the model server's log."""

    @abstractmethod
    def listen(self, stats: bool = False) -> EventStream:
        """Changes as they happen. Raises KernelError while there is nobody who would tell them."""

    @abstractmethod
    def follow_log(self, lines: int = 200) -> LogStream | LocalLog:
        """The end of the model server's log, then what is written to it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections, and of the model server if it is this kernel's own."""

    def register(
        self,
        name: str,
        obj: Any = None,
        *,
        version: int | None = None,
        labels: Sequence[str] = (),
        signatures: Mapping[str, Any] | Sequence[str] | None = None,
        example: Any = None,
        policy: Policy | None = None,
        keep: int | None = None,
        placement: PlacementRequest | None = None,
        expression: str = "",
        progress: Progress = _silent,
    ) -> Registered:
        """Serve an object; returns when it answers.

        `obj` is a Keras model, a tf.Module, a tf.function, a Python function of tensors (with `example`), the path of a
        SavedModel (copied) or of a folder of versions (served in place); None serves again what the store holds.
        `version` defaults to the Unix time. `labels` move to the version once it answers. `signatures` are names of
        methods, or a dict of functions by name. `example` is an input: a batch of rows, or a dict or tuple of them.
        `policy` says which versions are served, `keep` how many stay on disk (0: all), `placement` where it is served:
        ``{"device": "gpu:1"}``.
        """
        named = signatures if isinstance(signatures, Mapping) else dict.fromkeys(signatures or ())
        wish = Wish(version, tuple(labels), named, example, policy, keep, expression, placement)
        return register(self, name, obj, wish, progress)

    def predict(
        self, name: str, value: Any, *, version: int | None = None, label: str = "", signature: str = ""
    ) -> Any:
        """Ask a model: an array of rows or a dict by input name -> an array, or a dict by output name."""
        return results(self.ask(name, request_body(value, signature), version=version, label=label))

    def ask(self, name: str, body: Any, *, version: int | None = None, label: str = "") -> Any:
        """Ask a model with the body of a REST Predict request, as a dict or as JSON text -> the response.

        While the model server is being restarted after a crash it waits for it, up to _PATIENCE.
        """
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return self.client.predict(name, body, version, label)
            except TFServeError as error:
                if error.status == 503 and time.monotonic() < until:
                    time.sleep(0.2)
                elif error.remedy or error.status not in (400, 404):
                    raise
                else:
                    remedy = self._who_answers(name, version, label)
                    raise TFServeError(error.message, remedy, error.status) from error

    def status(self, name: str) -> ModelReport:
        """One model in detail, with the lineage of its versions where this machine can read them."""
        status = self.client.model(name)
        lineages, notebooks, examples = {}, {}, {}
        for entry in status["versions"]:
            folder = self.readable(status, entry["version"])
            if folder is None:
                continue
            record, example = lineage.read(folder), read_example(folder)
            notebooks[entry["version"]] = tuple(map(str, lineage.files(folder)))
            if record is not None:
                lineages[entry["version"]] = record
            if example is not None:
                examples[entry["version"]] = example
        return ModelReport(status, self.address(), lineages, notebooks, examples)

    def overview(self) -> Overview:
        """Everything that is served."""
        state = self.state()
        return Overview(state, Address.of(state["server"], self._jupyter), self.why)

    def set_labels(self, name: str, labels: dict[str, int | None]) -> ModelStatus:
        """Move labels; None takes one away."""
        return self.client.set_labels(name, labels)

    def set_policy(self, name: str, policy: Policy) -> ModelStatus:
        """Say which versions are served."""
        return self.client.set_policy(name, policy)

    def set_batching(self, name: str, request: BatchingRequest) -> ModelStatus:
        """Say how requests are merged, from now on: ``{"mode": "on", "max_batch_size": 64}``. Keys left out stay, None
        goes back to the default.
        """
        return self.client.set_batching(name, request)

    def devices(self) -> DeviceReport:
        """The CPU and the GPUs: memory, load, what is served there, and why TensorFlow cannot use one. It has
        `devices`, a list of `api.Device`.
        """
        return devices.report(self._device_list())

    def _device_list(self) -> DeviceList:
        return self.client.devices()

    def set_device(
        self,
        name: str,
        device: str = "",
        *,
        replicas: int | None = None,
        memory_limit: int | None = None,
        progress: Progress = _silent,
    ) -> ModelStatus:
        """Move a model to a device ("cpu", "gpu:1", "auto"), or say how many processes have it, or how many bytes of
        GPU memory it may use; what is left out stays. It serves all the time; returns when it is there.
        """
        request = PlacementRequest()
        if device:
            request["device"] = device
        if replicas is not None:
            request["replicas"] = replicas
        if memory_limit is not None:
            request["memory_limit"] = memory_limit
        return self.place(name, request, progress)

    def place(self, name: str, request: PlacementRequest, progress: Progress = _silent) -> ModelStatus:
        """The same as a request of the management API, where a memory limit can be taken away by None."""
        return devices.move(self.client, name, request, progress)

    def unload(self, name: str) -> None:
        """Stop serving a model; its files stay in the store."""
        self.client.unregister(name)

    def remove(self, name: str) -> None:
        """Stop serving a model and delete its files."""
        self.client.unregister(name, files=True)

    def share(
        self,
        name: str,
        *,
        with_user: str = "",
        kind: ShareKind | None = None,
        versions: Sequence[int] = (),
        labels: Sequence[str] = (),
        expires: float | None = 7 * 86400.0,
        rate: float | None = None,
        concurrency: int | None = None,
        note: str = "",
        notebook: str = "",
    ) -> Shared:
        """Let somebody predict with a model, and nothing else.

        To a user of the Hub (`with_user`), by link, or by access key (`kind`); by default by link on a Hub, else by
        key. `expires` in seconds, None for never; `rate` in requests a second; `concurrency` in requests in flight. A
        key may be for `versions` or `labels` only. `notebook` names a file to write: a notebook for the receiver.
        """
        request = ShareRequest(expires_in=expires, rate=rate, concurrency=concurrency, note=note)
        if with_user:
            request["user"] = with_user
        if kind is not None:
            request["kind"] = kind
        if versions:
            request["versions"] = list(versions)
        if labels:
            request["labels"] = list(labels)
        return share(self, name, request, notebook)

    def shares(self) -> ShareReport:
        """Everything that is shared."""
        return ShareReport(self.client.shares()["shares"])

    def unshare(self, share_id: str) -> None:
        """Revoke a share, and remove the file of its key."""
        self.client.unshare(share_id)
        forget_key(share_id)

    def address(self) -> Address:
        """Where models answer."""
        return Address.of(self.info(), self._jupyter)

    def readable(self, status: ModelStatus, version: int) -> Path | None:
        """A version's folder, if this kernel can read it."""
        entry = next((entry for entry in status["versions"] if entry["version"] == version), None)
        if entry is None or self.store() is None:
            return None
        folder = Path(entry["path"] or os.path.join(status["base_path"], str(version)))
        return folder if folder.is_dir() else None

    def news(self) -> list[str]:
        """What the user has not been told yet: which endpoint this is, taken ports, a crash of the model server."""
        try:
            info = self.info()
        except TFServeError:
            return []
        exit_ = info["last_exit"]
        lines = [self.why, *info["notices"]]
        if exit_ is not None and exit_["time"] > self._since:
            self._since = exit_["time"]
            self._told.discard(render.crash_words(info))
            lines.append(render.crash_words(info))
        fresh = [line for line in lines if line not in self._told]
        self._told.update(fresh)
        return fresh

    def _who_answers(self, name: str, version: int | None, label: str) -> str:
        """What to do where a model, a version or a label is not found; "" if they are there."""
        state = self.state()
        model = next((model for model in state["models"] if model["name"] == name), None)
        if model is None:
            if name in state["stored"]:
                return f"{name!r} is in the store, but not served: `%tfserve register {name}` serves it again."
            return f"Served models: {', '.join(model['name'] for model in state['models']) or 'none'}."
        available = {entry["version"] for entry in model["versions"] if entry["state"] == "AVAILABLE"}
        if not available or (version is not None and version not in available):
            return f"Versions of {name!r} that answer: {', '.join(map(str, sorted(available))) or 'none'}."
        if label and label not in model["labels"]:
            return f"Labels of {name!r}: {', '.join(sorted(model['labels'])) or 'none'}."
        return ""

    @property
    def _jupyter(self) -> str:
        """The Jupyter Server's URL as seen from outside, "" without one."""
        return ""

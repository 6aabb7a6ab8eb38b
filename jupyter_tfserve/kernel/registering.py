"""The way of an object to an answering version: export, publish, register, wait. Called by `Endpoint.register`."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api import ModelRequest, ModelStatus, PlacementRequest, Policy, VersionStatus
from ..client import TFServeError
from ..store import Store, check_name, versions_in
from . import lineage
from .errors import KernelError, LoadError, plain_errors
from .export import as_path, export, is_base_path, read_example
from .outcomes import Registered
from .render import fixed_batch_warnings
from .upload import upload

if TYPE_CHECKING:
    from .base import Endpoint

#: Seconds between two progress lines while a version loads.
_TICK = 1.0

#: Seconds that the model server gets to notice a version at all.
_NOTICE = 60.0

#: A version whose loading ended the model server this many times is taken away.
_FATAL_RESTARTS = 2

#: Nobody answers just now: the model server is being started, or restarted after a crash.
_AWAY = (0, 502, 503, 504)


@dataclass(frozen=True)
class Wish:
    """How an object is to be served."""

    version: int | None = None
    labels: tuple[str, ...] = ()
    signatures: Mapping[str, Any] = field(default_factory=dict)
    example: Any = None
    policy: Policy | None = None
    keep: int | None = None
    expression: str = ""  #: the object as it was written, for the lineage
    placement: PlacementRequest | None = None


def register(endpoint: Endpoint, name: str, obj: Any, wish: Wish, progress: Callable[[str], None]) -> Registered:
    """Serve `obj` (None: what the store holds) as a version of `name`; returns when that version answers.

    Raises ExportError, LoadError, KernelError or what the server refuses with. Whatever goes wrong, an interrupt
    included, no staged folder and no version that does not load stays behind, and what was served goes on being served.
    """
    began = time.monotonic()
    with plain_errors():
        check_name(name)
        path = None if obj is None else as_path(obj)
        in_place = path is not None and is_base_path(path)
        store = endpoint.store()
    endpoint.make_ready()
    request = ModelRequest()
    if wish.policy is not None:
        request["policy"] = wish.policy
    if wish.keep is not None:
        request["keep_versions"] = wish.keep
    if wish.placement:
        request["placement"] = wish.placement
    if store is not None:
        request["python"] = sys.executable
    job = _Job(endpoint, name, wish, began, progress)
    if obj is None or in_place:
        return _serve_folder(job, store, path, request)
    with _written(job, store, obj) as folder:
        before = job.before()
        if store is not None:
            version, target = store.publish(folder, name, wish.version)
        else:
            done = upload(endpoint.client, name, folder, wish.version, progress)
            version, target = done["version"], Path(done["published"])
    request["base_path"] = str(target.parent)
    with _withdrawn_on_failure(job, before, version, store, target):
        return _serve(job, before, version, target, request)


@dataclass(frozen=True)
class _Job:
    """One registration under way."""

    endpoint: Endpoint
    name: str
    wish: Wish
    began: float
    progress: Callable[[str], None]

    def before(self) -> ModelStatus | None:
        """The model as it is served now, None if it is not; the model server runs from here on."""
        if self.endpoint.info()["state"] != "running":
            self.progress("Starting the model server ...")
        self.endpoint.start()
        try:
            return self.endpoint.client.model(self.name)
        except TFServeError as error:
            if error.status == 404:
                return None
            raise

    def status(self, wait: int, timeout: float) -> ModelStatus | None:
        """The model once something happens to a version; None if it is not served or nobody answers just now."""
        try:
            return self.endpoint.client.model(self.name, wait, timeout)
        except TFServeError as error:
            if error.status == 404 or error.status in _AWAY:
                return None
            raise


@contextlib.contextmanager
def _written(job: _Job, store: Store | None, obj: Any) -> Iterator[Path]:
    """The version, written into a folder that is gone afterwards unless it was published."""
    name, wish = job.name, job.wish
    if store is not None and wish.version is not None and wish.version in versions_in(store.model(name)):
        raise KernelError(
            f"Version {wish.version} of {name!r} exists already.",
            f"Leave --version out, or take one above {max(versions_in(store.model(name)))}.",
        )
    with plain_errors(None if store is None else store.root), contextlib.ExitStack() as stack:
        if store is not None:
            folder = stack.enter_context(store.stage(name))
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tfserve-")))
        job.progress(f"Exporting {name} ...")
        export(obj, folder, signatures=wish.signatures, example=wish.example)
        lineage.write(folder, obj, expression=wish.expression, copied_from=str(as_path(obj) or ""))
        yield folder


def _serve_folder(job: _Job, store: Store | None, path: Path | None, request: ModelRequest) -> Registered:
    """Serve a base path in place, or what the store holds under a name."""
    name = job.name
    if job.wish.version is not None:
        raise KernelError(
            "Folders of versions carry their own numbers.",
            f"Leave --version out; `%tfserve versions {name} --only N` picks one.",
        )
    if store is None and path is not None:
        raise KernelError(
            f"The Jupyter Server runs on another machine and cannot read {path}.",
            "Register one version of it, which is then uploaded: `%tfserve NAME FOLDER/VERSION`.",
        )
    before = job.before()
    if path is not None:
        request["base_path"] = str(path)
    elif before is not None:
        path = Path(before["base_path"])
    elif store is not None:
        path = store.model(name)
        if not versions_in(path):
            raise KernelError(
                f"The store {store.root} holds no version of {name!r}.",
                f"It holds: {', '.join(store.names()) or 'nothing'}. `%tfserve {name} OBJECT` makes a version.",
            )
    newest = max(versions_in(path), default=0) if path is not None else 0
    with _withdrawn_on_failure(job, before, newest):
        if not newest:  # only the other machine can see the folder
            versions = job.endpoint.client.register(name, request)["versions"]
            newest = max((entry["version"] for entry in versions), default=0)
        return _serve(job, before, newest, (path or Path(name)) / str(newest), request)


def _serve(job: _Job, before: ModelStatus | None, version: int, target: Path, request: ModelRequest) -> Registered:
    """Register a version that is in its place, and wait until it answers."""
    endpoint, name, wish = job.endpoint, job.name, job.wish
    restarts = endpoint.info()["restarts"]
    if wish.labels:
        request["labels"] = dict.fromkeys(wish.labels, version)  # they move in the moment that the version answers
    job.progress(f"Loading {name} version {version} ...")
    status = endpoint.client.register(name, request)
    if status["error"]:
        raise LoadError(f"{name!r} cannot be served: {status['error']}", "Can the model server read that folder?")
    status, warnings = _wait(job, before, version, restarts)
    found = endpoint.readable(status, version)
    return Registered(
        name=name,
        version=version,
        address=endpoint.address(),
        signatures=status["signatures"],
        versions=tuple(status["versions"]),
        labels=status["labels"],
        example=read_example(found) if found else None,
        path=str(target),
        seconds=time.monotonic() - job.began,
        warnings=(*fixed_batch_warnings(status["signatures"]), *warnings),
    )


def _wait(job: _Job, before: ModelStatus | None, version: int, restarts: int) -> tuple[ModelStatus, list[str]]:
    """Until the version answers; with what there is to say about it. Raises LoadError if it never will.

    The model server would try a failed version again, minutes later; whoever sits before the cell wants to know now.
    """
    name = job.name
    unnoticed = time.monotonic() + _NOTICE
    while True:
        status = job.status(version, _TICK)
        entry = _entry(status, version)
        if status is None or entry is None:
            _check_server(job.endpoint, version, restarts, before)
            if _left_out(status, version) and status is not None:
                return status, [
                    f"Version {version} is stored but not served, as the policy says. "
                    f"`%tfserve versions {name} --only {version}` serves it, `--all` serves every version."
                ]
            if time.monotonic() > unnoticed:
                raise LoadError(
                    f"The model server did not notice version {version} of {name!r} within {_NOTICE:.0f} s.",
                    "`%tfserve logs` says more.",
                )
            time.sleep(0.1)  # nobody answered, or at once; with a version on its way the server makes us wait
        elif entry["state"] == "AVAILABLE":
            return status, []
        elif entry["error_code"] != "OK":
            raise _load_error(version, entry["error_message"] or entry["error_code"], before)
        elif entry["state"] in ("UNLOADING", "END"):
            return status, [f"Version {version} was replaced by another before it was asked."]
        job.progress(f"Loading {name} version {version} ... {time.monotonic() - job.began:.0f} s")


def _check_server(endpoint: Endpoint, version: int, restarts: int, before: ModelStatus | None) -> None:
    """Raise LoadError if the model server is gone for good, or ends again and again over this version."""
    info = endpoint.info()
    if info["state"] == "failed":
        raise LoadError(f"The model server could not be kept running: {info['error']}", info["remedy"])
    if info["restarts"] - restarts >= _FATAL_RESTARTS:
        reason = info["last_exit"]["reason"] if info["last_exit"] else "ended"
        raise _load_error(version, f"the model server {reason} each time it loaded it", before)


def _load_error(version: int, message: str, before: ModelStatus | None) -> LoadError:
    old = [entry["version"] for entry in before["versions"] if entry["state"] == "AVAILABLE"] if before else []
    still = f" Version {max(old)} goes on serving." if old and version not in old else ""
    remedy = "`%tfserve logs` shows the model server's log."
    if "Op type not registered" in message:
        remedy = (
            "The model uses an operation of another package (tensorflow_text, a custom op) that the model server does "
            "not load: keep that step in front of the model, or use TensorFlow's own operations."
        )
    return LoadError(f"Version {version} could not be loaded: {message}{still}", remedy)


@contextlib.contextmanager
def _withdrawn_on_failure(
    job: _Job, before: ModelStatus | None, version: int, store: Store | None = None, target: Path | None = None
) -> Iterator[None]:
    """Take back what was begun if it does not end well, an interrupt included; a version that answers stays.

    `store` and `target` are given for a version that this registration made: its folder goes too.
    """
    try:
        yield
    except BaseException as error:
        entry = None
        with contextlib.suppress(TFServeError):
            entry = _entry(job.status(version, 0.0), version)
        if entry is None or entry["state"] != "AVAILABLE":
            with contextlib.suppress(TFServeError, OSError):
                _withdraw(job, before, store, target)
                if isinstance(error, LoadError) and store is not None:
                    error.message += "\nIts folder was removed."
        raise


def _withdraw(job: _Job, before: ModelStatus | None, store: Store | None, target: Path | None) -> None:
    client, name = job.endpoint.client, job.name
    if before is None:
        with contextlib.suppress(TFServeError):
            client.unregister(name)
    else:
        back: ModelRequest = {
            "base_path": before["base_path"],
            "policy": before["policy"],
            "labels": {label: before["labels"].get(label) for label in job.wish.labels},
        }
        with contextlib.suppress(TFServeError):
            client.register(name, back)
    if store is not None and target is not None:
        store.remove_version(target)
        if not versions_in(target.parent):
            store.remove(name)


def _entry(status: ModelStatus | None, version: int) -> VersionStatus | None:
    return next((entry for entry in status["versions"] if entry["version"] == version), None) if status else None


def _left_out(status: ModelStatus | None, version: int) -> bool:
    """Whether the policy leaves a version out: newer ones come first, or it does not name it."""
    if status is None:
        return False
    policy = status["policy"]
    if "specific" in policy:
        return version not in policy["specific"]["versions"]
    if "all" in policy:
        return False
    count = policy["latest"]["num_versions"] if "latest" in policy else 1
    return sum(entry["version"] > version for entry in status["versions"]) >= count

"""The store: what is served, on disk, in TF Serving's own formats. Shared by all wings; needs nothing but the
standard library.

::

    <store>/models.config            ModelServerConfig, text proto: the truth about what is served
    <store>/<model>/<version>/       a SavedModel; appears whole, by a rename
    .../assets.extra/tfserve_*.json  of a version: its lineage (`kernel/lineage.py`), a request to try it with
    <store>/<model>/.keep            how many version folders to keep (absent: all)
    <store>/<model>/.batching        what was set at run time for its batching, JSON (absent: nothing)
    <store>/<model>/.device          where it is to be served, JSON (absent: where there is room)
    <store>/<model>/.stopped         how it was served before that was stopped, ModelServerConfig (absent: it was not)
    <store>/.staging/                versions on their way in; on the same file system, so that a rename is atomic
    <store>/.store_id                a random word: who reads the same one shares the disk

Stock ``tensorflow_model_server --model_config_file=<store>/models.config`` serves the same thing: it looks only at
names that are numbers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIG = "models.config"
STAGING = ".staging"
STORE_ID = ".store_id"
KEEP = ".keep"
BATCHING = ".batching"
DEVICE = ".device"
STOPPED = ".stopped"

#: Beside a SavedModel, inside its version: who made it, and the body of a Predict request to try it with.
LINEAGE = "assets.extra/tfserve_lineage.json"
EXAMPLE = "assets.extra/tfserve_example.json"

#: Staged folders that nobody touched for this long were left by a process that died.
STALE_SECONDS = 24 * 3600.0

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")
_VERSION = re.compile(r"[0-9]{1,19}")
_MAX_VERSION = 2**63 - 1


class StoreError(Exception):
    """The store refuses or fails; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def check_name(name: str) -> str:
    """Return `name` if it can stand in a URL and be a folder; raise StoreError with a name that can, else."""
    if _NAME.fullmatch(name) and name != CONFIG and not name.endswith(".config"):
        return name
    better = re.sub(r"[^A-Za-z0-9_.\-]+", "_", name.removesuffix(".config")).strip("_.-")[:128] or "model"
    raise StoreError(
        f"{name!r} cannot be the name of a model: it becomes part of a URL and a folder.",
        f"Use letters, digits, '_', '-' and '.', not starting with '.' or '-': for example {better!r}.",
    )


def versions_in(base_path: Path) -> dict[int, Path]:
    """The version folders of a base path by number; {} if there is no such folder.

    As in TF Serving a version is an entry whose name is an int64; of ``2`` and ``0002`` the name that sorts last
    counts.
    """
    found: dict[int, Path] = {}
    try:
        names = sorted(os.listdir(base_path))
    except OSError:
        return {}
    for name in names:
        if _VERSION.fullmatch(name) and int(name) <= _MAX_VERSION:
            found[int(name)] = base_path / name
    return found


class Store:
    """One store folder. Many processes may use it at once."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()
        self.config = self.root / CONFIG
        self.staging = self.root / STAGING

    def create(self) -> Store:
        """Make the folders (0700) and the store's id where they are missing, and sweep what dead processes left."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.staging.mkdir(exist_ok=True, mode=0o700)
            if not self.id:
                with self._lock():
                    if not self.id:
                        write_atomically(self.root / STORE_ID, secrets.token_hex(16))
        except OSError as error:
            raise StoreError(
                f"The store {self.root} cannot be made: {error.strerror}.",
                "Free some space or choose another folder (trait TFServe.store, or JUPYTER_TFSERVE_STORE).",
            ) from error
        self._sweep()
        return self

    @property
    def id(self) -> str:
        """The store's random word, "" if it has none yet."""
        try:
            return (self.root / STORE_ID).read_text()
        except OSError:
            return ""

    @property
    def has_models(self) -> bool:
        """Whether anything is to be served: cheap, without reading the text proto."""
        try:
            return b"base_path" in self.config.read_bytes()
        except OSError:
            return False

    def model(self, name: str) -> Path:
        """The base path of a model that lives in the store."""
        return self.root / check_name(name)

    def names(self) -> list[str]:
        """Models that have a version folder in the store, served or not."""
        try:
            entries = sorted(os.listdir(self.root))
        except OSError:
            return []
        return [name for name in entries if _NAME.fullmatch(name) and versions_in(self.root / name)]

    def next_version(self, name: str) -> int:
        """The Unix time, or one above the newest version there is."""
        return max([int(time.time()), *(version + 1 for version in versions_in(self.model(name)))])

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        """A fresh folder to write a version into; gone afterwards unless `publish` moved it away."""
        check_name(name)
        self.create()
        folder = self.staging / f"{name}-{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, name: str, version: int | None = None) -> tuple[int, Path]:
        """Rename a staged folder to its version; returns number and path.

        Without a number it takes the next free one, however many processes register at once. Raises StoreError if the
        number asked for is taken.
        """
        base = self.model(name)
        base.mkdir(mode=0o700, exist_ok=True)
        _sync_tree(staged)
        while True:
            number = self.next_version(name) if version is None else version
            target = base / str(number)
            try:
                if number in versions_in(base):
                    raise FileExistsError(errno.EEXIST, "version exists")
                os.rename(staged, target)  # onto a folder that is not empty: ENOTEMPTY, so nothing is ever overwritten
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                if version is not None:
                    newest = max(versions_in(base))
                    raise StoreError(
                        f"Version {version} of {name!r} exists already.",
                        f"Leave --version out, or take one above {newest}.",
                    ) from None
            else:
                for folder in (base, self.root):  # the version's name, and the model's where it is new
                    _sync(folder)
                return number, target

    def remove(self, name: str) -> None:
        """Delete a model's folder: out of sight at once by a rename, then from the disk."""
        base = self.model(name)
        grave = self.staging / f"{name}-removed-{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(base, grave)
            shutil.rmtree(grave, ignore_errors=True)

    def remove_version(self, path: Path) -> None:
        """Delete one version folder of the store, in the same way."""
        grave = self.staging / f"{path.parent.name}-{path.name}-removed-{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, grave)
            shutil.rmtree(grave, ignore_errors=True)

    def keep_versions(self, name: str) -> int:
        """How many version folders of a model are kept on disk; 0 for all."""
        try:
            return int((self.root / name / KEEP).read_text())
        except (OSError, ValueError):
            return 0

    def set_keep_versions(self, name: str, count: int) -> None:
        """Remember how many version folders to keep; 0 for all."""
        base = self.model(name)
        base.mkdir(mode=0o700, exist_ok=True)
        write_atomically(base / KEEP, str(count))

    def batching(self, name: str) -> dict[str, Any]:
        """What was set at run time for a model's batching (`api.BatchingRequest`); {} for nothing."""
        return self._settings(name, BATCHING)

    def set_batching(self, name: str, settings: dict[str, Any]) -> None:
        """Remember it."""
        self._set_settings(name, BATCHING, settings)

    def placement(self, name: str) -> dict[str, Any]:
        """Where a model is to be served (`api.PlacementRequest`); {} for wherever there is room."""
        return self._settings(name, DEVICE)

    def set_placement(self, name: str, settings: dict[str, Any]) -> None:
        """Remember it."""
        self._set_settings(name, DEVICE, settings)

    def stopped(self, name: str) -> str:
        """How a model was served before that was stopped: a ModelServerConfig with this model, text proto; "" if it was
        not.
        """
        try:
            return (self.root / name / STOPPED).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def set_stopped(self, name: str, text: str) -> None:
        """Remember it, with "" forget it; nothing for a model that has no folder here, or where the disk is full: it
        can be stopped all the same.
        """
        path = self.root / name / STOPPED
        with contextlib.suppress(OSError):
            if not text:
                path.unlink(missing_ok=True)
            elif path.parent.is_dir():
                write_atomically(path, text)

    def _settings(self, name: str, file: str) -> dict[str, Any]:
        try:
            found = json.loads((self.root / name / file).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _set_settings(self, name: str, file: str, settings: dict[str, Any]) -> None:
        base = self.model(name)
        base.mkdir(mode=0o700, exist_ok=True)
        write_atomically(base / file, json.dumps(settings))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store's lock: whoever reads models.config to change it holds it until the new one is in place."""
        self.create()
        with self._lock():
            yield

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with open(self.root / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _sweep(self) -> None:
        limit = time.time() - STALE_SECONDS
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.staging):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < limit:
                        shutil.rmtree(entry.path, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content in one step, 0600; a reader sees the old or the new, also after a power cut."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    fd = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _sync_tree(folder: Path) -> None:
    """Bring a staged version to the disk before its name appears, so that a power cut cannot publish half of it."""
    for parent, _, files in os.walk(folder):
        for name in files:
            _sync(os.path.join(parent, name))
        _sync(parent)


def _sync(path: Path | str) -> None:
    """Bring a file's content, or the names in a folder, to the disk. File systems that cannot do it for a folder (some
    network mounts) say EINVAL, and have nothing better.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)

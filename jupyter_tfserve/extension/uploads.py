"""Versions that come over the network, from kernels that share no disk with this server: in parts, resumable, checked
by hash. `management.py` calls this in threads; what has arrived lies in the store's staging folder, so that it
outlives this process::

    <store>/.staging/upload-<id>/manifest.json     what was announced, and what became of it
    <store>/.staging/upload-<id>/version/...       the files, as far as they have come
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, cast

from ..api import Upload, UploadFile, UploadRequest
from ..store import Store, StoreError, check_name, write_atomically
from . import hostile

#: Files in one version: the largest real ones have some hundreds.
MAX_FILES = 10_000

#: Seconds that a published upload is remembered: a client that lost the answer asks again and gets the same one.
REMEMBERED = 600.0

_MAX_VERSION = 2**63 - 1
_ID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1024 * 1024


class UploadRefused(Exception):
    """An upload is not as it should be; `status` is HTTP's."""

    def __init__(self, status: int, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.remedy = remedy


class Uploads:
    """The uploads of one store. All methods wait for the disk; any thread may call them, and other processes may use
    the same store. They raise UploadRefused, StoreError and OSError.
    """

    def __init__(self, store: Store, max_bytes: int = 0, allowed_ops: Collection[str] = ()) -> None:
        self._store = store
        self._allowed_ops = frozenset(allowed_ops)
        self._max_bytes = max_bytes  # 0: what the disk holds

    def begin(self, message: Any) -> Upload:
        """A new upload, or the one that was announced with the same words before."""
        request = _checked(message)
        total = sum(file["size"] for file in request["files"])
        self._store.create()
        identity = json.dumps([request["model"], request["version"], request["files"]], sort_keys=True)
        folder = self._folder(hashlib.sha256(identity.encode()).hexdigest()[:32])
        if not (folder / "manifest.json").exists():
            self._check_space(total)
            for file in request["files"]:
                (folder / "version" / file["path"]).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                if file["size"] == 0:
                    (folder / "version" / file["path"]).touch(mode=0o600)
            version = request["version"]
            if version is None:
                version = self._store.next_version(request["model"])
            self._save(folder, {"request": request, "version": version, "published": ""})
        with self._locked(folder) as manifest:
            published = manifest["published"]
            if not published or (time.time() - manifest["time"] < REMEMBERED and os.path.isdir(published)):
                return self._progress(folder, manifest)
        shutil.rmtree(folder, ignore_errors=True)
        return self.begin(message)

    def write(self, upload: str, path: str, offset: int, part: bytes) -> Upload:
        """Put bytes where they belong. Nothing may be left out; what is there may come again."""
        folder = self._known(upload)
        with self._locked(folder) as manifest:
            if manifest["published"]:
                raise UploadRefused(409, "This upload is published already.")
            file = next((file for file in manifest["request"]["files"] if file["path"] == path), None)
            if file is None:
                raise UploadRefused(400, f"{path!r} was not announced.", "Announce all files when the upload begins.")
            if offset < 0 or offset + len(part) > file["size"]:
                raise UploadRefused(
                    400, f"{path!r} was announced with {file['size']} bytes; this part goes beyond them."
                )
            fd = os.open(folder / "version" / path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as target:
                there = os.fstat(fd).st_size
                if offset > there:
                    raise UploadRefused(409, f"Of {path!r} only {there} bytes have arrived.", f"Go on at byte {there}.")
                target.seek(offset)
                target.write(part)
            os.utime(folder)  # it is alive: the sweep of abandoned ones goes by this
            return self._progress(folder, manifest)

    def finish(self, upload: str) -> Upload:
        """Check the hashes, publish. A file that is not what was announced is thrown away, and can be sent again."""
        folder = self._known(upload)
        with self._locked(folder) as manifest:
            if manifest["published"]:
                return self._progress(folder, manifest)
            request = cast(UploadRequest, manifest["request"])
            received = _received(folder)
            for file in request["files"]:
                there = received.get(file["path"], 0)
                if there != file["size"] or file["path"] not in received:
                    raise UploadRefused(
                        409,
                        f"Of {file['path']!r} {there} of {file['size']} bytes have arrived.",
                        f"Go on at byte {there}.",
                    )
            for file in request["files"]:
                if _sha256(folder / "version" / file["path"]) != file["sha256"]:
                    (folder / "version" / file["path"]).unlink()
                    raise UploadRefused(
                        409, f"{file['path']!r} is not what was announced: its SHA-256 differs.", "Send it again."
                    )
            try:
                hostile.check(folder / "version", self._allowed_ops)
            except hostile.Hostile as error:
                raise UploadRefused(422, error.message, error.remedy) from error
            try:
                number, path = self._store.publish(folder / "version", request["model"], request["version"])
            except StoreError as error:
                raise UploadRefused(409, error.message, error.remedy) from error
            manifest.update(version=number, published=str(path), time=time.time())
            self._save(folder, manifest)
            return self._progress(folder, manifest)

    def abort(self, upload: str) -> None:
        """Forget it; nothing happens where there is none."""
        if _ID.fullmatch(upload):
            shutil.rmtree(self._folder(upload), ignore_errors=True)

    def _folder(self, upload: str) -> Path:
        return self._store.staging / f"upload-{upload}"

    def _known(self, upload: str) -> Path:
        if not _ID.fullmatch(upload) or not self._folder(upload).is_dir():
            raise UploadRefused(404, "There is no such upload (any more).", "Begin it again.")
        return self._folder(upload)

    def _check_space(self, total: int) -> None:
        if 0 < self._max_bytes < total:
            raise UploadRefused(
                413, f"The version has {total} bytes, {self._max_bytes} are allowed.", "See TFServe.max_upload_size."
            )
        free = shutil.disk_usage(self._store.staging).free
        if total > free:
            raise UploadRefused(
                507,
                f"The version has {total} bytes, the store's disk has {free} left.",
                f"Free some space on the disk of {self._store.root}, or choose another store (TFServe.store).",
            )

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[dict[str, Any]]:
        """The manifest, held by nobody else."""
        try:
            with open(folder / "lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield json.loads((folder / "manifest.json").read_text())
        except FileNotFoundError as error:
            raise UploadRefused(404, "The upload was given up meanwhile.", "Begin it again.") from error

    def _save(self, folder: Path, manifest: dict[str, Any]) -> None:
        write_atomically(folder / "manifest.json", json.dumps(manifest))

    def _progress(self, folder: Path, manifest: dict[str, Any]) -> Upload:
        request = cast(UploadRequest, manifest["request"])
        whole = {file["path"]: file["size"] for file in request["files"]}
        return Upload(
            id=folder.name.removeprefix("upload-"),
            model=request["model"],
            version=manifest["version"],
            received=whole if manifest["published"] else _received(folder),
            published=manifest["published"],
        )


def _received(folder: Path) -> dict[str, int]:
    """Bytes of each file that has begun to arrive."""
    found = {}
    top = folder / "version"
    for parent, _, names in os.walk(top):
        for name in names:
            path = Path(parent, name)
            found[path.relative_to(top).as_posix()] = path.stat().st_size
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _checked(message: Any) -> UploadRequest:
    """The announcement, if it is one that can be kept: safe paths, sizes, hashes."""
    if not isinstance(message, dict) or not isinstance(message.get("model"), str):
        raise UploadRefused(400, "The announcement must be an object with a model and its files.")
    model, version, files = check_name(message["model"]), message.get("version"), message.get("files")
    if version is not None and not (_is_count(version) and version <= _MAX_VERSION):
        raise UploadRefused(400, f"{version!r} is no version: a whole number is.")
    if not isinstance(files, list) or not 0 < len(files) <= MAX_FILES:
        raise UploadRefused(400, f"A version has between 1 and {MAX_FILES} files.")
    checked = [_checked_file(file) for file in files]
    paths = {file["path"] for file in checked}
    if len(paths) < len(checked):
        raise UploadRefused(400, "A file is announced twice.")
    for path in paths:
        parts = path.split("/")
        if any("/".join(parts[:end]) in paths for end in range(1, len(parts))):
            raise UploadRefused(400, f"{path!r} would lie inside a file.")
    return UploadRequest(model=model, version=version, files=sorted(checked, key=lambda file: file["path"]))


def _checked_file(file: Any) -> UploadFile:
    if not isinstance(file, dict):
        raise UploadRefused(400, "A file is announced with path, size and sha256.")
    path, size, sha256 = file.get("path"), file.get("size"), file.get("sha256")
    if not isinstance(path, str) or not _is_safe(path):
        raise UploadRefused(400, f"{path!r} is no path inside the version: relative, with '/', without '..'.")
    if not _is_count(size):
        raise UploadRefused(400, f"{path!r} has no size.")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise UploadRefused(400, f"{path!r} has no SHA-256 (64 hexadecimal digits, lower case).")
    return UploadFile(path=path, size=cast(int, size), sha256=sha256)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_safe(path: str) -> bool:
    """Whether a path stays inside its folder, whatever lies there, and can be a path at all."""
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError:
        return False
    return size <= 1024 and all(
        part not in ("", ".", "..") and len(os.fsencode(part)) <= 255 and part.isprintable() and "\\" not in part
        for part in path.split("/")
    )


def is_disk_full(error: OSError) -> bool:
    """Whether writing failed for lack of space."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)

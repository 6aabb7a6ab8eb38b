"""Sends a version to a Jupyter Server that shares no disk with this kernel: in parts, resumable, checked by hash.
Called by `registering.py`; files are streamed from the disk, never read whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..api import Upload, UploadFile, UploadRequest
from ..client import Client, TFServeError
from .errors import KernelError, size

#: Bytes in one request: large enough for speed, small enough for what proxies let through.
PART = 8 * 1024 * 1024

#: Seconds before each new try after a broken connection.
RETRIES = (0.5, 1.0, 2.0, 5.0, 10.0)


def upload(
    client: Client,
    name: str,
    folder: Path,
    version: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Upload:
    """Send the files of `folder` as a version of `name`; returns when it is published on the other side.

    A broken connection is taken up where it broke, RETRIES times without progress between. Interrupted by the user, the
    other side is told to forget what it has.
    """
    progress(f"Hashing {name} ...")
    request = UploadRequest(model=name, version=version, files=_manifest(folder))
    total = sum(file["size"] for file in request["files"])
    current: Upload | None = None
    sent_before = -1
    failures = 0
    sending = False
    while True:
        try:
            current = client.begin_upload(request)
            sending = True
            _send_missing(client, current, request["files"], folder, total, progress)
            sending = False
            return client.finish_upload(current["id"])
        except TFServeError as error:
            # While parts are on their way a conflict means that the other side had not yet noticed the break when it
            # said how far it is; everything else that is refused stays refused.
            if 400 <= error.status < 500 and not (sending and error.status == 409):
                raise
            sent = sum(current["received"].values()) if current else 0
            failures = 0 if sent > sent_before else failures + 1
            sent_before = sent
            if failures >= len(RETRIES):
                raise KernelError(
                    f"The upload of {name!r} broke off at {size(sent)} of {size(total)}: {error.message}",
                    "Register it again when the Jupyter Server can be reached.",
                ) from error
            progress(f"The connection broke; trying again in {RETRIES[failures]:g} s ...")
            time.sleep(RETRIES[failures])
        except BaseException:
            if current is not None:
                with contextlib.suppress(TFServeError):
                    client.abort_upload(current["id"])
            raise


def _send_missing(
    client: Client, current: Upload, files: list[UploadFile], folder: Path, total: int, progress: Callable[[str], None]
) -> None:
    """Send what the other side does not have; `current` is kept up to date, so that a failure knows how far it came."""
    for file in files:
        start = current["received"].get(file["path"], 0)
        for offset, part in _parts(folder / file["path"], start):
            answer = client.upload_part(current["id"], file["path"], offset, part)
            current["received"] = answer["received"]
            sent = sum(answer["received"].values())
            progress(f"Uploading {current['model']}: {size(sent)} of {size(total)} ({100 * sent // max(total, 1)} %)")
        if file["size"] == 0 and file["path"] not in current["received"]:
            current["received"] = client.upload_part(current["id"], file["path"], 0, b"")["received"]


def _parts(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        file.seek(start)
        while part := file.read(PART):
            yield start, part
            start += len(part)


def _manifest(folder: Path) -> list[UploadFile]:
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(PART):
                digest.update(block)
        files.append(
            UploadFile(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest.hexdigest())
        )
    return files

"""``POST <base_url>/tfserve/api/saved_models``: serves a copy of a SavedModel that the file browser shows; the sidebar
asks for it (*Serve this SavedModel*). The path is the contents API's, and what the contents manager hides stays hidden.
"""

# mypy: disable-error-code="untyped-decorator"
# (jupyter_server's `authorized` has no type that mypy could follow)

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_server.auth.decorator import authorized
from jupyter_server.services.contents.fileio import FileManagerMixin
from jupyter_server.utils import ensure_async
from tornado import web

from ..api import ModelRequest, ServedVersion
from ..store import Store, StoreError, check_name, versions_in
from .access import MANAGEMENT
from .forward import Answer, Unreachable
from .management_handler import ManagementHandler, Refuse
from .uploads import MAX_FILES

AUTH_RESOURCE = MANAGEMENT

_MAX_VERSION = 2**63 - 1

#: By what a folder is known as a SavedModel.
_GRAPHS = ("saved_model.pb", "saved_model.pbtxt")


@dataclass(frozen=True)
class _Wish:
    """A checked `SavedModelRequest`."""

    path: str
    name: str
    version: int | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    """One file to copy, as it was when it was found."""

    relative: str
    size: int
    changed: int  #: its time of modification, ns


class SavedModelsHandler(ManagementHandler):
    """Serves what the file browser shows."""

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def post(self) -> None:
        """A `SavedModelRequest` -> 201 and a `ServedVersion`: the version is in the store and begins to load."""
        wish = _checked(self.json_object())
        await self.in_thread(check_name, wish.name)
        source = await self._folder(wish.path)
        files = await self.in_thread(_files, source, wish.path, self.contents_manager.allow_hidden)
        await self.started()
        store = self.tfserve.models
        version, target = await self.in_thread(_publish, store, source, files, wish)
        request = ModelRequest(base_path=str(target.parent))
        if wish.labels:
            request["labels"] = dict.fromkeys(wish.labels, version)  # they move in the moment that the version answers
        try:
            answer = await self._serve(wish.name, request)
        except Unreachable as error:
            await self.in_thread(_withdraw, store, wish.name, target)
            raise Refuse(503, "The model server ended before it answered.", "Try again.") from error
        if answer.status != 200:
            await self.in_thread(_withdraw, store, wish.name, target)
            self.set_status(answer.status)
            self.finish(answer.body, set_content_type="application/json")
            return
        self.set_status(201)
        self.finish(json.dumps(ServedVersion(name=wish.name, version=version)))

    async def _folder(self, path: str) -> Path:
        """Where the contents manager has a folder, for a caller who may read it there."""
        may_read: Any = self.authorizer.is_authorized(self, self.current_user, "read", "contents")
        if may_read is not True and not await ensure_async(may_read):
            raise Refuse(403, "Who serves a folder must be allowed to read it (contents).")
        is_on_disk = isinstance(self.contents_manager, FileManagerMixin)
        contents: Any = self.contents_manager
        if not is_on_disk:
            raise Refuse(
                400,
                "The files of this Jupyter Server do not lie on its disk.",
                "Register the model from a notebook: `%tfserve NAME FOLDER`.",
            )
        try:
            found = Path(contents._get_os_path(path.strip("/")))
            is_there = await ensure_async(contents.dir_exists(path))
            hidden = is_there and not contents.allow_hidden and await ensure_async(contents.is_hidden(path))
        except web.HTTPError:
            is_there = hidden = False
        if not is_there or hidden:
            raise Refuse(
                404,
                f"There is no folder {path!r}.",
                "Name it as the file browser does: relative to the folder that Jupyter shows.",
            )
        return found

    async def _serve(self, name: str, request: ModelRequest) -> Answer:
        body = json.dumps(request).encode()
        return await self.tfserve.management_forwarder.fetch(
            "PUT", f"/api/models/{quote(name, safe='')}", body, "application/json"
        )


def _checked(message: dict[str, Any]) -> _Wish:
    """The request, if it is one. Raises Refuse."""
    path, name, version = message.get("path"), message.get("name"), message.get("version")
    labels = message.get("labels", [])
    if not isinstance(path, str):
        raise Refuse(400, "'path' is the path of a folder, as the contents API names it.")
    if not isinstance(name, str):
        raise Refuse(400, "'name' is what the model is to be called.")
    is_number = isinstance(version, int) and not isinstance(version, bool) and 0 <= version <= _MAX_VERSION
    if version is not None and not is_number:
        raise Refuse(400, f"{version!r} is no version: a whole number is.", "Leave it out, and it gets the next one.")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise Refuse(400, "'labels' is a list of labels.")
    return _Wish(path, name, version, tuple(labels))


def _files(source: Path, path: str, with_hidden: bool) -> list[_File]:
    """All files of a SavedModel's folder, behind links too, as the contents manager shows them. Raises Refuse."""
    if not any((source / name).is_file() for name in _GRAPHS):
        inside = [number for number, folder in versions_in(source).items() if (folder / _GRAPHS[0]).is_file()]
        raise Refuse(
            400,
            f"There is no saved_model.pb in {path!r}.",
            f"Its versions are folders of their own: take {path.rstrip('/')}/{max(inside)}."
            if inside
            else "A SavedModel is the folder that `model.export(path)` or `tf.saved_model.save(model, path)` writes.",
        )
    found: list[_File] = []
    for parent, folders, names in os.walk(source, followlinks=True):
        folders[:] = [folder for folder in folders if with_hidden or not folder.startswith(".")]
        for folder in folders:
            if Path(parent).resolve().is_relative_to(Path(parent, folder).resolve()):
                raise Refuse(400, f"{folder!r} is a link to a folder around it.", "Take that link away.")
        for name in names:
            if name.startswith(".") and not with_hidden:
                continue
            file = Path(parent, name)
            state = file.stat() if file.exists() else None
            if state is None or not stat.S_ISREG(state.st_mode):
                raise Refuse(400, f"{name!r} is no file that could be copied.", "A SavedModel holds files and folders.")
            found.append(_File(str(file.relative_to(source)), state.st_size, state.st_mtime_ns))
            if len(found) > MAX_FILES:
                raise Refuse(400, f"{path!r} has more than {MAX_FILES} files.", "Choose the SavedModel's own folder.")
    return found


def _publish(store: Store, source: Path, files: list[_File], wish: _Wish) -> tuple[int, Path]:
    """Copy into the store and rename into place. Raises Refuse, StoreError, OSError; nothing is left of it then."""
    if wish.version is not None and wish.version in versions_in(store.model(wish.name)):
        raise Refuse(
            409,
            f"Version {wish.version} of {wish.name!r} exists already.",
            f"Leave it out, or take one above {max(versions_in(store.model(wish.name)))}.",
        )
    with store.stage(wish.name) as folder:
        needed, free = sum(file.size for file in files), shutil.disk_usage(folder).free
        if needed > free:
            raise Refuse(
                507,
                f"The SavedModel has {needed} bytes, the store's disk has {free} left.",
                f"Free some space on the disk of {store.root}, or choose another store (TFServe.store).",
            )
        for file in files:
            _copy(source, folder, file)
        try:
            return store.publish(folder, wish.name, wish.version)
        except StoreError as error:
            raise Refuse(409, error.message, error.remedy) from error


def _copy(source: Path, folder: Path, file: _File) -> None:
    """A file's content of its own: what is served must not change with the user's file. Raises Refuse if it changed
    since it was found, as it does while a notebook writes it.
    """
    target = folder / file.relative
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source / file.relative, target)
        state = (source / file.relative).stat()
        is_same = (state.st_size, state.st_mtime_ns) == (file.size, file.changed)
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise Refuse(409, f"{file.relative!r} changed while it was copied.", "Try again when the model is saved.")


def _withdraw(store: Store, name: str, target: Path) -> None:
    """Take back a version that the model server did not accept."""
    store.remove_version(target)
    if not versions_in(target.parent):
        store.remove(name)

"""Finds the Jupyter Server that this kernel belongs to, and there the endpoint of our extension. Used by `endpoint.py`
and, for the notebook's name, by `lineage.py`.

The extension tells its kernels in two ways: an environment variable that names a 0600 file with URL and token, and the
same file as ``jupyter_tfserve-<pid>.json`` in the server's runtime folder, for kernels whose environment is another.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
from jupyter_core.paths import jupyter_runtime_dir

from ..client import Client, TFServeError
from .errors import KernelError

#: What the user sets to name a Jupyter Server, with JUPYTER_TOKEN.
URL = "JUPYTER_TFSERVE_URL"

#: What the extension sets for its kernels: the path of its endpoint file.
ENDPOINT = "JUPYTER_TFSERVE_ENDPOINT"

#: Seconds that a Jupyter Server gets to answer while we look for one.
_PROBE = 5.0

_EXPLICIT = "Check the address (it is what `jupyter server list` prints, with or without /tfserve) and the token."


@dataclass(frozen=True)
class Found:
    """A Jupyter Server with our extension."""

    url: str  #: what stands before /v1 and /api
    token: str
    why: str  #: how it was found, in words that follow "because"
    pid: int | None = None  #: its process, where it runs on this machine


@dataclass(frozen=True)
class NotFound:
    """There is none."""

    why: str


def find(url: str = "", token: str = "") -> Found | NotFound:
    """The Jupyter Server of this kernel, or the one named by `url`.

    Raises KernelError if the one that was named does not answer: then nothing else is what the user meant.
    """
    if url or os.environ.get(URL):
        why = "it was asked for by name" if url else f"{URL} names it"
        return _named(url or os.environ[URL], token or os.environ.get("JUPYTER_TOKEN", ""), why)
    reasons: list[str] = []
    named = os.environ.get(ENDPOINT)
    if named:
        found = _try(Path(named), "it started this kernel", reasons)
        if found:
            return found
    for path in _endpoint_files():
        found = _try(path, "this kernel belongs to it", reasons) if _is_ours(path) else None
        if found:
            return found
    for server in _servers():
        url = server["url"].rstrip("/") + "/tfserve"
        try:
            _probe(url, server.get("token", ""), server["pid"])
        except TFServeError as error:
            reasons.append(
                f"the Jupyter Server at {server['url']} does not have the extension jupyter_tfserve (`jupyter server "
                "extension list` shows what it has; install jupyter-tfserve in its environment and restart it)"
                if error.status == 404
                else f"the Jupyter Server at {server['url']} does not let this kernel in"
            )
        else:
            return Found(url, server.get("token", ""), "it started this kernel", server["pid"])
    return NotFound(reasons[0] if reasons else "this kernel was not started by a Jupyter Server with jupyter_tfserve")


def make_client(url: str, token: str, pid: int | None = None) -> Client:
    """A client for a URL as Jupyter writes it: ``http+unix://`` too.

    A certificate is not checked for a server that was found by its live process on this machine: the usual one there
    is self-signed, and the address is the loopback's.
    """
    parts = urlsplit(url)
    if parts.scheme == "http+unix":
        return Client("http://tfserve" + parts.path, token, socket=unquote(parts.netloc))
    return Client(url, token, verify=pid is None or not is_loopback(url))


def _probe(url: str, token: str, pid: int | None = None) -> None:
    """Raise TFServeError unless our extension answers there and lets this kernel in."""
    with contextlib.closing(make_client(url, token, pid)) as client:
        client.state(timeout=_PROBE)


def is_loopback(url: str) -> bool:
    """Whether a URL stays on this machine."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1") or url.startswith("http+unix:")


def is_alive(pid: int | None) -> bool:
    """Whether a process of that number runs here."""
    if not pid or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def session_notebook() -> str | None:
    """The notebook that the Jupyter Server's sessions name for this kernel; None if there is no saying."""
    kernel = _kernel_id()
    for server in _servers() if kernel else ():
        for session in _ask(server, "api/sessions") or ():
            if session.get("kernel", {}).get("id") == kernel and session.get("type") == "notebook":
                return os.path.join(server.get("root_dir") or "", unquote(session.get("path", "")))
    return None


def _named(url: str, token: str, why: str) -> Found:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "http+unix") or not parts.netloc:
        raise KernelError(f"{url!r} is not an address of a Jupyter Server.", "Write it as http://HOST:PORT/BASE_URL.")
    token = token or parse_qs(parts.query).get("token", [""])[0]
    base = re.sub(r"/(lab|tree|notebooks)(/.*)?$", "", parts._replace(query="", fragment="").geturl().rstrip("/"))
    refused: TFServeError | None = None
    for candidate in [base] if base.endswith("/tfserve") else [base + "/tfserve", base]:
        try:
            _probe(candidate, token)
        except TFServeError as error:
            if error.status != 404:
                raise KernelError(_refused(candidate, error), _EXPLICIT) from error
            refused = error
        else:
            return Found(candidate, token, why)
    raise KernelError(
        f"The Jupyter Server at {base} does not have the extension jupyter_tfserve.",
        "Install jupyter-tfserve in that server's environment and restart it.",
    ) from refused


def _refused(url: str, error: TFServeError) -> str:
    if error.status in (401, 403):
        return f"{url} refuses the token."
    return f"{url} does not answer as a Jupyter Server with jupyter_tfserve: {error.message}"


def _try(path: Path, why: str, reasons: list[str]) -> Found | None:
    """Read an endpoint file and ask what it names, unless its process is dead: then another may listen on its port."""
    record = _read(path)
    if record is None or not is_alive(record.get("pid")):
        reasons.append("the Jupyter Server that this kernel belonged to is gone")
        return None
    found = Found(str(record["url"]).rstrip("/"), str(record.get("token", "")), why, record["pid"])
    try:
        _probe(found.url, found.token, found.pid)
    except TFServeError as error:
        reasons.append(f"the Jupyter Server at {found.url} does not answer: {error.message}")
        return None
    return found


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file with a URL, of this user only: in a shared folder anybody could put one there to catch models."""
    try:
        if path.stat().st_uid != os.getuid():
            return None
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("url") else None


def _folders() -> list[Path]:
    """Where the server may keep its runtime files: beside this kernel's connection file, and the usual place."""
    folders = [Path(jupyter_runtime_dir())]
    connection = _connection_file()
    if connection is not None and connection.parent not in folders:
        folders.insert(0, connection.parent)
    return folders


def _endpoint_files() -> Iterator[Path]:
    for folder in _folders():
        yield from sorted(folder.glob("jupyter_tfserve-*.json"))


def _is_ours(path: Path) -> bool:
    """Whether the server that wrote an endpoint file is the one that this kernel belongs to."""
    record = _read(path)
    if record is None:
        return False
    if record.get("pid") in _parents():
        return True
    # Started through a wrapper that changes both environment and parent: then the server itself must know the kernel.
    kernel = _kernel_id()
    server = _read(path.with_name(f"jpserver-{record.get('pid')}.json")) if kernel else None
    return server is not None and any(item.get("id") == kernel for item in _ask(server, "api/kernels") or ())


def _servers() -> Iterator[dict[str, Any]]:
    """The Jupyter Servers that started this kernel, by their own runtime files."""
    for folder in _folders():
        for pid in _parents():
            record = _read(folder / f"jpserver-{pid}.json")
            if record is not None and is_alive(pid):
                yield record


def _parents() -> list[int]:
    named = os.environ.get("JPY_PARENT_PID", "")
    return list(dict.fromkeys([*([int(named)] if named.isdigit() else []), os.getppid()]))


def _connection_file() -> Path | None:
    if "ipykernel" not in sys.modules:
        return None
    from ipykernel.connect import get_connection_file

    try:
        return Path(get_connection_file())
    except RuntimeError:  # ipykernel is imported, but this process is no kernel
        return None


def _kernel_id() -> str:
    connection = _connection_file()
    match = re.fullmatch(r"kernel-(.+)\.json", connection.name) if connection else None
    return match[1] if match else ""


def _ask(server: dict[str, Any], path: str) -> Any:
    """Something of Jupyter Server's own API; None where it does not let us in."""
    url, token = str(server["url"]), str(server.get("token", ""))
    if not is_alive(server.get("pid")) or not url.startswith("http"):
        return None
    try:
        answer = httpx.get(
            url.rstrip("/") + "/" + path,
            headers={"Authorization": f"token {token}"},
            timeout=_PROBE,
            trust_env=False,
            verify=not is_loopback(url),
        )
        return answer.json() if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None

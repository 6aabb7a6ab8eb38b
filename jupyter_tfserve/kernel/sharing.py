"""`%tfserve share`, `shares` and `unshare`: lets somebody predict and nothing else, and says what to send them. Called
by `base.py` and `magic.py`; the outcomes show themselves.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from jupyter_core.paths import jupyter_data_dir

from ..api import NewShare, Share, ShareRequest
from ..store import write_atomically
from . import client_notebook, render
from .client_notebook import TOKEN
from .errors import KernelError, plain_errors
from .outcomes import Shown

if TYPE_CHECKING:
    from .base import Endpoint

#: The Hub's scope, as a colleague writes it into the form for a token.
SCOPE = "custom:jupyter_server:execute:jupyter_tfserve:inference"

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def seconds(text: str) -> float | None:
    """``7d``, ``12h``, ``30m``, ``90s`` -> seconds; ``never`` -> None. Raises KernelError."""
    if text == "never":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None or float(match[1]) <= 0:
        raise KernelError(f"{text!r} is no time.", "For example: 7d, 12h, 30m, or never.")
    return float(match[1]) * _UNITS[match[2]]


def per_second(text: str) -> float:
    """``100/s``, ``6/m``, ``1000/h`` -> requests a second. Raises KernelError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/([smh]))?", text)
    if match is None or float(match[1]) <= 0:
        raise KernelError(f"{text!r} is no rate.", "For example: 100/s, 60/m, 1000/h.")
    return float(match[1]) / _UNITS[match[2] or "s"]


@dataclass(frozen=True, repr=False)
class Shared(Shown):
    """A share was made. An access key is in `key` and in a file, and is not shown: outputs are saved with notebooks."""

    share: Share
    url: str  #: the model's, without ``:predict``, as seen from outside
    body: str  #: of an example request
    accept_url: str  #: where a link is accepted, and how a token is made then; "" for an access key
    key_file: str  #: 0600; "" unless it is an access key
    notebook: str  #: the client notebook, "" for none
    key: str = field(default="", compare=False)

    def rows(self) -> list[tuple[str, str]]:
        """What to tell the colleague, as pairs."""
        rows = [("for", _for(self.share)), ("until", _when(self.share["expires"]))]
        limits = _limits(self.share)
        if limits:
            rows.append(("limits", limits))
        if self.key_file:
            rows.append(("key", f"in the file {self.key_file}, for your eyes only: it is not shown again"))
            rows.append(("send", "the key, by a way that you would trust with a password; and these lines:"))
        else:
            rows.append(("send", "these lines:"))
            rows.append(("1. open", self.accept_url))
            owner = urlsplit(self.url).path.partition("/user/")[2].split("/")
            scope = f"{SCOPE}!server={_server_of(owner)}"
            rows.append(("2. token", f"on the page that follows, request a token with the scope  {scope}"))
        rows.append(("curl", self.curl))
        if self.notebook:
            rows.append(("notebook", f"{self.notebook}: send it along; it reads {TOKEN}"))
        rows.append(("end it", f"%tfserve unshare {self.share['id']}"))
        return rows

    @property
    def curl(self) -> str:
        """A line for a shell that predicts; the token comes from the environment."""
        which = self.url + _suffix(self.share)
        return (
            f'curl -s -H "Authorization: Bearer ${TOKEN}" -H "Content-Type: application/json" '
            f"-d {shlex.quote(self.body)} {shlex.quote(which + ':predict')}"
        )

    def _html(self) -> str:
        return render.card_html(f"Shared: {', '.join(self.share['models'])}", self.rows())

    def _text(self) -> str:
        return "\n".join(
            [f"{', '.join(self.share['models'])} is shared.", *(f"  {key:<9} {value}" for key, value in self.rows())]
        )


@dataclass(frozen=True, repr=False)
class ShareReport(Shown):
    """Everything that is shared."""

    shares: Sequence[Share]

    _HEAD = ("id", "for", "models", "until", "limits", "last used", "note")

    def _rows(self) -> list[list[str]]:
        return [
            [
                share["id"],
                _for(share),
                ", ".join(share["models"]) + _suffix(share),
                _when(share["expires"]),
                _limits(share),
                _when(share["last_used"], "never"),
                share["note"],
            ]
            for share in sorted(self.shares, key=lambda share: share["created"])
        ]

    def _html(self) -> str:
        if not self.shares:
            return render.said_html(self._text())
        return render.table_card_html("Shares", list(self._HEAD), self._rows())

    def _text(self) -> str:
        if not self.shares:
            return "Nothing is shared. `%tfserve share NAME` lets somebody predict, and nothing else."
        return "\n".join(render.columns(list(self._HEAD), self._rows()))


def share(endpoint: Endpoint, name: str, request: ShareRequest, notebook: str = "") -> Shared:
    """Make a share of a served model."""
    if endpoint.kind != "jupyter-server":
        raise KernelError(
            "Sharing goes through a Jupyter Server, and this kernel has none.",
            "Start the notebook in JupyterLab with jupyter-tfserve installed.",
        )
    report = endpoint.status(name)  # raises where there is no such model
    if notebook and Path(notebook).exists():
        raise KernelError(f"{notebook} exists already.", "Name another file with --notebook.")
    made = endpoint.client.share({**request, "models": [name]})
    url = report.address.model(name)
    example = next(iter(report.examples.values()), None)
    signatures = report.status["signatures"]
    if notebook:
        client_notebook.write(Path(notebook), url + _suffix(made["share"]), name, signatures, example)
    return Shared(
        share=made["share"],
        url=url,
        body=render.example_body(example, signatures),
        accept_url=_accept_url(made, url),
        key_file=_keep(name, made) if made["key"] else "",
        notebook=notebook,
        key=made["key"],
    )


def _keep(name: str, made: NewShare) -> str:
    """Put a key where only the user finds it."""
    folder = Path(jupyter_data_dir()) / "tfserve-keys"
    file = folder / f"{name}-{made['share']['id']}.key"
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(file, made["key"])
    return str(file)


def forget_key(share_id: str) -> None:
    """Remove a key's file; nothing happens where there is none, as on another machine."""
    for file in (Path(jupyter_data_dir()) / "tfserve-keys").glob("*.key"):
        if file.stem.endswith(f"-{share_id}"):
            file.unlink(missing_ok=True)


def _accept_url(made: NewShare, url: str) -> str:
    """Where the colleague goes first: to accept a link and then, or at once, to the page that makes tokens."""
    if made["share"]["kind"] == "key":
        return ""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    if made["accept_url"]:
        accept = urlsplit(made["accept_url"])
        page = accept.path.partition("/accept-share")[0] + "/token"
        where = f"{accept.scheme}://{accept.netloc}" if accept.netloc else origin
        return f"{where}{accept.path}?{accept.query}&next={quote(page, safe='')}"
    return f"{origin}{parts.path.partition('/user/')[0]}/hub/token"


def _server_of(path: Sequence[str]) -> str:
    """Owner and server of ``/user/...`` as the Hub's scopes write them: the default server has no name."""
    server = unquote(path[1]) if len(path) > 1 and path[1] != "tfserve" else ""
    return f"{unquote(path[0]) if path else ''}/{server}"


def _for(share: Share) -> str:
    return {"key": "whoever has the key", "link": "whoever opens the link", "user": f"user {share['user']}"}[
        share["kind"]
    ]


def _suffix(share: Share) -> str:
    if share["versions"]:
        return f"/versions/{share['versions'][0]}"
    return f"/labels/{share['labels'][0]}" if share["labels"] else ""


def _limits(share: Share) -> str:
    limits = [f"{share['rate']:g} requests/s" if share["rate"] else ""]
    limits.append(f"{share['concurrency']} at once" if share["concurrency"] else "")
    return ", ".join(filter(None, limits))


def _when(moment: float | None, none: str = "revoked") -> str:
    if moment is None:
        return none
    text = time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
    return f"{text} (expired)" if none == "revoked" and moment <= time.time() else text

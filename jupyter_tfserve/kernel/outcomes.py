"""What the endpoint's calls end in: frozen dataclasses that a program can read and a front end can show. Made by
`endpoint.py` and `registering.py`, turned into HTML and text by `render.py`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from ..api import ModelStatus, ServerInfo, Signature, State, VersionStatus
from . import render
from .lineage import Lineage


class Shown:
    """Mixin: an outcome shows itself as HTML in front ends and as text in terminals."""

    def _html(self) -> str:
        raise NotImplementedError

    def _text(self) -> str:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self._html()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self._text())

    def __repr__(self) -> str:
        return self._text()


@dataclass(frozen=True)
class Address:
    """Where a model answers."""

    jupyter: str  #: what stands before /v1 at the Jupyter Server, as seen from outside; "" without one
    rest: str  #: host:port of the model server's own REST; "" while it has none
    grpc: str  #: the same for gRPC
    token_file: str  #: its content is accepted by both as a bearer; "" for none

    @classmethod
    def of(cls, info: ServerInfo | None, jupyter: str = "") -> Address:
        """From what the owner of the model server says."""
        if info is None:
            return cls(jupyter, "", "", "")
        host = info["host"]
        rest, grpc = (f"{host}:{port}" if port else "" for port in (info["rest_port"], info["grpc_port"]))
        return cls(jupyter, rest, grpc, info["token_file"])

    def model(self, name: str) -> str:
        """The URL of a model: what stands before ``:predict``; "" where it has none."""
        base = self.jupyter or (f"http://{self.rest}" if self.rest else "")
        return f"{base}/v1/models/{quote(name, safe='')}" if base else ""

    def curl(self, name: str, body: str) -> str:
        """A line for a shell that predicts: through Jupyter where there is one. It never holds a token's value."""
        if self.jupyter:
            bearer = '"Authorization: token $JUPYTER_TOKEN"'
        elif self.token_file:
            bearer = f'"Authorization: Bearer $(cat {shlex.quote(self.token_file)})"'
        else:
            bearer = ""
        # curl -d sends a form's content type, which Jupyter's web framework would try to parse as a form.
        headers = f"-H {bearer} " * bool(bearer) + "-H 'Content-Type: application/json'"
        return f"curl -s {headers} -d {shlex.quote(body)} {shlex.quote(self.model(name) + ':predict')}"


def outside(url: str, environ: Mapping[str, str] = os.environ) -> str:
    """A Jupyter Server's URL as it is called from elsewhere.

    The server knows where it listens; behind a JupyterHub that is not where others find it. A Hub (5.0 and later) that
    was told its public address says it; else the host is left for the reader to fill in.
    """
    prefix = environ.get("JUPYTERHUB_SERVICE_PREFIX", "")
    path = urlsplit(url).path
    if not prefix or not path.startswith(prefix):
        return url
    public = environ.get("JUPYTERHUB_PUBLIC_URL", "")
    if public:
        return public.rstrip("/") + "/" + path[len(prefix) :].lstrip("/")
    host = environ.get("JUPYTERHUB_HOST", "")
    return (host.rstrip("/") or "https://YOUR-JUPYTERHUB") + path


@dataclass(frozen=True, repr=False)
class Registered(Shown):
    """An object is served."""

    name: str
    version: int
    address: Address
    signatures: Mapping[str, Signature]
    versions: tuple[VersionStatus, ...]  #: highest first
    labels: Mapping[str, int]
    example: Mapping[str, Any] | None  #: the body of a Predict request
    path: str  #: the version's folder, on the model server's machine
    seconds: float  #: from the call until the version answered
    warnings: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """The model's URL as seen from outside: what stands before ``:predict``."""
        return self.address.model(self.name)

    def _html(self) -> str:
        return render.registered_html(self)

    def _text(self) -> str:
        return render.registered_text(self)


@dataclass(frozen=True, repr=False)
class Overview(Shown):
    """Everything that is served."""

    state: State
    address: Address
    why: str

    def _html(self) -> str:
        return render.overview_html(self)

    def _text(self) -> str:
        return render.overview_text(self)


@dataclass(frozen=True, repr=False)
class ModelReport(Shown):
    """One model, and where its versions come from (by version; what this machine can read)."""

    status: ModelStatus
    address: Address
    lineages: Mapping[int, Lineage]
    notebooks: Mapping[int, tuple[str, ...]]  #: notebook files inside a version
    examples: Mapping[int, Mapping[str, Any]]

    def _html(self) -> str:
        return render.report_html(self)

    def _text(self) -> str:
        return render.report_text(self)


@dataclass(frozen=True, repr=False)
class Said(Shown):
    """A sentence or two: what was done."""

    text: str

    def _html(self) -> str:
        return render.said_html(self.text)

    def _text(self) -> str:
        return self.text

"""What a caller who is not the owner may do. The extension makes grants, from access keys and the Hub's scopes; the
model server holds callers to them on every port and socket. Between the two a grant is a line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: On the model server's Unix socket, which only the owner can open: whom the Jupyter Server forwards for.
GRANT_HEADER = "X-Tfserve-Grant"

#: What it says there of a gRPC-Web call that it refused, whose HTTP status is 200: the HTTP status that it would be.
REFUSED_HEADER = "X-Tfserve-Refused"


@dataclass(frozen=True)
class Grant:
    """Inference, and nothing else. Whoever has no grant but is let in is the owner."""

    id: str  #: limits are counted by it
    models: tuple[str, ...] | None  #: None: every model of the server
    versions: tuple[int, ...] = ()  #: with these or labels, a request must name one of them
    labels: tuple[str, ...] = ()
    expires: float | None = None  #: Unix time
    rate: float | None = None  #: requests a second; as many may come at once
    concurrency: int | None = None  #: requests in flight

    def refusal(self, model: str, version: int | None, label: str) -> str:
        """Why a request for this model is not covered; "" if it is."""
        if self.models is not None and model not in self.models:
            return f"This bearer is not for the model {model!r}, but for: {', '.join(self.models) or 'none'}."
        if not self.versions and not self.labels:
            return ""
        if label in self.labels or version in self.versions:
            return ""
        ways = [f"/versions/{number}" for number in self.versions] + [f"/labels/{name}" for name in self.labels]
        return f"This bearer is for {model}{', '.join(ways)} only: the request must name it."

    def to_json(self) -> str:
        """One line, ASCII."""
        # Left out is what is None; models that are () are none, not all.
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> Grant:
        """From what `to_json` wrote, parsed."""
        models = message.get("models")
        return cls(
            id=str(message["id"]),
            models=None if models is None else tuple(models),
            versions=tuple(message.get("versions", ())),
            labels=tuple(message.get("labels", ())),
            expires=message.get("expires"),
            rate=message.get("rate"),
            concurrency=message.get("concurrency"),
        )

"""Who may call the ports: whoever sends a bearer whose hash is in the file that the owner of the model server wrote."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path


class Bearers:
    """The accepted bearers, as hashes; empty (and false) where the ports are open to all."""

    def __init__(self, file: str = "") -> None:
        self._hashes = Path(file).read_text().split() if file else []
        self._required = bool(file)

    def __bool__(self) -> bool:
        return self._required

    def accept(self, authorization: str) -> bool:
        """Whether an Authorization header, ``Bearer X`` or ``token X``, is accepted; takes the same time either way."""
        scheme, _, bearer = authorization.partition(" ")
        digest = hashlib.sha256(bearer.strip().encode("utf-8", "surrogateescape")).hexdigest()
        known = [hmac.compare_digest(digest, accepted) for accepted in self._hashes]
        return any(known) and scheme.lower() in ("bearer", "token")

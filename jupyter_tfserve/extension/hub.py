"""JupyterHub, where it started this server: who is behind a bearer, and shares that hold nothing but the right to
predict. Needs nothing of the package jupyterhub but the `hub_auth` that its identity provider has.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import quote

from jupyter_server.auth.identity import IdentityProvider
from tornado import web

if TYPE_CHECKING:
    import httpx

#: The Hub's scope for predictions: its pattern is custom:jupyter_server:{action}:{resource}.
SCOPE = "custom:jupyter_server:execute:jupyter_tfserve:inference"

#: Seconds that the Hub's word about a bearer counts, also that it knows none: revoking takes this long to show.
#: jupyterhub's own cache would take 300.
CACHE_SECONDS = 30.0

#: The same for who remembers our answer himself: the model server, for 25 more.
FRESH_SECONDS = 5.0

_MAX_CACHED = 1000

#: Seconds that the Hub gets to answer.
_TIMEOUT = 20.0

#: jupyterhub allows share codes from a minute to a year.
CODE_SECONDS = (60, 525600 * 60)

CONFIG = "`jupyter tfserve hub-config` prints what the Hub's admin adds, once, to jupyterhub_config.py."


class HubError(Exception):
    """The Hub does not do what is asked of it; `status` is what our caller is told."""

    def __init__(self, status: int, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.remedy = remedy


class _HubAuth(Protocol):
    """What we use of `jupyterhub.services.auth.HubAuth`."""

    api_url: str
    api_token: str
    hub_host: str
    certfile: str
    keyfile: str
    client_ca: str
    access_scopes: set[str]

    async def user_for_token(self, token: str, use_cache: bool, *, sync: bool) -> dict[str, Any] | None: ...

    def check_scopes(self, required: set[str], user: Mapping[str, Any]) -> set[str]: ...

    def get_token(self, handler: web.RequestHandler) -> str | None: ...


class Hub:
    """The Hub that started this server. All methods belong to one event loop; none blocks it."""

    def __init__(self, auth: _HubAuth) -> None:
        self._auth = auth
        self.owner = os.environ.get("JUPYTERHUB_USER", "")
        self.server = os.environ.get("JUPYTERHUB_SERVER_NAME", "")
        self.scope = f"{SCOPE}!server={self.owner}/{self.server}"
        self._known: dict[str, tuple[float, asyncio.Future[dict[str, Any] | None]]] = {}

    @classmethod
    def of(cls, identity: IdentityProvider) -> Hub | None:
        """The Hub, where the server's identity provider is the Hub's."""
        auth = getattr(identity, "hub_auth", None)
        return None if auth is None else cls(cast(_HubAuth, auth))

    async def user_of(self, bearer: str, seconds: float = CACHE_SECONDS) -> dict[str, Any] | None:
        """The Hub's user model, None for a bearer that it does not know; said at most `seconds` ago. Raises HubError if
        it does not answer.
        """
        key = hashlib.sha256(bearer.encode("utf-8", "surrogateescape")).hexdigest()
        now = time.monotonic()
        known = self._known.get(key)
        if known is None or now - known[0] > seconds:
            if len(self._known) >= _MAX_CACHED:
                self._known = {k: v for k, v in self._known.items() if now - v[0] <= CACHE_SECONDS / 2}
            known = now, asyncio.ensure_future(self._auth.user_for_token(bearer, use_cache=False, sync=False))
            self._known[key] = known
        try:
            return await asyncio.shield(known[1])  # one caller that gives up is not all of them
        except web.HTTPError as error:
            self._known.pop(key, None)
            raise HubError(503, "The JupyterHub does not answer; try again.") from error

    def opens(self, user: Mapping[str, Any]) -> bool:
        """Whether a user may do everything on this server."""
        return bool(self._auth.check_scopes(self._auth.access_scopes, user))

    def may_predict(self, user: Mapping[str, Any]) -> bool:
        """Whether a user has the scope for predictions of this server."""
        return bool(self._auth.check_scopes({self.scope}, user))

    def forget(self) -> None:
        """Ask the Hub again about everyone."""
        self._known.clear()

    # Shares. `token` is the Hub token of who asks, "" for the server's own.

    def token_of(self, handler: web.RequestHandler) -> str:
        """The Hub token that a request of the owner carries, as a browser does; "" for none, as from a kernel."""
        return self._auth.get_token(handler) or ""

    async def share_with(self, user: str, token: str) -> None:
        """Let a user of the Hub predict. Raises HubError."""
        await self._ask("POST", "shares", {"user": user, "scopes": [self.scope]}, token)

    async def unshare_with(self, user: str, token: str) -> None:
        """Take that back. Raises HubError."""
        await self._ask("PATCH", "shares", {"user": user, "scopes": [self.scope]}, token)

    async def share_code(self, seconds: float, token: str) -> dict[str, Any]:
        """A code that whoever opens its link accepts: ``id`` and ``accept_url``. Raises HubError."""
        least, most = CODE_SECONDS
        body = {"scopes": [self.scope], "expires_in": int(min(max(seconds, least), most))}
        made = await self._ask("POST", "share-codes", body, token)
        return {"id": made["id"], "url": made.get("full_accept_url") or self._auth.hub_host + made["accept_url"]}

    async def revoke_code(self, code: str, token: str) -> None:
        """The code opens nothing any more; who accepted it keeps their share. Raises HubError."""
        await self._ask("DELETE", f"share-codes?id={quote(code)}", None, token)

    async def shared_with(self, token: str) -> list[str]:
        """Users that have a share with our scope on this server. Raises HubError."""
        found = await self._ask("GET", "shares", None, token)
        return [
            item["user"]["name"] for item in found.get("items", ()) if item["user"] and self.scope in item["scopes"]
        ]

    async def _ask(self, verb: str, what: str, body: Any, token: str) -> Any:
        import httpx  # Jupyter's start does not wait for it

        kind, _, query = what.partition("?")
        url = f"{self._auth.api_url.rstrip('/')}/{kind}/{quote(self.owner, safe='')}/{quote(self.server, safe='')}"
        try:
            # The Hub is reached as jupyterhub itself reaches it: no proxy from the environment sees the token.
            async with httpx.AsyncClient(verify=self._tls(), trust_env=False, timeout=_TIMEOUT) as client:
                answer = await client.request(
                    verb,
                    url + (f"?{query}" if query else ""),
                    json=body,
                    headers={"Authorization": f"token {token or self._auth.api_token}"},
                )
        except httpx.HTTPError as error:
            raise HubError(503, f"The JupyterHub does not answer: {type(error).__name__}.", "Try again.") from error
        if answer.status_code >= 400:
            raise _refused(answer, body)
        return answer.json() if answer.content else {}

    def _tls(self) -> ssl.SSLContext | bool:
        """The Hub's internal TLS, where it has one."""
        if not self._auth.certfile:
            return True
        context = ssl.create_default_context(cafile=self._auth.client_ca or None)
        context.load_cert_chain(self._auth.certfile, self._auth.keyfile)
        return context


def _refused(answer: httpx.Response, body: Any) -> HubError:
    try:
        said = str(answer.json().get("message", ""))
    except ValueError:
        said = ""
    if answer.status_code == 400 and "No such user" in said:
        return HubError(
            404, f"The JupyterHub has no user {body['user']!r}.", "Ask your colleague for their name there."
        )
    if answer.status_code == 404 and body is None:
        return HubError(404, "The JupyterHub does not know this share.")
    return HubError(
        409, f"The JupyterHub does not let this server share predictions ({said or answer.status_code}).", CONFIG
    )

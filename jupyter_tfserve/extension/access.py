"""Who may call: the one place that answers it. `management.py`, `inference.py` and `tunnel.py` ask, and
`callers.py` for the model server.

Everything may do: whom Jupyter itself knows (token, cookie, Hub), and kernels of this server, which show the owner key:
a random word in a 0600 file, for servers whose callers have no token that a kernel could use (a password, a Hub). Both
are subject to Jupyter's Authorizer. Only predict may: an access key of ours, and a bearer with the Hub's scope for it.
"""

from __future__ import annotations

import getpass
import hmac
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from jupyter_server import CallContext
from jupyter_server.auth.authorizer import AllowAllAuthorizer
from jupyter_server.auth.identity import IdentityProvider, PasswordIdentityProvider, User
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import ensure_async
from tornado import web

from ..grants import Grant
from .hub import FRESH_SECONDS, Hub, HubError
from .shares import PREFIX

if TYPE_CHECKING:
    from .app import TFServe

#: What may be done to the management API: Jupyter's actions read, write, execute.
MANAGEMENT = "jupyter_tfserve"

#: What may be executed under /v1. The Hub's scope for it: custom:jupyter_server:execute:jupyter_tfserve:inference.
INFERENCE = "jupyter_tfserve:inference"

_AUTHORIZATION = re.compile(r"(?:token|bearer)\s+(\S+)\s*", re.IGNORECASE)


class Refused(Exception):
    """The caller may not: 401 for one whom nobody knows, 403 for one who lacks the right."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Caller:
    """Who is let in."""

    name: str  #: for the audit events
    grant: Grant | None = None  #: None: all that the model server does for its owner


def is_owner(handler: JupyterHandler, owner_key: str) -> bool:
    """Whether the request shows the owner key; if so the handler's user is the owner.

    Such a request needs neither XSRF token nor a local Host: no web page can make a browser send the key.
    """
    match = _AUTHORIZATION.fullmatch(handler.request.headers.get("Authorization", ""))
    if match is None or not hmac.compare_digest(match[1].encode("utf-8", "replace"), owner_key.encode()):
        return False
    CallContext.set(CallContext.JUPYTER_HANDLER, handler)
    handler.current_user = handler._jupyter_current_user = _owner()
    handler._token_authenticated = True  # type: ignore[attr-defined]
    handler.set_cors_headers()
    return True


async def may_infer(handler: JupyterHandler, tfserve: TFServe) -> Caller:
    """Who calls; raises Refused. Credentials count in headers and cookies only, never in the URL: a URL is written into
    logs. What only predicts counts in the header alone.
    """
    if "token" in handler.request.query_arguments:
        raise Refused(401, "The token belongs into the header  Authorization: Bearer <token>,  not into the URL.")
    if not is_owner(handler, tfserve.supervisor.token):
        caller = await bearer_of(handler.request.headers.get("Authorization", ""), tfserve)
        if caller is not None:
            CallContext.set(CallContext.JUPYTER_HANDLER, handler)
            handler.current_user = handler._jupyter_current_user = None
            handler._token_authenticated = True  # type: ignore[attr-defined]
            handler.set_cors_headers()
            return caller
        await _identify(handler)
    user = handler.current_user
    allowed: Any = handler.authorizer.is_authorized(handler, user, "execute", INFERENCE)
    if allowed is not True and not await ensure_async(allowed):
        raise Refused(403, f"User {user.username} may not execute {INFERENCE} on this server.")
    return Caller(user.username)


async def bearer_of(authorization: str, tfserve: TFServe) -> Caller | None:
    """Who may predict and no more, by the bearer; None where Jupyter itself is to say who it is. Raises Refused."""
    match = _AUTHORIZATION.fullmatch(authorization)
    if match is None:
        return None
    key = tfserve.shares.key(match[1])
    if key is not None:
        if not tfserve.allow_access_keys:
            raise Refused(401, "Access keys are turned off on this server (TFServe.allow_access_keys).")
        if key.expired:
            raise Refused(401, "This access key has expired: ask its owner for a new one.")
        tfserve.shares.use(key.id)
        return Caller(f"key {key.id}", key.grant())
    if tfserve.hub is None:
        return None
    try:
        user = await tfserve.hub.user_of(match[1])
    except HubError:
        return None  # the Hub does not answer: for a while its own identity provider remembers whom it knew
    return _of_the_hub(user, tfserve, tfserve.hub)


async def grant_of(bearer: str, tfserve: TFServe) -> Grant:
    """What may be done with a bearer on the model server's own ports, which know the owner's and the access keys, but
    nothing of the Hub. Raises Refused, HubError.
    """
    if tfserve.hub is None or bearer.startswith(PREFIX):
        raise Refused(401, "This bearer is not known, or no longer.")
    user = await tfserve.hub.user_of(bearer, FRESH_SECONDS)
    caller = _of_the_hub(user, tfserve, tfserve.hub)
    if caller is not None and caller.grant is not None:
        return caller.grant
    # Who may do everything under Jupyter: here they predict. An Authorizer of the admin's own would have to see the
    # request; the usual ones ask for nothing more.
    authorizer = type(tfserve.server.authorizer)
    if authorizer is not AllowAllAuthorizer and not authorizer.__module__.startswith("jupyterhub."):
        raise Refused(403, "This server's Authorizer decides who may predict: ask through the JupyterHub's URL.")
    return Grant(f"hub {_name(user or {})}", None)


def _of_the_hub(user: Mapping[str, Any] | None, tfserve: TFServe, hub: Hub) -> Caller | None:
    """A user of the Hub who may predict and no more; None for one who may do everything. Raises Refused."""
    if user is None:
        raise Refused(401, "The JupyterHub does not know this token, or no longer.")
    if hub.opens(user):
        return None
    name = _name(user)
    if not hub.may_predict(user):
        raise Refused(403, f"The {name} may not predict here: its token lacks the scope {hub.scope}.")
    # What a service may is its admin's word; what a user may is what was shared with them, where something was.
    grant = tfserve.shares.for_user(user["name"]) if user.get("kind") != "service" else None
    if grant is None:
        return Caller(name, Grant(f"hub {name}", None))
    return Caller(name, grant)


def _name(user: Mapping[str, Any]) -> str:
    return f"{user.get('kind', 'user')} {user['name']}"


async def _identify(handler: JupyterHandler) -> None:
    """What JupyterHandler.prepare does, except that nobody is ever sent to the login page."""
    CallContext.set(CallContext.JUPYTER_HANDLER, handler)
    handler.current_user = handler._jupyter_current_user = None
    if not handler.check_host():
        raise Refused(403, "This server does not answer under that host name (ServerApp.allow_remote_access).")
    try:
        user = _bearer_of_the_token(handler) or await ensure_async(handler.identity_provider.get_user(handler))
    except web.HTTPError as error:
        raise Refused(503, "Who you are cannot be asked at the moment; try again.") from error
    if not user:
        raise Refused(401, "Send the header  Authorization: Bearer <token>.")
    handler.current_user = handler._jupyter_current_user = user
    handler.set_cors_headers()
    if handler.request.method in ("GET", "HEAD", "OPTIONS"):
        return
    try:
        handler.check_xsrf_cookie()  # passes what shows a token in a header
    except web.HTTPError as error:
        raise Refused(403, f"{error.log_message or 'Blocked'} (a request with a token needs no _xsrf)") from error


def _bearer_of_the_token(handler: JupyterHandler) -> User | None:
    """Who shows the server's token and no cookie, where Jupyter's own providers decide: they would make an anonymous
    user with a new name, and a login cookie that is not sent, for each request. The token is compared each time, so
    that a new one counts at once; None leaves the decision to the provider.
    """
    provider = handler.identity_provider
    if type(provider) not in (IdentityProvider, PasswordIdentityProvider) or "Cookie" in handler.request.headers:
        return None
    match = _AUTHORIZATION.fullmatch(handler.request.headers.get("Authorization", ""))
    if match is None or not provider.token:
        return None
    if not hmac.compare_digest(match[1].encode("utf-8", "replace"), provider.token.encode()):
        return None
    user = _anonymous.get(provider)
    if user is None:
        user = _anonymous[provider] = provider.generate_anonymous_user(handler)
    handler._token_authenticated = True  # type: ignore[attr-defined]
    return user


#: The name under which a server's bearers of the token are known.
_anonymous: WeakKeyDictionary[IdentityProvider, User] = WeakKeyDictionary()


def _owner() -> User:
    try:
        name = os.environ.get("JUPYTERHUB_USER") or getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())  # a container's user without a name
    user = User(username=name, name=name, display_name=name)
    scopes = os.environ.get("JUPYTERHUB_OAUTH_ACCESS_SCOPES")
    if scopes:
        # What the Hub's Authorizer looks at: the scopes that open this server, which its owner has.
        user.hub_user = {"name": name, "kind": "user", "scopes": json.loads(scopes)}  # type: ignore[attr-defined]
    return user

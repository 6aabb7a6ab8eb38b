"""Who may call: the one place that answers it. `management.py` and `inference.py` ask.

Two kinds of callers so far: whom Jupyter itself knows (token, cookie, Hub), and kernels of this server, which show the
owner key: a random word in a 0600 file, for servers whose callers have no token that a kernel could use (a password, a
Hub). Both are subject to Jupyter's Authorizer.
"""

from __future__ import annotations

import getpass
import hmac
import json
import os
import re
from typing import Any
from weakref import WeakKeyDictionary

from jupyter_server import CallContext
from jupyter_server.auth.identity import IdentityProvider, PasswordIdentityProvider, User
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import ensure_async
from tornado import web

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


async def may_infer(handler: JupyterHandler, owner_key: str) -> None:
    """Let the request through or raise Refused. Credentials count in headers and cookies only, never in the URL: a URL
    is written into logs.
    """
    if "token" in handler.request.query_arguments:
        raise Refused(401, "The token belongs into the header  Authorization: Bearer <token>,  not into the URL.")
    if not is_owner(handler, owner_key):
        await _identify(handler)
    user = handler.current_user
    allowed: Any = handler.authorizer.is_authorized(handler, user, "execute", INFERENCE)
    if allowed is not True and not await ensure_async(allowed):
        raise Refused(403, f"User {user.username} may not execute {INFERENCE} on this server.")


async def _identify(handler: JupyterHandler) -> None:
    """What JupyterHandler.prepare does, except that nobody is ever sent to the login page."""
    CallContext.set(CallContext.JUPYTER_HANDLER, handler)
    handler.current_user = handler._jupyter_current_user = None
    if not handler.check_host():
        raise Refused(403, "This server does not answer under that host name (ServerApp.allow_remote_access).")
    user = _bearer_of_the_token(handler) or await ensure_async(handler.identity_provider.get_user(handler))
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

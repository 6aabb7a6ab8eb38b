"""``<base_url>/tfserve/api/shares``: shares and access keys are made, listed and revoked, by the owner. What they then
allow, `access.py` and the model server hold their bearers to.
"""

# mypy: disable-error-code="untyped-decorator"
# (jupyter_server's `authorized` has no type that mypy could follow)

from __future__ import annotations

import asyncio
import hmac
import json
import math
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from jupyter_server.auth.decorator import authorized
from tornado import web

from ..api import NewShare, Share, ShareKind, ShareList
from ..store import StoreError, check_name
from .access import MANAGEMENT
from .hub import CONFIG, Hub, HubError
from .management_handler import ManagementHandler, Refuse
from .shares import Record, digest, new_key

if TYPE_CHECKING:
    from .app import TFServe

AUTH_RESOURCE = MANAGEMENT

#: Seconds that a share holds where nothing else is said.
DEFAULT_SECONDS = 7 * 24 * 3600.0

_KEYS = {"models", "kind", "user", "versions", "labels", "expires_in", "rate", "concurrency", "note"}


class SharesHandler(ManagementHandler):
    """All shares."""

    audited = False  # an event of its own says more

    @web.authenticated
    @authorized("read", AUTH_RESOURCE)
    async def get(self) -> None:
        """A `ShareList`."""
        await self.in_thread(self.tfserve.shares.refresh)
        shares = [record.message() for record in self.tfserve.shares]
        self.finish(json.dumps(ShareList(shares=shares, kinds=_kinds(self.tfserve))))

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def post(self) -> None:
        """A `ShareRequest` -> a `NewShare`."""
        made = await share(self.tfserve, self.json_object(), hub_token(self))
        self.tfserve.audit(action="shared", who=self.current_user.username, **_told(made["share"]))
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(made))


class ShareHandler(ManagementHandler):
    """One share."""

    audited = False

    @web.authenticated
    @authorized("write", AUTH_RESOURCE)
    async def delete(self, share: str) -> None:
        """Revoke it."""
        record = next((record for record in self.tfserve.shares if record.id == share), None)
        if record is None:
            raise Refuse(404, f"There is no share {share!r}.", "`%tfserve shares` lists those that there are.")
        await revoke(self.tfserve, record, hub_token(self))
        self.tfserve.audit(action="unshared", who=self.current_user.username, **_told(record.message()))
        self.set_status(204)
        self.finish()


def hub_token(handler: ManagementHandler) -> str:
    """The Hub token that the request itself shows, as a browser does; "" for the server's own."""
    token = handler.tfserve.hub.token_of(handler) if handler.tfserve.hub is not None else ""
    is_owner_key = hmac.compare_digest(token.encode(), handler.tfserve.supervisor.token.encode())
    return "" if is_owner_key else token


async def share(tfserve: TFServe, request: dict[str, Any], token: str) -> NewShare:
    """Make a share. Raises Refuse."""
    record = _checked(tfserve, request)
    key = accept_url = ""
    if record.kind == "key":
        key = new_key()
        record = replace(record, sha256=digest(key))
    else:
        hub = _hub(tfserve)
        try:
            if record.kind == "user":
                await hub.share_with(record.user, token)
            else:
                seconds = math.inf if record.expires is None else record.expires - time.time()
                code = await hub.share_code(seconds, token)
                record, accept_url = replace(record, code=code["id"]), code["url"]
        except HubError as error:
            raise Refuse(error.status, error.message, error.remedy) from error
        record = replace(record, server=hub.server)
        hub.forget()
    await asyncio.to_thread(tfserve.shares.add, record)
    tfserve.tell_grants()
    return NewShare(share=record.message(), key=key, accept_url=accept_url)


async def revoke(tfserve: TFServe, record: Record, token: str = "") -> None:
    """End a share: for us at once, then at the Hub, then it is forgotten. Raises Refuse where the Hub does not do its
    part; then the share stays listed, expired, and is tried again.
    """
    if record.kind != "key":
        hub = _hub(tfserve)
        await asyncio.to_thread(tfserve.shares.expire, record.id)
        try:
            await _revoke_at_hub(tfserve, hub, record, token)
        except HubError as error:
            raise Refuse(
                error.status, f"It is revoked here, but not at the Hub yet: {error.message}", error.remedy
            ) from error
        finally:
            hub.forget()
    await asyncio.to_thread(tfserve.shares.remove, record.id)
    tfserve.tell_grants()


async def _revoke_at_hub(tfserve: TFServe, hub: Hub, record: Record, token: str) -> None:
    others = [r for r in tfserve.shares if r.kind != "key" and r.server == hub.server and r.id != record.id]
    named = {other.user for other in others if other.kind == "user"}
    link = any(other.kind == "link" and not other.expired for other in others)
    if record.kind == "user":
        if record.user not in named:
            await hub.unshare_with(record.user, token)
        return
    try:
        await hub.revoke_code(record.code, token)
    except HubError as error:
        if error.status != 404:  # it has expired there too
            raise
    if not link:  # who accepted a link has a share of their own, which outlives its code
        for user in await hub.shared_with(token):
            if user not in named:
                await hub.unshare_with(user, token)


def _hub(tfserve: TFServe) -> Hub:
    if tfserve.hub is None:
        raise Refuse(
            409,
            "This Jupyter Server was not started by a JupyterHub.",
            "Use an access key: `%tfserve share NAME --key`.",
        )
    return tfserve.hub


def _kinds(tfserve: TFServe) -> list[ShareKind]:
    """What can be made, the default first."""
    kinds: list[ShareKind] = ["link", "user"] if tfserve.hub else []
    return [*kinds, "key"] if tfserve.allow_access_keys else kinds


def _checked(tfserve: TFServe, request: dict[str, Any]) -> Record:
    """What is asked for, if it can be."""
    unknown = sorted(set(request) - _KEYS)
    if unknown:
        raise Refuse(400, f"A share has no {unknown[0]!r}.", f"It has: {', '.join(sorted(_KEYS))}.")
    models, user = request.get("models"), request.get("user", "")
    kind = request.get("kind") or ("user" if user else next(iter(_kinds(tfserve)), "key"))
    if kind not in ("user", "link", "key"):
        raise Refuse(400, f"{kind!r} is no kind of share.", 'Say "user", "link" or "key".')
    if kind == "key" and not tfserve.allow_access_keys:
        raise Refuse(403, "Access keys are turned off on this server (TFServe.allow_access_keys).", CONFIG)
    if not isinstance(user, str) or bool(user) != (kind == "user"):
        raise Refuse(400, "A share with a user names them, and no other does.")
    if not isinstance(models, list) or not models or not all(isinstance(name, str) for name in models):
        raise Refuse(400, "'models' is a list of names: a share is for named models.")
    versions, labels = request.get("versions") or [], request.get("labels") or []
    if not isinstance(versions, list) or not all(_is_number(v, int) and v >= 0 for v in versions):
        raise Refuse(400, "'versions' is a list of whole numbers.")
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise Refuse(400, "'labels' is a list of names.")
    seconds = request.get("expires_in", DEFAULT_SECONDS)
    rate, concurrency, note = request.get("rate"), request.get("concurrency"), request.get("note", "")
    for name, value, kinds in (("expires_in", seconds, (int, float)), ("rate", rate, (int, float))):
        if value is not None and not (_is_number(value, kinds) and 0 < value < 1e10):
            raise Refuse(400, f"{name!r} is a number above 0, or null.")
    if concurrency is not None and not (_is_number(concurrency, int) and concurrency > 0):
        raise Refuse(400, "'concurrency' is a whole number above 0, or null.")
    if not isinstance(note, str) or len(note) > 1000:
        raise Refuse(400, "'note' is a text of at most 1000 characters.")
    if kind != "key" and (versions or labels):
        raise Refuse(400, "Only an access key can be for versions or labels.", "Use --key, or leave them out.")
    try:
        names = tuple(dict.fromkeys(check_name(name) for name in models))
    except StoreError as error:
        raise Refuse(400, error.message, error.remedy) from error
    now = time.time()
    return Record(
        id=secrets.token_hex(4),
        kind=cast(ShareKind, kind),
        models=names,
        versions=tuple(versions),
        labels=tuple(labels),
        created=now,
        expires=None if seconds is None else now + seconds,
        rate=rate,
        concurrency=concurrency,
        note=note,
        user=user,
    )


def _told(made: Share) -> dict[str, Any]:
    """What an audit event says of a share."""
    return {
        "share": made["id"],
        "kind": made["kind"],
        "models": made["models"],
        "user": made["user"],
        "expires": made["expires"],
    }


def _is_number(value: Any, kinds: Any) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)

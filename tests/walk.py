"""What a bearer can reach: every route of a Jupyter Server's own table is asked, with every verb that it has."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Callable
from pathlib import Path

from helpers import PATIENCE, Answer, wait_for
from route_table import example

#: What anybody may see: static files, favicons, login pages; all of it is the same for every Jupyter Server.
OPEN = (
    "/static/",
    "/lab/extensions/",
    "/favicon.ico",
    "/robots.txt",
    "/login",
    "/logout",
    "/custom/",
    "/oauth_callback",
    "/kernelspecs/",  # logos
    "/api/security/csp-report",
)

#: Handlers of Jupyter's own that tell everybody the same: a theme's style sheets, the version, an empty start page, a
#: redirection to a path that the caller wrote.
OPEN_HANDLERS = (
    "ThemesHandler",
    "APIVersionHandler",
    "base.handlers.MainHandler",
    "TrailingSlashHandler",
    "NotebooksRedirectHandler",
    "RedirectWithParams",
)

#: Its refusal fails inside itself, so that a stranger gets no answer at all (jupyterlab_server 2.28).
SILENT = "LicensesHandler"

#: What a bearer for predictions is for.
OURS = ("InferenceHandler", "TunnelHandler")

#: Verb, path and a limit in seconds -> the answer.
Ask = Callable[[str, str, float], Answer]


def table(file: Path) -> list[tuple[str, str, str]]:
    """Verb, path and handler of every route that `route_table.py` wrote."""
    wait_for("the table of routes", file.exists)
    found = []
    for rule in json.loads(file.read_text()):
        for verb in rule["methods"]:
            found.append((verb, example(rule["pattern"]), rule["handler"]))
    return found


def reached(routes: list[tuple[str, str, str]], ask: Ask, base_url: str) -> list[str]:
    """The routes, beside those that are open to all and ours, whose answer is not 401 or 403."""
    others = [
        route
        for route in routes
        if not route[2].endswith((*OURS, *OPEN_HANDLERS))
        and not any(("/" + route[1].removeprefix(base_url).lstrip("/")).startswith(path) for path in OPEN)
    ]
    assert len(others) > 80, "the walk must be the whole server's"

    def one(route: tuple[str, str, str]) -> str:
        verb, path, handler = route
        try:
            answer = ask(verb, path, 2.0 if handler.endswith(SILENT) else PATIENCE)
        except TimeoutError as error:
            return "" if handler.endswith(SILENT) else f"{verb} {path} ({handler}): {error}"
        if verb == "OPTIONS" and answer.status in (200, 204, 405) and not answer.body:
            return ""  # a browser asks before it calls; that tells nothing
        return "" if answer.status in (401, 403) else f"{verb} {path} ({handler}): {answer.status} {answer.body[:80]!r}"

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return [said for said in pool.map(one, others) if said]

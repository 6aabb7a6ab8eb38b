"""One Chromium and one server for the tests of a file; fresh pages and servers for each test. See browsing.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import ARGUMENTS, Lab, Watched, chromium, picture
from playwright.sync_api import Browser, Page, Playwright, sync_playwright


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Of a file, not of the session: its event loop runs until it ends, and others' tests could have none."""
    with sync_playwright() as one:
        yield one


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """The system's Chromium, without a window and with a profile of its own."""
    one = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS, headless=True)
    yield one
    one.close()


@pytest.fixture(scope="session")
def lab(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server that the tests of a file share. A test that changes something takes a model name of its own."""
    one = Lab(tmp_path_factory.mktemp("lab"))
    try:
        one.wait_until_ready()
        one.serve(models / "affine" / "1", "affine")
        yield one
    finally:
        one.close()


@pytest.fixture
def start_lab(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Starts a server for one test, with flags and what `Lab` takes; it is killed at the test's end."""
    started: list[Lab] = []

    def begin(*flags: str, **more: Any) -> Lab:
        one = Lab(tmp_path / f"lab-{len(started)}", *flags, **more)
        started.append(one)
        one.wait_until_ready()
        return one

    yield begin
    for one in started:
        one.close()


@pytest.fixture
def watched(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A fresh page without cookies; afterwards a picture of it is kept, and an error of ours fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(30_000)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    one = Watched(context.new_page())
    yield one
    picture(one.page, re.sub(r"\W+", "-", request.node.name))
    context.close()
    assert one.our_errors == []


@pytest.fixture
def page(watched: Watched) -> Page:
    """The page alone."""
    return watched.page

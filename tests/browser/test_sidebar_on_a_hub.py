"""The sidebar on a real JupyterHub: the owner lets colleagues predict, and shows them out again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browsing import SIDEBAR, choose, in_section
from helpers import wait_for
from hub_process import Browser, JupyterHub, UserServer
from playwright.sync_api import Page, expect


@pytest.fixture(scope="module")
def owner(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UserServer]:
    """The server of somebody whose name needs care, on a Hub whose base URL does, too."""
    hub = JupyterHub(tmp_path_factory.mktemp("hub"), base_url="/jupyter hüb/")
    try:
        hub.wait_until_ready()
        one = UserServer(hub, "zoë b").start()
        one.serve(models, "affine", "echo")
        yield one
    finally:
        hub.close()


def open_lab(page: Page, owner: UserServer) -> None:
    """The owner logs in, opens JupyterLab, and in it the sidebar."""
    page.goto(f"{owner.hub.url}hub/login?next={urlsplit(owner.url).path}lab")
    page.get_by_label("Username").fill(owner.user)
    page.get_by_label("Password").fill("password")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("tab", name="TensorFlow Serving").click(timeout=60_000)


def test_colleagues_are_let_in_and_shown_out(page: Page, owner: UserServer) -> None:
    hub = owner.hub
    for name in ("bob", "carol"):
        hub.add_user(name)
    open_lab(page, owner)
    sidebar = page.locator(SIDEBAR)
    choose(sidebar, "affine", "serving version 1")
    section = in_section(sidebar, "Shares")
    expect(section).to_contain_text("affine is shared with nobody.")
    kind = section.get_by_label("Share with")
    assert kind.locator("option").all_inner_texts() == ["whoever opens a link", "a user of the Hub"]

    # By name.
    kind.select_option(label="a user of the Hub")
    section.get_by_label("User", exact=True).fill("bob")
    section.get_by_role("button", name="Share", exact=True).click()
    expect(section).to_contain_text("user bob")
    bob = hub.token("bob", owner.scope)
    assert [owner.predict(model, bob) for model in ("affine", "echo")] == [200, 403]
    section.get_by_title("Revoke the share with user bob").click()
    expect(section).to_contain_text("affine is shared with nobody.")
    wait_for("bob to be shown out", lambda: owner.predict("affine", bob) == 403)

    # By link, as it is shown.
    kind.select_option(label="whoever opens a link")
    section.get_by_role("button", name="Share", exact=True).click()
    link = section.get_by_text(re.compile("accept-share"))
    expect(link).to_be_visible()
    with Browser(hub, "carol") as browser:
        assert browser.accept(link.inner_text()).status_code == 200
    carol = hub.token("carol", owner.scope)
    assert [owner.predict(model, carol) for model in ("affine", "echo")] == [200, 403]
    section.get_by_title("Revoke the share with whoever opens the link").click()
    expect(section).to_contain_text("affine is shared with nobody.")
    wait_for("carol to be shown out", lambda: owner.predict("affine", carol) == 403)

"""The sidebar in JupyterLab and Notebook 7: models of a notebook seen and steered by mouse and keys, and read by axe.
The pictures of docs/panel.md are made here: SCREENSHOTS=docs/screenshots python -m pytest tests/browser/test_sidebar.py
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from browsing import (
    DIGITS,
    SIDEBAR,
    Lab,
    Watched,
    busy_seconds,
    check_accessibility,
    choose,
    command,
    in_section,
    in_sidebar,
    keep,
    load,
    look_at_each_section,
    open_alone,
    open_notebook,
    picture,
    run_all,
)
from helpers import publish, wait_for
from playwright.sync_api import Page, expect

from jupyter_tfserve.client import Client

#: Pictures that docs/panel.md shows.
IN_DOCS = {f"sidebar-{title}-{theme}" for title in ("versions", "batching", "try-it") for theme in ("light", "dark")}
IN_DOCS |= {"sidebar-jupyterlab", "sidebar-failed"}


def label_of(client: Client, model: str, label: str) -> int | None:
    return client.model(model)["labels"].get(label)


def test_a_model_of_a_notebook_is_seen_and_its_label_moved(lab: Lab, watched: Watched, models: Path) -> None:
    page = watched.page
    cells = (
        f"%load_ext jupyter_tfserve\n%tfserve seen {models / 'affine' / '1'} --version 1 --label stable",
        f"%tfserve seen {models / 'affine' / '2'} --version 2\n%tfserve versions seen --all",
    )
    open_alone(page, lab, lab.write_notebook("seen.ipynb", *cells))
    sidebar = in_sidebar(page)
    run_all(page)
    choose(sidebar, "seen", "serving version 2")
    expect(in_section(sidebar, "Versions").get_by_label("Version 2")).to_contain_text("made by seen.ipynb, cell 2")

    labels = in_section(sidebar, "Labels")
    expect(labels).to_contain_text("stable → 1")
    labels.get_by_label("Label", exact=True).fill("stable")
    labels.get_by_label("to version").select_option("2")
    expect(labels).to_contain_text("stable: 1 → 2; requests to /labels/stable go to version 2 at once.")
    client = lab.client()
    assert client.predict("seen", {"instances": [1.0]}, label="stable") == {"predictions": [2.0]}
    labels.get_by_role("button", name="Apply").click()
    expect(labels).to_contain_text("stable is at 2 already.")
    assert client.predict("seen", {"instances": [1.0]}, label="stable") == {"predictions": [3.0]}
    client.close()


def test_batching_is_changed_under_load_and_the_histogram_moves(lab: Lab, watched: Watched, models: Path) -> None:
    lab.serve(models / "affine" / "1", "merged", 1)
    client = lab.client()
    client.set_batching("merged", {"mode": "off"})
    open_alone(watched.page, lab)
    sidebar = in_sidebar(watched.page)
    choose(sidebar, "merged", "serving version 1")
    batching = in_section(sidebar, "Batching")
    expect(batching.get_by_label("Mode")).to_have_value("off")
    sizes = sidebar.get_by_role("img", name="Batch sizes")
    with load(lab, "merged", {"instances": [1.0]}):
        expect(sidebar.get_by_role("img", name=re.compile("Requests.s: [1-9]"))).to_be_visible()
        batching.get_by_label("Mode").select_option("on")
        batching.get_by_label("Window (µs)").fill("20000")
        batching.get_by_label("Window (µs)").press("Enter")
        expect(sizes).to_have_attribute("aria-label", re.compile(r"runs in 10 s: .*of (4|8|16)"))
    set_to = client.model("merged")["batching"]
    assert (set_to["mode"], set_to["batch_timeout_micros"]) == ("on", 20000)
    batching.get_by_label("Window (µs)").fill("soon")
    batching.get_by_label("Window (µs)").press("Enter")
    expect(batching.get_by_role("alert")).to_contain_text("What to do: An empty field goes back to the default.")
    client.close()


def test_versions_are_unloaded_and_loaded_and_a_failed_one_is_read(
    lab: Lab, watched: Watched, models: Path, tmp_path: Path
) -> None:
    lab.serve(models / "affine" / "1", "mended", 1, 2)
    client = lab.client()
    open_alone(watched.page, lab)
    sidebar = in_sidebar(watched.page)
    choose(sidebar, "mended", "serving version 2")
    versions = in_section(sidebar, "Versions")
    second = versions.get_by_label("Version 2", exact=True)
    expect(second).to_contain_text("requests without a version go to version 1 then")
    second.get_by_role("button", name="Unload").click()
    expect(sidebar.get_by_role("button", name="mended: serving version 1")).to_be_visible()
    expect(second).to_contain_text("from then on just the versions 2 and 1 are served")
    second.get_by_role("button", name="Load").click()
    expect(sidebar.get_by_role("button", name="mended: serving version 2")).to_be_visible()
    versions.get_by_role("combobox", name="Serve", exact=True).select_option("the newest")
    versions.get_by_label("How many").fill("2")
    versions.get_by_role("button", name="Apply").click()
    wait_for("the policy", lambda: client.model("mended")["policy"] == {"latest": {"num_versions": 2}})

    shutil.copytree(models / "affine" / "2", tmp_path / "torn")
    shutil.rmtree(tmp_path / "torn" / "variables")
    publish(tmp_path / "torn", lab.store / "mended", 3)
    third = versions.get_by_label("Version 3", exact=True)
    # While its files are fresh it is tried again by itself.
    expect(third.get_by_role("button", name="Load again")).to_be_visible()
    expect(third).to_contain_text("What to do: Files are missing")
    expect(sidebar.get_by_role("button", name="mended: serving version 2")).to_be_visible()
    keep(sidebar, "sidebar-failed", "sidebar-failed" in IN_DOCS)
    shutil.copytree(models / "affine" / "2" / "variables", lab.store / "mended" / "3" / "variables")
    third.get_by_role("button", name="Load again").click()
    expect(sidebar.get_by_role("button", name="mended: serving version 3")).to_be_visible()
    client.close()


def focused(page: Page) -> str:
    """What has the focus, as a screen reader would name it, more or less."""
    words: str = page.evaluate(
        """() => {
          const it = document.activeElement;
          return it.ariaLabel || it.labels?.[0]?.querySelector('span')?.textContent || it.textContent;
        }"""
    )
    return words


def tab_to(page: Page, name: str) -> None:
    """Press Tab until something of this name has the focus."""
    for _ in range(60):
        if focused(page).startswith(name):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no {name!r} by Tab; the focus is at {focused(page)!r}")


def test_keys_alone_reach_it_and_move_a_label(lab: Lab, watched: Watched, models: Path) -> None:
    lab.serve(models / "affine" / "1", "keyed", 1, 2)
    client = lab.client()
    page, keys = watched.page, watched.page.keyboard
    open_alone(page, lab)
    palette = page.locator(".lm-CommandPalette-input").last

    def asked() -> bool:
        """JupyterLab's keys work some time after it is restored, and what it opens last takes the focus."""
        keys.press("Escape")
        keys.press("Control+Shift+C")
        page.wait_for_timeout(500)
        keys.type("Show TensorFlow Serving")
        page.wait_for_timeout(500)
        return palette.is_visible() and palette.input_value() == "Show TensorFlow Serving"

    wait_for("the palette", asked)
    expect(page.locator(".lm-CommandPalette-item.lm-mod-active")).to_contain_text("Show TensorFlow Serving")
    keys.press("Enter")
    sidebar = page.locator(SIDEBAR)
    expect(sidebar.get_by_role("button", name="keyed: serving version 2")).to_be_visible()
    sidebar_has_focus = f"document.querySelector('{SIDEBAR}').contains(document.activeElement)"
    page.wait_for_function(sidebar_has_focus)
    tab_to(page, "keyed: ")
    keys.press("Enter")
    tab_to(page, "Labels")
    keys.press("Enter")
    tab_to(page, "Label")
    keys.press("Tab")
    keys.type("prod")
    field = sidebar.get_by_label("Label", exact=True)
    expect(field).to_be_focused()
    with load(lab, "keyed", {"instances": [1.0]}, callers=1):
        client.set_labels("keyed", {"canary": 1})  # another changes what is shown
        expect(in_section(sidebar, "Labels")).to_contain_text("canary → 1")
        expect(sidebar.get_by_role("img", name=re.compile("Requests.s: [1-9]"))).to_be_visible()
        expect(field).to_be_focused()
        keys.type("uction")
    expect(field).to_have_value("production")
    keys.press("Tab")
    keys.type("1")
    expect(in_section(sidebar, "Labels")).to_contain_text("production → 1; requests to /labels/production are answered")
    keys.press("Tab")
    keys.press("Enter")
    wait_for("the label", lambda: label_of(client, "keyed", "production") == 1)
    client.close()


def test_every_section_is_accessible_and_looks_well(start_lab: Any, watched: Watched) -> None:
    lab = start_lab()
    page = watched.page
    open_alone(page, lab, lab.write_notebook("Digits.ipynb", DIGITS))
    sidebar = in_sidebar(page)
    run_all(page)
    choose(sidebar, "digits", "serving version 3")
    with load(lab, "digits", {"instances": [[[0.5] * 8] * 8] * 3}, callers=6):
        wait_for("sparklines with something in them", lambda: busy_seconds(lab, "digits") >= 10)
        picture(page, "sidebar-jupyterlab")
        in_section(sidebar, "Versions", False)
        look_at_each_section(
            page,
            SIDEBAR,
            "sidebar",
            IN_DOCS,
            enter=lambda title: in_section(sidebar, title),
            leave=lambda title: in_section(sidebar, title, False),
        )


def test_a_savedmodel_is_served_from_the_file_browser(lab: Lab, watched: Watched, models: Path) -> None:
    shutil.copytree(models / "affine" / "2", lab.files / "exported")
    (lab.files / "plain").mkdir()
    page = watched.page
    open_alone(page, lab)
    entry = page.get_by_role("menuitem", name="Serve this SavedModel")
    page.locator(".jp-DirListing-item", has_text="plain").click(button="right")
    expect(page.get_by_role("menuitem", name="Rename")).to_be_visible()
    expect(entry).to_have_count(0)
    page.keyboard.press("Escape")
    page.locator(".jp-DirListing-item", has_text="exported").click(button="right")
    entry.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Name")).to_have_value("exported")
    dialog.get_by_label("Version").fill("5")
    dialog.get_by_label("Label").fill("stable")
    dialog.get_by_role("button", name="Serve").click()
    sidebar = page.locator(SIDEBAR)
    expect(sidebar.get_by_role("heading", name="exported")).to_be_visible()
    expect(sidebar.get_by_role("button", name="exported: serving version 5")).to_be_visible()
    client = lab.client()
    assert client.predict("exported", {"instances": [1.0]}, label="stable") == {"predictions": [3.0]}
    client.close()


def test_commands_running_panel_and_status_bar(start_lab: Any, watched: Watched, models: Path) -> None:
    """Under a base URL; the model server stops and starts."""
    lab = start_lab(base_url="/user/ann/")
    lab.serve(models / "affine" / "1", "affine", 1)
    lab.serve(models / "affine" / "1", "other", 1)
    page = watched.page
    open_alone(page, lab)
    status = page.locator(".jp-jupyter-tfserve-status button")
    expect(status).to_have_text("2 models, 0 requests/s")
    status.click()
    sidebar = page.locator(SIDEBAR)
    expect(sidebar.get_by_role("button", name="affine: serving version 1")).to_be_visible()
    with load(lab, "affine", {"instances": [1.0]}, callers=1):
        expect(status).to_have_text(re.compile("2 models, [1-9][0-9]* requests/s"))

    command(page, "running:show-panel")
    running = page.locator("#jp-running-sessions")
    entry = running.locator(".jp-RunningSessions-item", has_text="other")
    expect(entry).to_contain_text("serving version 1")
    entry.hover()
    entry.get_by_title("Stop serving").click()
    expect(status).to_have_text(re.compile("1 model, "))
    running.locator(".jp-RunningSessions-item", has_text="affine").locator(".jp-RunningSessions-itemLabel").click()
    expect(sidebar.get_by_role("heading", name="affine")).to_be_visible()
    choose(sidebar, "other", "not served")
    sidebar.get_by_role("button", name="Serve", exact=True).click()
    expect(sidebar.get_by_role("button", name="other: serving version 1")).to_be_visible()

    command(page, "tfserve:stop-server")
    page.get_by_role("dialog").get_by_role("button", name="Stop", exact=True).click()
    expect(sidebar).to_contain_text("The model server is stopped.")
    expect(status).to_have_text("no model server")
    sidebar.get_by_role("button", name="Start", exact=True).click()
    expect(sidebar.get_by_role("button", name="affine: serving version 1")).to_be_visible()
    command(page, "tfserve:open-log")
    expect(page.locator("#jp-down-stack").get_by_role("log")).to_contain_text("is available")
    # What is chosen is there again after a reload.
    choose(sidebar, "other", "serving version 1")
    wait_for("the workspace to be kept", lambda: "other" in lab.call("GET", "/lab/api/workspaces").body.decode())
    page.reload()
    expect(sidebar.get_by_role("heading", name="other")).to_be_visible(timeout=60_000)


def test_notebook_7(lab: Lab, watched: Watched, models: Path) -> None:
    lab.serve(models / "affine" / "1", "seventh", 1, 2)
    page = watched.page
    open_notebook(page, lab, lab.write_notebook("seventh.ipynb", "1"))
    sidebar = in_sidebar(page)
    choose(sidebar, "seventh", "serving version 2")
    in_section(sidebar, "Versions").get_by_label("Version 2").get_by_role("button", name="Unload").click()
    expect(sidebar.get_by_role("button", name="seventh: serving version 1")).to_be_visible()
    check_accessibility(page, SIDEBAR, "Notebook 7")

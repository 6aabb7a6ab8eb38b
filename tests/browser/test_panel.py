"""The panel in JupyterLab and Notebook 7: seen, steered by mouse and keys, and read by axe. The pictures of
docs/panel.md are made here: SCREENSHOTS=docs/screenshots python -m pytest tests/browser/test_panel.py
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from browsing import (
    DIGITS,
    Lab,
    Watched,
    busy_seconds,
    check_accessibility,
    keep,
    load,
    look_at_each_section,
    open_alone,
    open_notebook,
    run_all,
)
from helpers import publish, wait_for
from playwright.sync_api import Locator, expect

PANEL = ".jp-jupyter-tfserve-panel"

#: Pictures that docs/panel.md shows.
IN_DOCS = {f"panel-{title}-{theme}" for title in ("versions", "batching", "try-it") for theme in ("light", "dark")}
IN_DOCS |= {"panel-labels-light", "panel-failed"}


def show(watched: Watched, lab: Lab, model: str, opened: Any = open_alone) -> Locator:
    """A notebook whose cell shows the panel of a model."""
    name = f"{model}-{watched.page.evaluate('Date.now()')}.ipynb"
    opened(watched.page, lab, lab.write_notebook(name, f"%load_ext jupyter_tfserve\n%tfserve panel {model}"))
    run_all(watched.page)
    panel = watched.page.locator(PANEL)
    expect(panel).to_contain_text("serving version")
    return panel


def section(panel: Locator, title: str) -> Locator:
    """Bring a section into sight; returns the panel, which shows no other."""
    panel.get_by_role("button", name=title, exact=True).click()
    expect(panel.locator("h4")).to_have_text(title)
    return panel


def test_labels_and_batching_are_steered(lab: Lab, watched: Watched, models: Path) -> None:
    lab.serve(models / "affine" / "1", "steered", 1, 2)
    client = lab.client()
    client.set_labels("steered", {"stable": 1})
    panel = show(watched, lab, "steered")

    section(panel, "Labels")
    panel.get_by_label("Label", exact=True).fill("stable")
    panel.get_by_label("to version").select_option("2")
    expect(panel).to_contain_text("stable: 1 → 2; requests to /labels/stable go to version 2 at once.")
    panel.get_by_role("button", name="Apply").press("Enter")
    wait_for("the label to move", lambda: client.model("steered")["labels"] == {"stable": 2})
    expect(panel).to_contain_text("stable is at 2 already.")

    section(panel, "Batching")
    with load(lab, "steered", {"instances": [1.0]}):
        panel.get_by_label("Mode", exact=True).select_option("off")
        wait_for("the mode", lambda: client.model("steered")["batching"]["mode"] == "off")
        panel.get_by_label("Mode", exact=True).select_option("on")
        panel.get_by_label("Window (µs)").fill("20000")
        panel.get_by_label("Window (µs)").press("Enter")
        sizes = panel.get_by_role("img", name="Batch sizes")
        expect(sizes).to_have_attribute("aria-label", re.compile(r"runs in 10 s: .*of (4|8|16)"))
    client.close()


def test_focus_and_typing_survive_updates(lab: Lab, watched: Watched, models: Path) -> None:
    """While numbers move and others change things, the field that is typed into keeps focus, text and caret."""
    lab.serve(models / "affine" / "1", "typed", 1, 2)
    client = lab.client()
    panel = show(watched, lab, "typed")
    section(panel, "Batching")
    field = panel.get_by_label("Max batch size")
    field.click()
    field.fill("12")
    with load(lab, "typed", {"instances": [1.0]}, callers=1):
        expect(panel.get_by_role("img", name=re.compile("Requests.s: [1-9]"))).to_be_visible()
        client.set_labels("typed", {"stable": 1})
        client.set_batching("typed", {"num_batch_threads": 3})
        expect(panel.get_by_label("Threads")).to_have_value("3")
        expect(field).to_be_focused()
        watched.page.keyboard.type("8")
    expect(field).to_have_value("128")
    field.press("Tab")
    wait_for("the knob", lambda: client.model("typed")["batching"]["max_batch_size"] == 128)
    client.close()


def test_a_failed_load_is_read_and_tried_again(lab: Lab, watched: Watched, models: Path, tmp_path: Path) -> None:
    lab.serve(models / "affine" / "1", "torn", 1)
    panel = show(watched, lab, "torn")
    shutil.copytree(models / "affine" / "2", tmp_path / "torn")
    shutil.rmtree(tmp_path / "torn" / "variables")
    publish(tmp_path / "torn", lab.store / "torn", 2)
    # While its files are fresh it is tried again by itself.
    expect(panel.get_by_role("button", name="Load again")).to_be_visible()
    expect(panel).to_contain_text("What to do: Files are missing")
    keep(panel, "panel-failed", "panel-failed" in IN_DOCS)
    shutil.copytree(models / "affine" / "2" / "variables", lab.store / "torn" / "2" / "variables")
    panel.get_by_role("button", name="Load again").click()
    expect(panel).to_contain_text("serving version 2")
    panel.get_by_role("button", name="Unload", exact=True).first.click()
    expect(panel).to_contain_text("serving version 1")
    panel.get_by_role("button", name="Load", exact=True).click()
    expect(panel).to_contain_text("serving version 2")


def test_calls_are_copied(lab: Lab, watched: Watched) -> None:
    panel = show(watched, lab, "affine")
    section(panel, "Calls")
    expect(panel.locator("pre")).to_contain_text("curl -s")
    panel.get_by_role("button", name="Copy").click()
    expect(panel).to_contain_text("copied")
    copied = watched.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("curl -s") and copied.endswith("/tfserve/v1/models/affine:predict")
    assert lab.token not in copied


def test_a_server_that_stops_and_starts(start_lab: Any, watched: Watched, models: Path) -> None:
    lab = start_lab()
    lab.serve(models / "affine" / "1", "affine")
    panel = show(watched, lab, "affine")
    lab.call("POST", "/tfserve/api/server", {"action": "stop"})
    expect(panel).to_contain_text("The model server is stopped.")
    panel.get_by_role("button", name="Start").click()
    expect(panel).to_contain_text("serving version 1")


def test_notebook_7(lab: Lab, watched: Watched) -> None:
    panel = show(watched, lab, "affine", open_notebook)
    section(panel, "Try it")
    expect(panel.get_by_label("Request")).to_have_value(re.compile("instances"))
    panel.get_by_role("button", name="Send").click()
    expect(panel).to_contain_text("Answer in")
    check_accessibility(watched.page, PANEL, "Notebook 7")


def test_every_section_is_accessible_and_looks_well(start_lab: Any, watched: Watched) -> None:
    lab = start_lab()
    page = watched.page
    open_alone(page, lab, lab.write_notebook("Digits.ipynb", DIGITS, "%tfserve panel digits"))
    run_all(page)
    panel = page.locator(PANEL)
    expect(panel).to_contain_text("serving version 3")
    panel.scroll_into_view_if_needed()
    with load(lab, "digits", {"instances": [[[0.5] * 8] * 8] * 3}, callers=6):
        wait_for("sparklines with something in them", lambda: busy_seconds(lab, "digits") >= 10)
        look_at_each_section(page, PANEL, "panel", IN_DOCS, enter=lambda title: section(panel, title))

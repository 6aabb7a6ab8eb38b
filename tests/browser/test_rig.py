"""The rig itself: both front ends come up with the extension, and a notebook's cells run."""

from __future__ import annotations

from browsing import Lab, Watched, open_lab, open_notebook, run_all
from playwright.sync_api import expect

CELL = "print('seen by the', 6 * 7)"


def test_jupyterlab_runs_a_notebook(lab: Lab, watched: Watched) -> None:
    open_lab(watched.page, lab, lab.write_notebook("rig_lab.ipynb", CELL))
    run_all(watched.page)
    expect(watched.page.locator(".jp-OutputArea-output")).to_contain_text("seen by the 42")


def test_notebook_7_runs_a_notebook(lab: Lab, watched: Watched) -> None:
    open_notebook(watched.page, lab, lab.write_notebook("rig_notebook.ipynb", CELL))
    run_all(watched.page)
    expect(watched.page.locator(".jp-OutputArea-output")).to_contain_text("seen by the 42")
    assert watched.our_errors == [], watched.errors

"""JupyterLab and Notebook 7 in a real Chromium: servers, pages, notebooks to run. Screenshots and the console's errors
are kept in build/browser.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
from helpers import PATIENCE, ROOT, publish
from jupyter_process import JupyterServer
from playwright.sync_api import ConsoleMessage, Page, expect

ARTEFACTS = ROOT / "build" / "browser"

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage""".split()

#: What JupyterLab asks or fetches by itself, and that no test is about.
_QUIET = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}

expect.set_options(timeout=30_000)


def chromium() -> str:
    """The system's browser. There is no download: tools/setup installs Debian's."""
    named = os.environ.get("CHROMIUM", "")
    found = named or next(filter(None, map(shutil.which, _CHROMIUM)), "")
    assert found, (
        "tests/browser needs Chromium, and there is none on the PATH. On Debian and Ubuntu: sudo apt install chromium; "
        "or name one: CHROMIUM=/path/to/chrome"
    )
    return found


class Lab(JupyterServer):
    """A Jupyter Server with JupyterLab, Notebook 7 and the extension; its files are in `folder/root`."""

    def __init__(self, folder: Path, *flags: str, settings: dict[str, Any] | None = None, **more: Any) -> None:
        for name, values in {**_QUIET, **(settings or {})}.items():
            file = folder / "config" / "lab" / "user-settings" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        super().__init__(
            folder,
            "--LabApp.expose_app_in_browser=True",
            "--JupyterNotebookApp.expose_app_in_browser=True",
            *flags,
            extensions={"jupyterlab": True, "notebook": True, "notebook_shim": True, "jupyter_lsp": True},
            **more,
        )
        self.files = folder / "root"

    def url(self, path: str = "lab") -> str:
        """A page's address; the token logs in."""
        return f"http://127.0.0.1:{self.port}{self.base_url}{path}?token={self.token}"

    def write_notebook(self, name: str, *cells: str) -> str:
        """A notebook of code cells; returns its path as Jupyter names it."""
        document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(document, self.files / name)
        return name

    def serve(self, source: Path, name: str, *versions: int, **request: Any) -> None:
        """Publish a SavedModel as several versions, serve all of them, and wait until they answer."""
        for version in versions or (1,):
            publish(source, self.store / name, version)
        client = self.client()
        try:
            client.register(name, {"policy": {"all": {}}, **request})  # type: ignore[typeddict-item]
            for version in versions or (1,):
                status = client.model(name, wait=version, timeout=PATIENCE)
            assert {v["state"] for v in status["versions"]} == {"AVAILABLE"}, status
        finally:
            client.close()


class Watched:
    """A page of the browser, and what went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    @property
    def our_errors(self) -> list[str]:
        """Those that name us: JupyterLab's own pages log some of their own."""
        return [error for error in self.errors if re.search("tfserve", error)]


def picture(page: Page, name: str, **more: Any) -> Path:
    """Keep a screenshot."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    file = ARTEFACTS / f"{name}.png"
    page.screenshot(path=file, **more)
    return file


def open_lab(page: Page, lab: Lab, path: str = "") -> None:
    """Open JupyterLab, with the notebook at `path`, and wait until it is ready."""
    page.goto(lab.url(f"lab/tree/{path}" if path else "lab"))
    page.wait_for_function("window.jupyterapp && window.jupyterapp.restored", timeout=60_000)
    page.evaluate("window.jupyterapp.restored.then(() => true)")
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)


def open_notebook(page: Page, lab: Lab, path: str = "") -> None:
    """Open Notebook 7: the notebook at `path`, else the tree of files."""
    page.goto(lab.url(f"notebooks/{path}" if path else "tree"))
    page.wait_for_function("window.jupyterapp && window.jupyterapp.restored", timeout=60_000)
    page.evaluate("window.jupyterapp.restored.then(() => true)")


def run_all(page: Page) -> None:
    """Run all cells of the notebook in front, and wait until the kernel has done it."""
    page.wait_for_function(
        """() => {
          const session = window.jupyterapp.shell.currentWidget?.sessionContext;
          return session?.isReady && session.session?.kernel?.status === 'idle';
        }""",
        timeout=PATIENCE * 1000,
    )
    # The command's promise is not waited for: it would have no time limit.
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    last = page.locator(".jp-Notebook .jp-CodeCell").last.locator(".jp-InputPrompt")
    expect(last).to_have_text(re.compile(r"\[\d+\]:"), timeout=PATIENCE * 1000)

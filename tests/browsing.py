"""JupyterLab and Notebook 7 in a real Chromium: servers, pages, notebooks to run. Screenshots and the console's errors
are kept in build/browser.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from helpers import PATIENCE, ROOT, publish
from jupyter_process import JupyterServer
from playwright.sync_api import ConsoleMessage, Locator, Page, expect

ARTEFACTS = ROOT / "build" / "browser"

#: What the panel and the sidebar show of a model.
SECTIONS = ("Versions", "Labels", "Batching", "Device", "Try it", "Calls", "Shares", "Log")

#: The sidebar, once it is there.
SIDEBAR = "#jupyter-tfserve-sidebar"

AXE = ROOT / "labextension" / "node_modules" / "axe-core" / "axe.min.js"

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

#: A model that knows its digits, so that the pictures show something.
DIGITS = """
import keras
from sklearn.datasets import load_digits
digits = load_digits()
images = (digits.images / 16).astype("float32")
keras.utils.set_random_seed(1)
image = keras.Input((8, 8), name="image")
hidden = keras.layers.Dense(64, activation="relu")(keras.layers.Flatten()(image))
model = keras.Model(image, keras.layers.Dense(10, activation="softmax", name="scores")(hidden))
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(images, digits.target, epochs=8, verbose=0)
%load_ext jupyter_tfserve
%tfserve digits model --version 1
%tfserve digits model --version 2 --label stable
%tfserve digits model --version 3 --example images[12:13]
%tfserve versions digits --only 2 3
"""

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


def picture(shown: Page | Locator, name: str, **more: Any) -> Path:
    """Keep a screenshot."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    file = ARTEFACTS / f"{name}.png"
    shown.screenshot(path=file, **more)
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
    expect(last).to_have_text(re.compile(r"\[\d+\]:"), timeout=3 * PATIENCE * 1000)  # TensorFlow, training and exports


def open_alone(page: Page, lab: Lab, path: str = "") -> None:
    """JupyterLab in a workspace of its own, with the notebook at `path`: what other tests have open stays away."""
    workspace = Path(path).stem or f"w{page.evaluate('Date.now()')}"
    page.goto(lab.url(f"lab/workspaces/{workspace}" + (f"/tree/{path}" if path else "")))
    page.wait_for_function("window.jupyterapp && window.jupyterapp.restored", timeout=60_000)
    page.evaluate("window.jupyterapp.restored.then(() => true)")
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)


def switch_theme(page: Page, theme: str) -> None:
    """Show the page "Light" or "Dark" from now on."""
    page.evaluate(
        "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", f"JupyterLab {theme}"
    )
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "true" if theme == "Light" else "false")


def command(page: Page, name: str) -> None:
    """Run one of JupyterLab's commands; what it asks the user it goes on to ask."""
    page.evaluate("name => void window.jupyterapp.commands.execute(name)", name)


def in_sidebar(page: Page) -> Locator:
    """The sidebar, brought into sight."""
    command(page, "tfserve:show")
    sidebar = page.locator(SIDEBAR)
    expect(sidebar.get_by_role("heading", name="TensorFlow Serving")).to_be_visible()
    return sidebar


def choose(sidebar: Locator, model: str, state: str) -> None:
    """Show a model, once it is in this state."""
    sidebar.get_by_role("button", name=f"{model}: {state}", exact=True).click()
    expect(sidebar.get_by_role("region", name=f"Model {model}")).to_be_visible()


def in_section(sidebar: Locator, title: str, is_open: bool = True) -> Locator:
    """A section of the model that is shown, opened or closed."""
    section = sidebar.get_by_role("region", name=title, exact=True)
    head = section.get_by_role("button", name=title, exact=True)
    wanted = "true" if is_open else "false"
    if head.get_attribute("aria-expanded") != wanted:
        head.click()
    expect(head).to_have_attribute("aria-expanded", wanted)
    return section


def in_kernel(page: Page, code: str) -> str:
    """What code prints in the kernel of the notebook in front."""
    said: str = page.evaluate(
        """async code => {
          const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
          const future = kernel.requestExecute({code, store_history: false});
          let said = '';
          future.onIOPub = ({content}) => (said += content.text ?? content.evalue ?? '');
          const {content} = await future.done;
          return content.status === 'ok' ? said : `failed: ${said}`;
        }""",
        code,
    )
    assert not said.startswith("failed"), said
    return said


def check_accessibility(page: Page, selector: str, where: str) -> None:
    """axe finds nothing serious in what the selector names."""
    assert AXE.exists(), "axe-core is missing: cd labextension && jlpm install"
    if not page.evaluate("Boolean(window.axe)"):
        # Not as a script element: JupyterLab's module loader would take it.
        page.evaluate(
            "source => { const module = {exports: {}}; new Function('module', 'define', source)(module); }",
            AXE.read_text(),
        )
    found = page.evaluate("async selector => (await axe.run(selector)).violations", selector)
    serious = [
        {"rule": one["id"], "help": one["help"], "nodes": [node["html"][:200] for node in one["nodes"]]}
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert not serious, f"{where}: {json.dumps(serious, indent=1)}"


def keep(shown: Locator, name: str, in_docs: bool) -> None:
    """A picture of what is shown, for the artefacts, and for the docs where they are asked for."""
    made = picture(shown, name, animations="disabled")
    folder = os.environ.get("SCREENSHOTS")
    if folder and in_docs:
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(made, folder)


def look_at_each_section(
    page: Page,
    selector: str,
    name: str,
    in_docs: Collection[str],
    enter: Callable[[str], Locator],
    leave: Callable[[str], object] = lambda title: None,
) -> None:
    """Each section of the model "digits" in both themes, with something in it: read by axe, and a picture of it."""
    for theme in ("Light", "Dark"):  # a change of theme takes a second or two
        switch_theme(page, theme)
        for title in SECTIONS:
            section = enter(title)
            if title == "Try it":
                section.get_by_role("button", name="Send").click()
                expect(section).to_contain_text("Answer in")
            if title == "Device":
                expect(section).to_contain_text("free of")
            if title == "Shares":
                if theme == "Light":
                    section.get_by_role("button", name="Share", exact=True).click()
                expect(section).to_contain_text("not used yet")
            if title == "Log":
                expect(section).to_contain_text("is available")
            if title == "Labels":
                section.get_by_label("Label", exact=True).fill("stable")
                expect(section).to_contain_text("stable: 2 → 3")
            check_accessibility(page, selector, f"{title} in {theme}")
            kept = f"{name}-{title.lower().replace(' ', '-')}-{theme.lower()}"
            keep(page.locator(selector), kept, kept in in_docs)
            leave(title)


def busy_seconds(lab: Lab, model: str) -> int:
    """Seconds in which a model had requests."""
    samples = lab.call("GET", "/tfserve/api/stats?seconds=60").json["samples"].get(model, [])
    return sum(sample is not None for sample in samples)


@contextmanager
def load(lab: Lab, model: str, body: Any, callers: int = 8) -> Iterator[None]:
    """Requests until the block ends."""
    ended = threading.Event()

    def ask() -> None:
        client = lab.client()
        while not ended.wait(0.005):
            client.predict(model, body)
        client.close()

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for one in threads:
        one.start()
    try:
        yield
    finally:
        ended.set()
        for one in threads:
            one.join()

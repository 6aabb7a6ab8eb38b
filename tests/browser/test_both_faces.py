"""The panel and the sidebar beside each other: they agree while three sides change what is served, and what they cost
with many models under load.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from browsing import SIDEBAR, Lab, Watched, choose, in_kernel, in_section, in_sidebar, open_alone, run_all
from helpers import PATIENCE, publish, wait_for
from jupyter_process import JupyterServer
from playwright.sync_api import Page, expect

PANEL = ".jp-jupyter-tfserve-panel"

#: Seconds that the panel and the sidebar may differ.
DISAGREEMENT = 1.0

#: What the issue asks for: models, versions of each, requests per second; then the sidebar's share of a core in
#: scripting, and the seconds of an update of the panel.
MODELS, VERSIONS, RATE = 50, 4, 500
SIDEBARS_SHARE = 0.05
PANELS_UPDATE = 0.1

#: Notes each 20 ms what both show of the labels and the state, and for how long they have differed in each.
WATCH = """
([panel, sidebar]) => {
  const shown = root => {
    const said = {};
    for (const chip of document.querySelectorAll(`${root} .jp-jupyter-tfserve-chip`)) {
      const [label, version] = chip.textContent.split(' → ');
      if (version) said[label] = version;
    }
    const state = /serving version \\d+(, loading version \\d+)?/.exec(document.querySelector(root).innerText);
    return {...said, state: state ? state[0] : ''};
  };
  const watch = window.watch = {longest: {}, seen: {}, since: {}};
  setInterval(() => {
    const [one, other] = [shown(panel), shown(sidebar)];
    const now = performance.now();
    for (const key of new Set([...Object.keys(one), ...Object.keys(other), ...Object.keys(watch.since)])) {
      (watch.seen[key] ??= {})[`${one[key]}`] = true;
      if (one[key] === other[key]) {
        delete watch.since[key];
      } else {
        watch.since[key] ??= now;
      }
      const differs = watch.since[key] === undefined ? 0 : now - watch.since[key];
      watch.longest[key] = Math.max(watch.longest[key] ?? 0, differs);
    }
  }, 20);
}
"""

#: In the kernel, from a thread of its own as a callback would: labels are moved by the panel's method.
MOVING = """
import threading, time
def move():
    for turn in range(8):
        panel.move_label("kernels", 1 + turn % 2)
        time.sleep(0.7)
moving = threading.Thread(target=move)
moving.start()
"""


def beside_each_other(watched: Watched, lab: Lab, model: str) -> Page:
    """The panel of a model in a notebook, and the sidebar with the same model."""
    page = watched.page
    cell = f"from jupyter_tfserve import Panel\npanel = Panel({model!r})\npanel"
    open_alone(page, lab, lab.write_notebook(f"{model}-both.ipynb", cell))
    run_all(page)
    expect(page.locator(PANEL)).to_contain_text("serving version")
    return page


def test_they_agree_while_three_sides_change_what_is_served(lab: Lab, watched: Watched, models: Path) -> None:
    lab.serve(models / "affine" / "1", "sides", 1, 2, 3)
    client = lab.client()
    client.set_labels("sides", {"sidebars": 1, "kernels": 1, "others": 1})
    page = beside_each_other(watched, lab, "sides")
    sidebar = in_sidebar(page)
    choose(sidebar, "sides", "serving version 3")
    in_section(sidebar, "Versions", False)
    labels = in_section(sidebar, "Labels")
    page.locator(PANEL).get_by_role("button", name="Labels", exact=True).click()
    expect(page.locator(PANEL)).to_contain_text("kernels → 1")
    page.evaluate(WATCH, [PANEL, f"{SIDEBAR} [aria-label='Model sides']"])

    def change() -> None:
        """Another client: labels by the API, and which versions are served by the config, as a file would have it."""
        one = lab.client()
        for turn in range(8):
            one.set_labels("sides", {"others": 1 + (turn + 1) % 2})
            time.sleep(0.35)
            policy = {"all": {}} if turn % 2 else {"specific": {"versions": [1, 2]}}
            if turn % 4 < 2:
                one.set_policy("sides", policy)  # type: ignore[arg-type]
            else:
                one.set_config(one.config())
            time.sleep(0.35)
        one.close()

    other = threading.Thread(target=change)
    in_kernel(page, MOVING)
    other.start()
    labels.get_by_label("Label", exact=True).fill("sidebars")
    for turn in range(8):
        labels.get_by_label("to version").select_option(str(1 + (turn + 1) % 2))
        labels.get_by_role("button", name="Apply").click()
        expect(labels).to_contain_text(f"sidebars → {1 + (turn + 1) % 2}")
    other.join()
    in_kernel(page, "moving.join()")
    truth = client.model("sides")["labels"]
    for label, version in truth.items():
        expect(labels).to_contain_text(f"{label} → {version}")
        expect(page.locator(PANEL)).to_contain_text(f"{label} → {version}")
    told: dict[str, Any] = page.evaluate("window.watch")
    client.close()
    print("longest disagreement, ms:", {key: round(value) for key, value in told["longest"].items()})
    for key in ("sidebars", "kernels", "others", "state"):
        assert len(told["seen"][key]) > 1, f"{key} did not move: {told['seen']}"
    assert not {key: value for key, value in told["longest"].items() if value > DISAGREEMENT * 1000}


@contextlib.contextmanager
def labels_moving(lab: JupyterServer, names: list[str]) -> Iterator[None]:
    """A label of each of these models moves every second."""
    ended = threading.Event()

    def move() -> None:
        with contextlib.closing(lab.client()) as client:
            for turn in itertools.count():
                for name in names:
                    client.set_labels(name, {"canary": 1 + turn % VERSIONS})
                if ended.wait(1.0):
                    return

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def traffic(lab: JupyterServer, names: list[str]) -> Iterator[list[int]]:
    """Requests to all models in turn at RATE, over two connections; the list holds how many were answered."""
    answered = [0]
    port = lab.info()["rest_port"]
    assert port
    headers = {"Authorization": f"Bearer {lab.owner_key}"}
    ended = threading.Event()

    def ask(mine: list[str], rate: float) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
            begin = time.monotonic()
            for turn, name in enumerate(itertools.cycle(mine)):
                if ended.wait(max(0.0, begin + turn / rate - time.monotonic())):
                    return
                connection.request("POST", f"/v1/models/{name}:predict", b'{"instances": [1.0]}', headers)
                reply = connection.getresponse()
                if reply.read() and reply.status == 200:
                    answered[0] += 1

    threads = [threading.Thread(target=ask, args=(names[part::2], RATE / 2)) for part in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def measured(page: Page, seconds: int) -> dict[str, float]:
    """Seconds that the page's main thread worked within so many seconds, by Chromium's own account of thread time."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def now() -> dict[str, float]:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return {one["name"]: one["value"] for one in metrics}

    before = now()
    page.wait_for_timeout(1000 * seconds)
    after = now()
    session.detach()
    return {name: after[name] - before[name] for name in ("ScriptDuration", "LayoutDuration", "TaskDuration")}


def test_many_models_under_load_cost_little(start_lab: Any, watched: Watched, models: Path, tmp_path: Path) -> None:
    lab = start_lab()
    for version in range(1, VERSIONS + 1):
        publish(models / "affine" / "1", tmp_path / "many", version)
    names = [f"m{number:02}" for number in range(MODELS)]
    client = lab.client()
    client.register(names[0], {"base_path": str(tmp_path / "many"), "policy": {"all": {}}})
    one = client.config()
    begin, end = one.index("config {"), one.rindex("}")
    client.set_config(one[:end] + "".join(one[begin:end].replace(names[0], name) for name in names[1:]) + one[end:])

    def loaded() -> bool:
        state = client.state()["models"]
        return sum(v["state"] == "AVAILABLE" for model in state for v in model["versions"]) == MODELS * VERSIONS

    wait_for("all versions to be loaded", loaded)
    page = beside_each_other(watched, lab, names[7])
    seconds = 10

    with traffic(lab, names) as answered, labels_moving(lab, names[5:10]):
        wait_for("the load", lambda: answered[0] > RATE)
        hidden = measured(page, 5)
        sidebar = in_sidebar(page)
        choose(sidebar, names[7], f"serving version {VERSIONS}")
        expect(sidebar.get_by_role("button", name="serving version")).to_have_count(MODELS)
        expect(sidebar.get_by_role("img", name="Requests/s")).to_be_visible()
        page.wait_for_timeout(1000)  # what it costs to come into sight is not what it costs to be there
        in_kernel(page, "panel.slowest_update = 0.0")
        began, before = time.monotonic(), answered[0]
        shown = measured(page, seconds)
        rate = (answered[0] - before) / (time.monotonic() - began)
        update = float(in_kernel(page, "print(panel.slowest_update)"))
    client.close()
    share = shown["ScriptDuration"] / seconds
    print(f"{MODELS} models x {VERSIONS} versions at {rate:.0f} requests/s")
    print(f"  hidden: {', '.join(f'{name} {value / 5:.2%}' for name, value in hidden.items())} of a core")
    print(f"  shown: {', '.join(f'{name} {value / seconds:.2%}' for name, value in shown.items())} of a core")
    print(f"  the panel's slowest update: {update * 1000:.1f} ms")
    assert rate > RATE / 2, "too few requests for what is to be measured"
    assert share < SIDEBARS_SHARE
    assert update < PANELS_UPDATE

"""The panel: what is served, seen and steered from a notebook. Made of core ipywidgets, so that it is shown wherever
these are (JupyterLab, Notebook, VS Code, Colab). `%tfserve panel` and `jupyter_tfserve.Panel` make one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from html import escape
from typing import Any, ClassVar

import ipywidgets as widgets
import traitlets

from ...api import BatchingRequest, Event, ModelStatus, PlacementRequest, Policy, Sample, State, Stats
from ...client import TFServeError
from ..base import Endpoint
from ..endpoint import connect
from ..errors import KernelError, plain_errors
from ..outcomes import Address
from ..sharing import Shared
from .batching import Batching
from .copying import Calls
from .device import Device
from .following import Following
from .labels import Labels
from .log import Log
from .numbers import LENGTH, numbers
from .section import Section, close_whole, dot, filling, html, on_user, problem, set_children, set_options
from .shares import Shares
from .style import CSS, PREFIX
from .try_it import TryIt
from .versions import Versions
from .words import active, available, model_state

log = logging.getLogger(__name__)

_SECTIONS: tuple[type[Section], ...] = (Versions, Labels, Batching, Device, TryIt, Calls, Shares, Log)

_LOST = "The Jupyter Server does not answer. It is asked again every few seconds."


class Panel(widgets.VBox):  # type: ignore[misc]
    """A panel of one model at a time; `model` says which.

    It begins to follow what is served when it is displayed, and ends with `close()`. What it shows can be observed:
    `models`, `model`, `version`, `sample`, `server`; `model` and `section` can be set. What its buttons do, methods do.
    They raise TFServeError, and return when it is done.
    """

    #: What is served, `api.ModelStatus` by name. Replaced, never changed.
    models = traitlets.Dict(read_only=True)
    #: The model that is shown; "" while there is none.
    model = traitlets.Unicode()
    #: Its version that answers where none is asked for; None while none does.
    version = traitlets.Int(None, allow_none=True, read_only=True)
    #: What it did in the last second, `api.Sample`; {} for nothing.
    sample = traitlets.Dict(read_only=True)
    #: Of the model server: "running", "stopped", ...; "unreachable" while nobody answers.
    server = traitlets.Unicode("starting", read_only=True)
    #: The section that is in sight, by its title.
    section = traitlets.Unicode("Versions")
    #: What went wrong last, "" once something has gone well.
    error = traitlets.Unicode(read_only=True)

    _one: ClassVar[dict[str, Panel]] = {}

    def __init__(self, name: str | None = None, endpoint: Endpoint | None = None) -> None:
        """`name` is the model to begin with; `endpoint` where it is served, by default as `connect()` says."""
        super().__init__()
        self.add_class(PREFIX + "panel")
        self._given = endpoint
        self._lock = threading.RLock()
        self._following: Following | None = None
        self._history: deque[Mapping[str, Sample]] = deque(maxlen=LENGTH)
        self._stored: list[str] = []
        self._address: Address | None = None
        self._pool = ThreadPoolExecutor(1, "tfserve-panel-work")
        self._sections: dict[str, Section] = {}
        self._shown: Section | None = None
        self.slowest_update = 0.0  #: seconds that the slowest update took
        self._menu = widgets.Dropdown(
            description="Model", tooltip="The model that is shown", style={"description_width": "initial"}
        )
        self._state = html()
        self._serve = self._button("Serve", self.serve_again, "Serve this model of the store again")
        self._server = html()
        self._start = self._button("Start", lambda: self.endpoint.start(), "Start the model server")
        self._numbers = html()
        self._tabs = widgets.ToggleButtons(
            options=[kind.title for kind in _SECTIONS],
            description="",
            tooltips=[kind.title for kind in _SECTIONS],
            style={"button_width": "auto"},
        )
        self._said = html()
        self._top = widgets.HBox([self._menu, self._state])
        self._top.layout.align_items = "center"
        self._top.layout.flex_flow = "row wrap"
        self._chosen = html()  # for who does not see which of the buttons is marked
        self._place = widgets.VBox()
        on_user(self._menu, lambda value: setattr(self, "model", value or ""))
        on_user(self._tabs, lambda value: setattr(self, "section", value))
        self._style = html(CSS, layout=widgets.Layout(display="none"))
        self._head = [self._top, self._server]
        if name is not None:
            self.model = name
        self._show_server("starting", "Asking what is served …")

    # What it is about.

    @property
    def endpoint(self) -> Endpoint:
        """Where the models are served."""
        return self._given or connect()

    @property
    def status(self) -> ModelStatus | None:
        """The model that is shown, as it was told last."""
        found: ModelStatus | None = self.models.get(self.model)
        return found

    @property
    def address(self) -> Address:
        """Where models answer."""
        if self._address is None:
            self._address = self.endpoint.address()
        return self._address

    @property
    def which(self) -> str:
        """The version or label of the *try it* box; "" for the default."""
        return self._try.which

    def request(self) -> dict[str, Any]:
        """The request of the *try it* box."""
        return self._try.body()

    def need_example(self) -> None:
        """Fill the *try it* box, in sight or not."""
        if self.status is not None:
            self._try.fill(self.status)

    @property
    def _try(self) -> TryIt:
        found = self._section("Try it")
        assert isinstance(found, TryIt)
        return found

    # What its buttons do.

    def load(self, version: int) -> None:
        """Load a version; from then on just those that are served now and this one are."""
        status = self._need()
        self.set_policy({"specific": {"versions": sorted({*active(status), version})}})

    def unload(self, version: int) -> None:
        """Unload a version. Raises KernelError for the last one: see `stop_serving`."""
        status = self._need()
        left = [number for number in active(status) if number != version]
        if not left:
            raise KernelError(
                f"Version {version} is the only one of {self.model} that is loaded.",
                "\u201cStop serving\u201d, or `stop_serving()`, unloads the whole model.",
            )
        self.set_policy({"specific": {"versions": sorted(left)}})

    def try_again(self) -> None:
        """Try to load again what could not be loaded."""
        self._changed(self.endpoint.client.register(self.model, {}))

    def stop_serving(self) -> None:
        """Unload all versions; the files stay, and `serve_again` serves them."""
        self.endpoint.unload(self._need()["name"])

    def serve_again(self) -> None:
        """Serve a model of the store that is not served."""
        self._changed(self.endpoint.client.register(self.model, {}))

    def set_policy(self, policy: Policy) -> None:
        """Say which versions are served."""
        self._changed(self.endpoint.set_policy(self._need()["name"], policy))

    def move_label(self, label: str, version: int | None) -> None:
        """Move a label to a loaded version; None takes it away."""
        self._changed(self.endpoint.set_labels(self._need()["name"], {label: version}))

    def set_batching(self, **knobs: Any) -> None:
        """Change knobs of the batching, by the API's names; None goes back to the default."""
        self._changed(self.endpoint.set_batching(self._need()["name"], BatchingRequest(**knobs)))  # type: ignore[typeddict-item]

    def move(self, device: str, replicas: int | None = None) -> None:
        """Serve the model on another device: "auto", "cpu", "gpu:0"; returns when the move has begun."""
        request = PlacementRequest(device=device)
        if replicas is not None:
            request["replicas"] = replicas
        self._changed(self.endpoint.client.set_device(self._need()["name"], request))

    def try_it(self, body: dict[str, Any] | None = None) -> Any:
        """Send a request, by default the one in the box; its answer is drawn, and returned."""
        self._need()
        if body is not None:
            self._try.set_body(body)
        return self._try.send()

    def share(self, **more: Any) -> Shared:
        """Let somebody predict with the model, as `Endpoint.share` does."""
        made = self.endpoint.share(self._need()["name"], **more)
        self._fill()
        return made

    def revoke(self, share_id: str) -> None:
        """Revoke a share."""
        self.endpoint.unshare(share_id)
        self._fill()

    def refresh(self) -> None:
        """Ask what is served now; until then it shows what it knows."""
        self._begin()
        if self._following is not None:
            self._following.refresh()

    # Its life.

    @classmethod
    def of(cls, name: str = "") -> Panel:
        """The panel of `%tfserve panel NAME`: asked again it is the same, so that no more than one follows."""
        found = cls._one.get(name)
        if found is None or found.comm is None:
            found = cls._one[name] = cls(name or None)
        return found

    def _repr_mimebundle_(self, **more: Any) -> Any:
        self._begin()
        return super()._repr_mimebundle_(**more)

    def close(self) -> None:
        """End: nothing is followed any more, and the front end takes the panel away."""
        if self._following is not None:
            self._following.close()
        for section in self._sections.values():
            section.hide()
        self._pool.shutdown(wait=False)
        for owner in (self, *self._sections.values()):
            for part in vars(owner).values():
                if isinstance(part, widgets.DOMWidget) and part is not self:
                    close_whole(part)
        self.layout.close()
        super().close()

    @property
    def following(self) -> bool:
        """Whether it follows what is served."""
        return self._following is not None and self._following.alive

    def _begin(self) -> None:
        with self._lock:
            if not self.following and self.comm is not None:
                self._following = Following(lambda: self.endpoint, self)
                self._following.start()

    # What is told (from threads of `Following`).

    def on_state(self, state: State) -> None:
        """Everything may have changed."""
        with self._update():
            self._stored = state["stored"]
            info = state["server"]
            self._address = None
            self.set_trait("models", {model["name"]: model for model in state["models"]})
            self.set_trait("server", info["state"] if info is not None else "running")
            words = ""
            if info is not None and info["state"] != "running":
                words = {
                    "stopped": "The model server is stopped.",
                    "starting": "The model server is starting …",
                    "restarting": "The model server is starting …",
                    "failed": f"{info['error'] or 'The model server could not be started.'} {info['remedy']}".strip(),
                }[info["state"]]
            self._show_server(self.server, words)
            self._show_models()

    def on_model(self, name: str, status: ModelStatus | None) -> None:
        """One model has changed; None: it is not served any more."""
        with self._update():
            models = {key: value for key, value in self.models.items() if key != name}
            if status is not None:
                models[name] = status
            elif name in self.models:
                self._stored = sorted({*self._stored, name})
            self.set_trait("models", dict(sorted(models.items())))
            self._show_models()

    def on_history(self, stats: Stats) -> None:
        """The last seconds."""
        with self._update():
            self._history.clear()
            for at in range(max(0, stats["seconds"] - LENGTH), stats["seconds"]):
                second = ((name, values[at]) for name, values in stats["samples"].items())
                self._history.append({name: sample for name, sample in second if sample is not None})
            self._show_numbers()

    def on_samples(self, samples: Mapping[str, Sample]) -> None:
        """One second has passed."""
        with self._update():
            self._history.append(samples)
            self._show_numbers()

    def on_event(self, event: Event) -> None:
        """A move goes on."""
        device = self._sections.get(Device.title)
        if event["type"] == "move" and event["model"] == self.model and isinstance(device, Device):
            with self._update():
                device.moved(event)

    def on_lost(self, error: TFServeError) -> None:
        """Nobody answers."""
        with self._update():
            self.set_trait("server", "unreachable")
            self._show_server("failed", _LOST if self._is_jupyter() else f"{error.message} {error.remedy}".strip())

    # What is shown; with the lock held.

    def _update(self) -> _Update:
        return _Update(self)

    def _show_server(self, state: str, words: str) -> None:
        self._server.value = f"<div role='status'>{dot(state)}{escape(words)}</div>" if words else ""
        may_start = state in ("stopped", "failed") and self.server != "unreachable"
        self._head = [self._top, self._server, *([self._start] if may_start else [])]
        self._arrange()

    def _arrange(self) -> None:
        """What stands below each other: nothing of a model while nobody can answer for it."""
        shown = self.status is not None and self.server == "running"
        body = [self._numbers, self._tabs, self._chosen, self._said, self._place] if shown else []
        set_children(self, [self._style, *self._head, *body])

    def _show_models(self) -> None:
        names = [*self.models, *(name for name in self._stored if name not in self.models)]
        if self.model not in names and names and not self.model:
            self.model = names[0]
        if self.model and self.model not in names:
            names = [*names, self.model]
        options = [(name if name in self.models else f"{name} (not served)", name) for name in names]
        set_options(self._menu, options, self.model)
        self._show_model()

    def _show_model(self) -> None:
        status = self.status
        if status is None:
            known = self.model in self._stored
            words = (
                "not served" if known else f"There is no model {self.model}." if self.model else "No model is served."
            )
            self._state.value = f"<div role='status'>{dot('not')}{escape(words)}</div>"
            set_children(self._top, [self._menu, self._state, *([self._serve] if known else [])])
            self.set_trait("version", None)
        else:
            words = model_state(status)
            error = problem(status["error"])
            self._state.value = f"<div role='status'>{dot(words)}{escape(words)}{error}</div>"
            set_children(self._top, [self._menu, self._state])
            answering = available(status)
            self.set_trait("version", answering[0] if answering else None)
        self._show_numbers()
        self._arrange()
        self._fill()

    def _show_numbers(self) -> None:
        series = [second.get(self.model) for second in self._history]
        self._numbers.value = numbers(series)
        self.set_trait("sample", (series[-1] if series else None) or {})

    def _fill(self) -> None:
        """The section in sight, with what is so now."""
        status = self.status
        if status is None:
            return
        section = self._section(self.section)
        if section is not self._shown:
            if self._shown is not None:
                self._shown.hide()
            self._shown = section
            self._chosen.value = f"<h4 class='{PREFIX}unseen' role='status'>{escape(section.title)}</h4>"
            set_children(self._place, [section.box])
        section.fill(status)

    def changed_place(self) -> None:
        """The request, or whom it is for, has changed: the calls follow. From any thread."""
        with self._update():
            if self._shown is not None and self._shown.title == "Calls" and self.status is not None:
                self._shown.fill(self.status)

    def _section(self, title: str) -> Section:
        if title not in self._sections:
            self._sections[title] = next(kind for kind in _SECTIONS if kind.title == title)(self)
        return self._sections[title]

    @traitlets.observe("model")
    def _on_model_chosen(self, change: Any) -> None:
        with self._update():
            self._show_models()

    @traitlets.validate("section")
    def _check_section(self, proposal: Any) -> str:
        titles = [kind.title for kind in _SECTIONS]
        if proposal["value"] not in titles:
            raise traitlets.TraitError(f"A section is one of {', '.join(titles)}, not {proposal['value']!r}.")
        return str(proposal["value"])

    @traitlets.observe("section")
    def _on_section_chosen(self, change: Any) -> None:
        with self._update():
            with filling():
                self._tabs.value = self.section
            self._fill()

    # Work.

    def do(self, act: Callable[[], Any]) -> None:
        """Work that may take a while, off the kernel's main thread: its error is shown."""
        try:
            self._pool.submit(self._try_to, act)
        except RuntimeError:
            pass  # the panel is closed

    def _try_to(self, act: Callable[[], Any]) -> None:
        try:
            with plain_errors():
                act()
            self._say("", "")
        except TFServeError as error:
            self._say(error.message, error.remedy)
        except Exception as error:  # a bug of ours: the user sees it here, not in some cell's output
            log.exception("The panel failed")
            self._say(f"The panel failed: {type(error).__name__}: {error}", "")

    def _say(self, message: str, remedy: str) -> None:
        self._said.value = f"<div role='alert'>{problem(message, remedy)}</div>" if message else ""
        self.set_trait("error", message)

    def _need(self) -> ModelStatus:
        """The status of the model, which may not have been told yet."""
        if not self.model:
            raise KernelError("No model is chosen.", "Set `panel.model` to the name of one.")
        return self.status or self.endpoint.client.model(self.model)

    def _changed(self, status: ModelStatus) -> None:
        """At once, before the event comes."""
        self.on_model(status["name"], status)

    def _is_jupyter(self) -> bool:
        try:
            return self.endpoint.kind == "jupyter-server"
        except TFServeError:
            return True

    def _button(self, text: str, act: Callable[[], Any], tooltip: str) -> Any:
        made = widgets.Button(
            description=text, tooltip=tooltip, layout=widgets.Layout(width="auto", align_self="flex-start")
        )
        made.on_click(lambda _: self.do(act))
        return made


class _Update:
    """One update of what is shown: the lock is held, values are ours, and the time that it takes is kept."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._filling = filling()

    def __enter__(self) -> None:
        self._panel._lock.acquire()
        self._filling.__enter__()
        self._began = time.perf_counter()

    def __exit__(self, *error: Any) -> None:
        took = time.perf_counter() - self._began
        self._panel.slowest_update = max(self._panel.slowest_update, took)
        self._filling.__exit__(*error)
        self._panel._lock.release()

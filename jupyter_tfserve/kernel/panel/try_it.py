"""The *try it* box: a request, filled with an example, and its answer as a picture."""

from __future__ import annotations

import json
import time
from typing import Any

import ipywidgets as widgets

from ...api import ModelStatus
from ...client import TFServeError
from ..errors import KernelError
from .answer import draw, images
from .section import NARROW, Section, dim, html, on_user, problem, set_options

#: Characters of a request that can be edited; a longer one is sent as it is.
_LONGEST = 100_000


class TryIt(Section):
    """Signature, version, request, answer."""

    title = "Try it"

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._example: dict[str, Any] = {}
        self._of = ("", "")  # model and signature of the example
        self._signature = widgets.Dropdown(style=NARROW, description="Signature", layout=widgets.Layout(width="22em"))
        self._version = widgets.Dropdown(style=NARROW, description="Version", layout=widgets.Layout(width="16em"))
        self.request = widgets.Textarea(
            description="Request",
            rows=4,
            tooltip="The body of a predict request, as JSON",
            layout=widgets.Layout(width="auto"),
        )
        self._picture = html()
        self._send = self.button("Send", lambda: panel.try_it(), "Send the request", button_style="primary")
        self.answer = html()
        on_user(self._signature, lambda _: self.panel.do(self._fetch))
        on_user(self._version, lambda _: self.panel.changed_place())
        on_user(self.request, lambda _: self._preview())
        row = widgets.HBox([self._signature, self._version, self._send])
        row.layout.flex_flow = "row wrap"
        self.box.children = (row, self.request, self._picture, self.answer)

    @property
    def which(self) -> str:
        """The version or label that is asked; "" for the default."""
        return str(self._version.value or "")

    def fill(self, status: ModelStatus) -> None:
        """See `Section`."""
        names = sorted(status["signatures"], key=lambda name: (name != "serving_default", name))
        set_options(self._signature, names, self._signature.value)
        answering = [v["version"] for v in status["versions"] if v["state"] == "AVAILABLE"]
        places = [("default", ""), *((str(number), str(number)) for number in answering)]
        places += [(label, label) for label, number in sorted(status["labels"].items()) if number in answering]
        set_options(self._version, places, self._version.value)
        if (status["name"], self._signature.value or "") != self._of:
            if status["name"] != self._of[0]:
                self.answer.value = ""
            self.panel.do(self._fetch)

    def body(self) -> dict[str, Any]:
        """What is to be sent. Raises KernelError for what is no JSON object."""
        text = self.request.value
        if self.request.disabled:
            return self._example
        try:
            body = json.loads(text)
        except ValueError as error:
            raise KernelError(
                f"The request is not JSON: {error}.", 'For example: {"instances": [[1.0, 2.0]]}'
            ) from error
        if not isinstance(body, dict):
            raise KernelError("The request is a JSON object.", 'For example: {"instances": [[1.0, 2.0]]}')
        return body

    def set_body(self, body: dict[str, Any]) -> None:
        """Put a request into the box."""
        self._example = body
        text = json.dumps(body)
        self.request.disabled = len(text) > _LONGEST
        self.request.value = f"{text[:400]} … ({len(text):,} characters)" if self.request.disabled else text
        self._preview()

    def send(self) -> Any:
        """Ask the model; the answer is drawn, and returned."""
        body = self.body()
        version, label = (int(self.which), "") if self.which.isdigit() else (None, self.which)
        began = time.perf_counter()
        try:
            answer = self.panel.endpoint.ask(self.panel.model, body, version=version, label=label)
        except TFServeError as error:
            self.answer.value = f"<div role='alert'>{problem(error.message, error.remedy)}</div>"
            raise
        took = (time.perf_counter() - began) * 1e3
        shown = draw(answer.get("predictions", answer.get("outputs")))
        self.answer.value = f"<div role='status'>{dim(f'Answer in {took:.3g} ms')}{shown}</div>"
        return answer

    def _fetch(self) -> None:
        """An example for the signature, in the box."""
        wanted = self.panel.model, self._signature.value or ""
        self._of = wanted
        if not wanted[1]:
            return
        try:
            self.set_body(self.panel.endpoint.client.example(*wanted)["body"])
        except TFServeError as error:
            if error.status not in (404, 409):
                self._of = ("", "")  # the next update asks again
                raise
            self.request.value = ""
            self.answer.value = problem(error.message, error.remedy)
        self.panel.changed_place()

    def _preview(self) -> None:
        """The request as a picture, where it looks like one."""
        try:
            body = self.body()
        except KernelError:
            self._picture.value = ""
            return
        rows = body.get("instances", body.get("inputs"))
        if isinstance(rows, dict) and len(rows) == 1:
            (rows,) = rows.values()
        self._picture.value = images(rows, "request")
        self.panel.changed_place()

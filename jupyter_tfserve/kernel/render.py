"""Outcomes -> HTML for front ends and text for terminals. Called by `outcomes.py`; nothing here asks anybody.

Colours are JupyterLab's variables with fallbacks that suit light and dark pages alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ..api import ModelStatus, ServerInfo, Signature, Tensor, VersionStatus

if TYPE_CHECKING:
    from .lineage import Lineage
    from .outcomes import ModelReport, Overview, Registered

_BOX = (
    "border:1px solid var(--jp-border-color2,rgba(128,128,128,.4));border-radius:4px;padding:8px 12px;margin:4px 0;"
    "color:var(--jp-ui-font-color1,inherit);font-family:var(--jp-ui-font-family,inherit);max-width:60em;overflow:auto"
)
_MONO = "font-family:var(--jp-code-font-family,monospace);font-size:.92em"
_CODE = (
    f"{_MONO};white-space:pre-wrap;overflow-wrap:anywhere;background:var(--jp-layout-color2,rgba(128,128,128,.12));"
    "padding:4px 6px;border-radius:3px;display:block;margin:2px 0"
)
_WARN = "color:var(--jp-warn-color0,#b26a00);font-weight:600"
_ERROR = "color:var(--jp-error-color1,#d32f2f)"
_DIM = "color:var(--jp-ui-font-color2,inherit)"
_CELL = "text-align:left;padding:2px 12px 2px 0;vertical-align:top;background:none"

#: Above this many elements an example made up from a signature says less than a description of it.
_SMALL = 64

#: Characters of an example that a curl line may hold.
_SHORT = 400


def registered_text(done: Registered) -> str:
    """The card as text."""
    lines = [f"{done.name} version {done.version} is served ({done.seconds:.1f} s).", ""]
    lines += _text_table(_where(done.name, done, _body(done.example, done.signatures, done.path)))
    lines += _signatures_text(done.signatures)
    lines += ["  versions   " + ", ".join(_version_words(version) for version in done.versions)]
    lines += [f"  Warning: {warning}" for warning in done.warnings]
    return "\n".join(lines)


def registered_html(done: Registered) -> str:
    """The card."""
    took = f"<span style='{_DIM}'>({done.seconds:.1f} s)</span>"
    head = f"<strong>{escape(done.name)}</strong> version {done.version} is served {took}"
    body = _body(done.example, done.signatures, done.path)
    return _box(
        f"{done.name} version {done.version} is served",
        f"<div>{head}</div>"
        + _rows_html(_where(done.name, done, body))
        + _signatures_html(done.signatures)
        + _versions_html(done.versions)
        + "".join(
            f"<div role='note'><span style='{_WARN}'>Warning:</span> {escape(warning)}</div>"
            for warning in done.warnings
        ),
    )


def overview_text(view: Overview) -> str:
    """All models, a line each."""
    lines = [_server_words(view.state["server"]), ""]
    models = view.state["models"]
    if models:
        lines += columns(["model", "answers with", "versions", "labels", "error"], map(_model_row, models))
    elif view.state["stored"]:
        lines.append("No model is served.")
    else:
        lines.append("No model is served. `%tfserve NAME OBJECT` serves one.")
    if view.state["stored"]:
        lines.append(
            f"In the store, not served: {', '.join(view.state['stored'])} (`%tfserve register NAME` serves it again)."
        )
    lines += ["", f"URL: {view.address.model('NAME') or '(none while the model server does not run)'}"]
    return "\n".join(lines)


def overview_html(view: Overview) -> str:
    """All models, as a table."""
    models = view.state["models"]
    parts = [f"<div>{escape(_server_words(view.state['server']))}</div>"]
    if models:
        parts.append(
            _table_html(
                "Served models", ["model", "answers with", "versions", "labels", "error"], map(_model_row, models)
            )
        )
    else:
        parts.append("<div>No model is served. <code>%tfserve NAME OBJECT</code> serves one.</div>")
    if view.state["stored"]:
        parts.append(
            f"<div>In the store, not served: {escape(', '.join(view.state['stored']))} "
            "(<code>%tfserve register NAME</code> serves it again).</div>"
        )
    url = view.address.model("NAME")
    if url:
        parts.append(f"<div>URL: <code style='{_MONO}'>{escape(url)}</code></div>")
    return _box("Models served by jupyter_tfserve", "".join(parts))


def report_text(report: ModelReport) -> str:
    """One model in detail."""
    status = report.status
    lines = [f"{status['name']}: {_policy_words(status)}, from {status['base_path']}"]
    if status["error"]:
        lines.append(f"  Error: {status['error']}")
    lines += columns(_VERSION_HEAD, map(_version_row, status["versions"]))
    for version in status["versions"]:
        if version["error_message"]:
            lines.append(f"  Version {version['version']}: {version['error_message']}")
    lines += _signatures_text(status["signatures"])
    lines += _text_table(_batching_rows(status))
    for number, lineage in report.lineages.items():
        lines.append(f"  version {number} was made by {_lineage_words(lineage)}")
        lines += [f"    {path}" for path in report.notebooks.get(number, ())]
    lines += _text_table([("URL", report.address.model(status["name"]))])
    return "\n".join(lines)


def report_html(report: ModelReport) -> str:
    """One model in detail."""
    status = report.status
    parts = [
        f"<div><strong>{escape(status['name'])}</strong>: {escape(_policy_words(status))}, from "
        f"<code style='{_MONO}'>{escape(status['base_path'])}</code></div>"
    ]
    if status["error"]:
        parts.append(f"<div role='alert' style='{_ERROR}'>{escape(status['error'])}</div>")
    parts.append(_table_html("Versions", _VERSION_HEAD, map(_version_row, status["versions"])))
    for version in status["versions"]:
        if version["error_message"]:
            parts.append(
                f"<div style='{_ERROR}'>Version {version['version']}: {escape(version['error_message'])}</div>"
            )
    parts.append(_signatures_html(status["signatures"]))
    parts.append(_rows_html(_batching_rows(status)))
    for number, lineage in report.lineages.items():
        files = "".join(
            f"<li><code style='{_MONO}'>{escape(path)}</code></li>" for path in report.notebooks.get(number, ())
        )
        parts.append(
            f"<div>Version {number} was made by {escape(_lineage_words(lineage))}"
            + f"<ul style='margin:0'>{files}</ul></div>"
        )
    parts.append(_rows_html([("URL", report.address.model(status["name"]))]))
    return _box(f"Model {status['name']}", "".join(parts))


def batching_text(status: ModelStatus) -> str:
    """How a model's requests are merged, and which signatures' are not, and why."""
    return "\n".join([f"Batching of {status['name']}", *_text_table(_batching_rows(status))])


def said_html(text: str) -> str:
    """A sentence, as quiet as printed text."""
    return (
        f"<div role='status' style='white-space:pre-wrap;color:var(--jp-ui-font-color1,inherit)'>{escape(text)}</div>"
    )


def card_html(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A title and pairs."""
    return _box(title, f"<div><strong>{escape(title)}</strong></div>" + _rows_html(rows))


def table_card_html(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return _box(title, _table_html(title, head, rows))


def example_body(example: Mapping[str, Any] | None, signatures: Mapping[str, Signature]) -> str:
    """A request's body for whoever has no access to the model's files: short enough for a line."""
    if example is not None and len(json.dumps(example)) > _SHORT:
        example = None
    return _body(example, signatures, "")[0]


def crash_words(info: ServerInfo) -> str:
    """How the model server before this one ended, and what has become of it since."""
    last = info["last_exit"]
    if last is None:
        return ""
    reason = last["reason"] if last["reason"].startswith(("was ", "ended", "did ")) else f"was {last['reason']}"
    now = {
        "running": "it was restarted and serves again",
        "starting": "it is being restarted",
        "restarting": "it is being restarted",
        "stopped": "it is stopped now (`%tfserve start` starts it)",
        "failed": f"it could not be restarted: {info['error']} {info['remedy']}".rstrip(),
    }[info["state"]]
    return f"The model server {reason} at {time.strftime('%H:%M', time.localtime(last['time']))}; {now}"


def fixed_batch_warnings(signatures: Mapping[str, Signature]) -> list[str]:
    """A sentence for each signature that takes just one number of rows."""
    found = []
    for name, signature in signatures.items():
        shapes = {key: tensor["shape"] for key, tensor in signature["inputs"].items() if tensor["shape"]}
        fixed = {key: shape for key, shape in shapes.items() if shape[0] != -1}
        if fixed and len(fixed) == len(shapes):
            key, shape = next(iter(fixed.items()))
            found.append(
                f"Signature {name!r} takes exactly {shape[0]} row{'s' * (shape[0] != 1)} "
                f"(input {key!r} has the shape {_shape(shape)}): "
                "other numbers of rows are refused, and requests cannot be batched. Leave the first dimension open: "
                "None in the input's shape or TensorSpec."
            )
    return found


# Words shared by HTML and text.

_VERSION_HEAD = ["version", "state", "labels", "since", "load", "in flight"]


def _server_words(info: ServerInfo | None) -> str:
    if info is None:
        return "Model server: running."
    if info["state"] != "running":
        error = f": {info['error']} {info['remedy']}".rstrip() if info["error"] else ""
        hint = " (`%tfserve start` starts it)" if info["state"] == "stopped" else ""
        return f"Model server: {info['state']}{error}{hint}."
    ports = ", ".join(
        f"{name} {info['host']}:{port}"
        for name, port in (("REST", info["rest_port"]), ("gRPC", info["grpc_port"]))
        if port
    )
    return f"Model server: running as process {info['pid']}, {ports}, store {info['store']}."


def _model_row(model: ModelStatus) -> list[str]:
    available = [version["version"] for version in model["versions"] if version["state"] == "AVAILABLE"]
    errors = [model["error"], *(version["error_message"] for version in model["versions"])]
    return [
        model["name"],
        str(max(available)) if available else "(none)",
        ", ".join(f"{version['version']} {version['state']}" for version in model["versions"]),
        ", ".join(f"{label}={version}" for label, version in sorted(model["labels"].items())),
        next((_first_line(error) for error in errors if error), ""),
    ]


def _version_row(version: VersionStatus) -> list[str]:
    load = version["load_seconds"]
    return [
        str(version["version"]),
        version["state"],
        ", ".join(version["labels"]),
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(version["since"])),
        "" if load is None else f"{load:.2f} s",
        str(version["in_flight"]),
    ]


def _version_words(version: VersionStatus) -> str:
    labels = f" ({', '.join(version['labels'])})" if version["labels"] else ""
    return f"{version['version']} {version['state']}{labels}"


def _policy_words(status: ModelStatus) -> str:
    policy = status["policy"]
    if "all" in policy:
        return "all versions are served"
    if "specific" in policy:
        return "served versions: " + ", ".join(str(version) for version in policy["specific"]["versions"])
    count = policy["latest"]["num_versions"] if "latest" in policy else 1
    words = "the newest version is served" if count == 1 else f"the newest {count} versions are served"
    return words + (", and those with a label" if status["labels"] else "")


def _lineage_words(lineage: Lineage) -> str:
    made = f"{lineage.get('user') or 'somebody'}@{lineage.get('host') or '?'}"
    made += time.strftime(" on %Y-%m-%d %H:%M:%S", time.localtime(lineage["time"]))
    if lineage.get("expression"):
        made += f" from {lineage['expression']}"
    if lineage.get("notebook"):
        made += f", notebook {lineage['notebook']}"
    if lineage.get("cell") is not None:
        made += f", cell [{lineage['cell']}]"
    git = lineage.get("git")
    if git:
        made += f", git {git['commit'][:10]} on {git['branch']}{' with changes' if git['dirty'] else ''}"
    software = lineage.get("packages") or {}
    named = [f"{name} {software[name]}" for name in ("tensorflow", "keras", "jax", "torch") if name in software]
    return made + (f" ({', '.join(named)})" if named else "")


def _where(name: str, done: Registered, body: tuple[str, str]) -> list[tuple[str, str]]:
    address = done.address
    text, note = body
    rows = [("URL", done.url)]
    if done.url:
        rows.append(("curl", address.curl(name, text)))
    if note:
        rows.append(("", note))
    direct = [f"{kind} {where}" for kind, where in (("REST", address.rest), ("gRPC", address.grpc)) if where]
    if direct:
        bearer = f" on this machine, bearer $(cat {address.token_file})" if address.token_file else ""
        rows.append(("direct", ", ".join(direct) + bearer))
    return rows


def _body(example: Mapping[str, Any] | None, signatures: Mapping[str, Signature], path: str) -> tuple[str, str]:
    """The data of a curl line, and what to say about it: the example, or zeros in the signature's shape."""
    if example is not None:
        text = json.dumps(example)
        if len(text) <= _SHORT:
            return text, ""
        return f"@{path}/assets.extra/tfserve_example.json", ""
    signature = signatures.get("serving_default") or next(iter(signatures.values()), None)
    if signature is None:
        return '{"instances": [...]}', "the model tells no signature"
    inputs = {name: _zeros(tensor) for name, tensor in signature["inputs"].items()}
    if any(value is None for value in inputs.values()):
        shapes = ", ".join(f"{name}: {_tensor(tensor)}" for name, tensor in signature["inputs"].items())
        return "@request.json", f'request.json holds {{"instances": [...]}} with rows of {shapes}'
    if len(inputs) == 1:
        (value,) = inputs.values()
        return json.dumps({"instances": value if isinstance(value, list) else [value]}), ""
    return json.dumps({"inputs": inputs}), ""


def _zeros(tensor: Tensor) -> Any:
    """A value of a tensor's shape, one row; None if it would be large or its shape is not known."""
    shape = tensor["shape"]
    if shape is None:
        return None
    sizes = [1 if size == -1 else size for size in shape]
    count = 1
    for size in sizes:
        count *= size
    if count > _SMALL:
        return None
    value: Any = {"string": "", "bool": False}.get(tensor["dtype"], 0.0 if "float" in tensor["dtype"] else 0)
    for size in reversed(sizes):
        value = [value] * size
    return value


def _shape(shape: list[int] | None) -> str:
    return "[...]" if shape is None else "[" + ", ".join("?" if size == -1 else str(size) for size in shape) + "]"


def _tensor(tensor: Tensor) -> str:
    return f"{tensor['dtype']} {_shape(tensor['shape'])}"


def _tensors(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name}: {_tensor(tensor)}" for name, tensor in tensors.items())


def _signature_rows(signatures: Mapping[str, Signature]) -> list[list[str]]:
    ordered = sorted(signatures.items(), key=lambda item: (item[0] != "serving_default", item[0]))
    return [[name, _tensors(signature["inputs"]), _tensors(signature["outputs"])] for name, signature in ordered]


_MODES = {
    "on": "on: requests are merged",
    "auto": "auto: requests are merged where rows were seen to be independent",
    "off": "off: each request is a run of its own",
}


def _batching_rows(status: ModelStatus) -> list[tuple[str, str]]:
    batching = status["batching"]
    rows = [("batching", _MODES[batching["mode"]])]
    if batching["mode"] != "off":
        in_force = {key: value for key, value in batching.items() if key not in ("mode", "signatures") and value}
        in_force["batch_timeout_micros"] = batching["batch_timeout_micros"]
        rows += [("", ", ".join(f"{key} {json.dumps(value)}" for key, value in sorted(in_force.items())))]
        ordered = sorted(batching["signatures"].items(), key=lambda item: (item[0] != "serving_default", item[0]))
        rows += [("", f"{name}: {f'not merged, {why}' if why else 'merged'}") for name, why in ordered]
    return rows


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


# Text.


def _text_table(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"  {key:<10} {value}" for key, value in rows if value]


def _signatures_text(signatures: Mapping[str, Signature]) -> list[str]:
    return [f"  signature  {name}: {inputs} -> {outputs}" for name, inputs, outputs in _signature_rows(signatures)]


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table as lines of text."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    ]


# HTML. Everything that comes from outside passes through `escape`.


def _box(label: str, inside: str) -> str:
    return f"<section class='jp-jupyter-tfserve-card' aria-label='{escape(label)}' style='{_BOX}'>{inside}</section>"


def _rows_html(rows: Iterable[tuple[str, str]]) -> str:
    inside = "".join(
        f"<tr style='background:none'><th scope='row' style='{_CELL};font-weight:normal;{_DIM}'>{escape(key)}</th>"
        f"<td style='{_CELL}'><code style='{_CODE}'>{escape(value)}</code></td></tr>"
        for key, value in rows
        if value
    )
    return f"<table style='border-collapse:collapse;margin:4px 0'>{inside}</table>" if inside else ""


def _table_html(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f"<th scope='col' style='{_CELL};{_DIM}'>{escape(name)}</th>" for name in head)
    lines = "".join(
        "<tr style='background:none'>" + "".join(f"<td style='{_CELL}'>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f"<table aria-label='{escape(caption)}' style='border-collapse:collapse;margin:4px 0'>"
        f"<thead><tr style='background:none'>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    )


def _signatures_html(signatures: Mapping[str, Signature]) -> str:
    rows = _signature_rows(signatures)
    return _table_html("Signatures", ["signature", "inputs", "outputs"], rows) if rows else ""


def _versions_html(versions: Iterable[VersionStatus]) -> str:
    words = ", ".join(_version_words(version) for version in versions)
    return f"<div><span style='{_DIM}'>versions</span> {escape(words)}</div>" if words else ""

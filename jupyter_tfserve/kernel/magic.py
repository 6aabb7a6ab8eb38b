"""%tfserve and %%tfserve: a line becomes a call of the endpoint, and the outcome is shown. Loaded by
`%load_ext jupyter_tfserve`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from IPython.core.error import TryNext
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class, needs_local_scope, no_var_expand

from ..api import BatchingRequest, PlacementRequest, Policy, ShareKind
from ..client import TFServeError
from .arguments import VERBS, Line, UsageError, names, parse, split, unknown, whole_number
from .devices import placed_text, size
from .endpoint import Endpoint, connect
from .errors import KernelError, plain_errors
from .expressions import evaluate, expand, expanded, find_object
from .outcomes import Said
from .progress import ProgressLine, show
from .render import batching_text
from .sharing import per_second, seconds

#: Options of `batching` that are numbers, and what the API calls them.
_BATCHING = {
    "--max-batch-size": "max_batch_size",
    "--timeout": "batch_timeout_micros",
    "--threads": "num_batch_threads",
    "--queue": "max_enqueued_batches",
}


class TFServeMagicError(TFServeError):
    """What a cell with %tfserve fails with: shown without a traceback, because it is not a fault of the user's code."""

    def _render_traceback_(self) -> list[str]:
        return [f"\x1b[31m%tfserve:\x1b[0m {self.message}", *([self.remedy] if self.remedy else [])]


@contextlib.contextmanager
def _shown_plainly() -> Iterator[None]:
    try:
        with plain_errors():
            yield
    except TFServeError as error:
        raise TFServeMagicError(error.message, error.remedy, error.status) from error


@magics_class
class TFServeMagics(Magics):
    """The magics of one shell."""

    shell: InteractiveShell

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        set_hook: Callable[..., None] = shell.set_hook  # IPython leaves it without types
        for magic in ("%tfserve", "%%tfserve"):
            set_hook("complete_command", self._complete, str_key=magic)

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    def tfserve(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Serve models from this notebook with TensorFlow Serving's API.

        ::

            %tfserve NAME OBJECT        serve an object under a name; a newer version takes over without a gap
            %tfserve                    show everything that is served
            %tfserve status NAME        one model: versions, signatures, and the notebook that made them
            %tfserve panel [NAME]       a panel that shows and steers all of it, and follows what happens
            %tfserve predict NAME EXPR  ask a model; returns arrays
            %tfserve label NAME stable=3 canary=4 old=     move labels; with nothing behind = take one away
            %tfserve versions NAME --latest 2 | --all | --only 3 4     which versions are served
            %tfserve batching NAME [on | auto | off]       how requests are merged, and of which signatures; options:
                --max-batch-size N --timeout MICROS --threads N --queue N --allowed-sizes 2,4,8 (or `default`)
            %tfserve device NAME gpu:1  move it to another device, while it serves; options: --replicas N
                --memory-limit 4G (or `none`); without a device: where it is
            %tfserve devices            the CPU and the GPUs, their memory, and what is served there
            %tfserve unload NAME        stop serving; the files stay, `%tfserve register NAME` serves them again
            %tfserve remove NAME        stop serving and delete the files
            %tfserve share NAME [--with USER | --link | --key]   let somebody predict, and nothing else
            %tfserve shares             who may; %tfserve unshare ID  ends it
            %tfserve start | stop | restart            the model server process
            %tfserve logs [--lines 50] [--process ID]   its log, or a worker's
            %tfserve register NAME OBJECT     the long form, for a NAME that is a verb

        OBJECT is a Python expression or a path: a Keras model, a tf.Module, a tf.function, a Python function of tensors
        with --example, the folder of a SavedModel (copied), or a folder of versions (served in place). Options::

            --example EXPR          an input: a batch of rows, or a dict or tuple of them; shown in the curl line
            --label L               a label for the new version (repeatable)
            --version N             its number; default: the Unix time
            --keep N                how many versions stay on disk; 0, the default, keeps all
            --device D, --replicas N, --memory-limit 4G     as in `%tfserve device`
            --signature NAME[=EXPR] export this method, or this function under this name (repeatable)

        NAME, --version and --label may be written as {expression} or $variable.

        Cells::

            %%tfserve predict NAME [--version N | --label L]     the cell is a JSON body, the answer is shown as JSON
            %%tfserve config                                     the cell is a models.config in text form

        The same in Python: ``from jupyter_tfserve import connect; connect().register("digits", model)``.
        """
        scope = {**self.shell.user_ns, **(local_ns or {})}
        with _shown_plainly():
            if cell is not None:
                return self._cell(line, cell, scope)
            return self._line(line, scope)

    def _line(self, text: str, scope: Mapping[str, Any]) -> Any:
        words = split(text)
        if len(words) == 1 and words[0] not in VERBS:
            return self._only_a_name(expand(words[0], scope))
        line = parse(text)
        endpoint = self._endpoint()
        verbs: dict[str, Callable[[Endpoint, Line, Mapping[str, Any]], Any]] = {
            "": _overview,
            "status": _status,
            "panel": _panel,
            "predict": _predict,
            "label": _label,
            "versions": _versions,
            "batching": _batching,
            "device": self._device,
            "devices": _devices,
            "unload": _unload,
            "remove": _remove,
            "start": _start,
            "stop": _stop,
            "restart": _restart,
            "logs": _logs,
            "share": _share,
            "shares": _shares,
            "unshare": _unshare,
            "config": _config,
            "register": self._register,
        }
        result = verbs[line.verb](endpoint, line, scope)
        if line.verb in ("register", "start", "restart"):  # the model server may have started just now
            _tell(endpoint)
        return result

    def _cell(self, text: str, cell: str, scope: Mapping[str, Any]) -> None:
        line = parse(text, is_name=False)
        endpoint = self._endpoint()
        if line.verb == "config":
            if not cell.strip():
                return _config(endpoint, line, scope)
            endpoint.client.set_config(cell)
            return _overview(endpoint, line, scope)
        if line.verb == "predict":
            names(line.words, "predict")
            name = expand(line.words[0], scope)
            try:
                json.loads(cell)
            except ValueError as error:
                raise UsageError(
                    f"The cell is not JSON: {error}.", 'For example: {"instances": [[1.0, 2.0], [3.0, 4.0]]}'
                ) from error
            version, label = _which(line, scope)
            answer = endpoint.ask(name, cell, version=version, label=label)
            show({"application/json": answer, "text/plain": json.dumps(answer, indent=2)}, raw=True)
            return None
        raise UsageError(
            f"`%%tfserve {line.verb}` takes no cell.",
            "Cells: `%%tfserve predict NAME` and `%%tfserve config`; else use one %.",
        )

    def _endpoint(self) -> Endpoint:
        """The endpoint, after telling what the user does not know yet."""
        endpoint = connect()
        _tell(endpoint)
        return endpoint

    def _only_a_name(self, name: str) -> None:
        """One word that is no verb: a model that is served, or a slip."""
        endpoint = self._endpoint()
        state = endpoint.state()
        if any(model["name"] == name for model in state["models"]):
            show(endpoint.status(name))
        elif name in state["stored"]:
            raise KernelError(
                f"{name!r} is in the store, but not served.", f"`%tfserve register {name}` serves it again."
            )
        else:
            raise unknown(name)

    def _register(self, endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
        names(line.words, "register")
        name = expand(line.words[0], scope)
        written = line.rest(1)
        version = whole_number(expanded(line.last("--version"), scope), "--version", 1)
        signatures: dict[str, Any] = {}
        for given in line.options.get("--signature", ()):
            key, equals, expression = given.partition("=")
            signatures[key.strip()] = evaluate(expression, scope, "--signature") if equals else None
        example = line.last("--example")
        value = None if example is None else evaluate(example, scope, "--example")
        obj = find_object(written, scope, name) if written else None
        with ProgressLine(self.shell) as progress:
            done = endpoint.register(
                name,
                obj,
                version=version,
                labels=[expand(label, scope) for label in line.options.get("--label", ())],
                signatures=signatures,
                example=value,
                keep=whole_number(line.last("--keep"), "--keep"),
                placement=_placement(line, expanded(line.last("--device"), scope) or ""),
                expression=written,
                progress=progress.say,
            )
            progress.become(done)

    def _device(self, endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
        names(line.words, "device")
        name = expand(line.words[0], scope)
        request = _placement(line, expand(line.words[1], scope) if len(line.words) > 1 else "")
        if not request:
            show(Said(placed_text(endpoint.client.model(name))))
            return
        with ProgressLine(self.shell) as progress:
            progress.become(Said(placed_text(endpoint.place(name, request, progress.say))))

    def _complete(self, _: Any, event: Any) -> list[str]:
        """Verbs, names of models, options, and the user's variables where an object is expected."""
        words = event.text_until_cursor.split()[1:]
        done = words if event.text_until_cursor[-1:].isspace() else words[:-1]
        begun = "" if len(done) == len(words) else words[-1]
        verb = done[0] if done and done[0] in VERBS else ("register" if done else "")
        if begun.startswith("--") and verb:
            return sorted(VERBS[verb].flags | VERBS[verb].values)
        if not done:
            return [*VERBS, *self._known_names()]
        if len(done) == 1 and done[0] in VERBS and VERBS[verb].most != 0:
            return self._known_names()
        if (verb == "device" and len(done) == 2) or done[-1:] == ["--device"]:
            return ["auto", *self._known_devices()]
        if verb in ("register", "predict") and begun.isidentifier():
            return [name for name in self.shell.user_ns if not name.startswith("_")]
        raise TryNext

    def _known_devices(self) -> list[str]:
        with contextlib.suppress(TFServeError):
            return [device["id"] for device in connect().devices().devices if device["usable"]]
        return []

    def _known_names(self) -> list[str]:
        with contextlib.suppress(TFServeError):
            state = connect().state()
            return [*(model["name"] for model in state["models"]), *state["stored"]]
        return []


def _tell(endpoint: Endpoint) -> None:
    for news in endpoint.news():
        show(Said(news))


# The verbs. Each shows its outcome; `predict` returns it.


def _overview(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    show(endpoint.overview())


def _status(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    show(endpoint.status(expand(line.words[0], scope)) if line.words else endpoint.overview())


def _panel(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    from .panel import Panel

    show(Panel.of(expand(line.words[0], scope) if line.words else ""))


def _predict(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> Any:
    names(line.words, "predict", 2)
    version, label = _which(line, scope)
    value = evaluate(line.rest(1), scope, "the input")
    name = expand(line.words[0], scope)
    return endpoint.predict(name, value, version=version, label=label, signature=line.last("--signature") or "")


def _label(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    names(line.words, "label", 2)
    labels: dict[str, int | None] = {}
    for word in line.words[1:]:
        label, equals, number = word.partition("=")
        if not label or not equals:
            raise UsageError(f"{word!r} is not LABEL=VERSION.", VERBS["label"].usage)
        labels[label] = whole_number(expand(number, scope), f"{label}=", 1) if number else None
    name = expand(line.words[0], scope)
    now = endpoint.set_labels(name, labels)["labels"]
    show(Said(f"Labels of {name}: " + (", ".join(f"{k}={v}" for k, v in sorted(now.items())) or "none") + "."))


def _versions(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    names(line.words, "versions")
    if len(line.options) > 1:
        raise UsageError("Only one of --latest, --all and --only can hold.", VERBS["versions"].usage)
    name = expand(line.words[0], scope)
    policy: Policy | None = None
    if "--all" in line.options:
        policy = {"all": {}}
    elif "--latest" in line.options:
        count = whole_number(expanded(line.last("--latest"), scope), "--latest", 1)
        policy = {"latest": {"num_versions": count or 1}}
    elif "--only" in line.options:
        given = " ".join(expand(word, scope) for word in line.options["--only"]).replace(",", " ").split()
        policy = {"specific": {"versions": [whole_number(word, "--only", 1) or 0 for word in given]}}
    if policy is not None:
        endpoint.set_policy(name, policy)
    show(endpoint.status(name))


def _batching(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    names(line.words, "batching")
    name = expand(line.words[0], scope)
    request: BatchingRequest = {}
    for word in line.words[1:]:
        if word not in ("on", "auto", "off"):
            raise UsageError(f"{word!r} is no way to batch.", VERBS["batching"].usage)
        request["mode"] = word  # type: ignore[typeddict-item]
    for option, key in _BATCHING.items():
        if option in line.options:
            text = expanded(line.last(option), scope)
            request[key] = None if text == "default" else whole_number(text, option)  # type: ignore[literal-required]
    if "--allowed-sizes" in line.options:
        text = expanded(line.last("--allowed-sizes"), scope) or ""
        sizes = [] if text == "default" else text.replace(",", " ").split()
        request["allowed_batch_sizes"] = [whole_number(size, "--allowed-sizes", 1) or 0 for size in sizes] or None
    status = endpoint.set_batching(name, request) if request else endpoint.client.model(name)
    show(Said(batching_text(status)))


def _placement(line: Line, device: str) -> PlacementRequest:
    request: PlacementRequest = {}
    if device:
        request["device"] = device
    replicas = whole_number(line.last("--replicas"), "--replicas", 1)
    if replicas is not None:
        request["replicas"] = replicas
    limit = line.last("--memory-limit")
    if limit is not None:
        request["memory_limit"] = size(limit)
    return request


def _devices(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    show(endpoint.devices())


def _unload(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    names(line.words, "unload")
    name = expand(line.words[0], scope)
    endpoint.unload(name)
    show(Said(f"{name} is not served any more; its files stay. `%tfserve register {name}` serves it again."))


def _remove(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    names(line.words, "remove")
    name = expand(line.words[0], scope)
    endpoint.remove(name)
    show(Said(f"{name} is removed, with its files in the store."))


def _start(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    info = endpoint.start()
    ports = ", ".join(
        f"{kind} {info['host']}:{port}"
        for kind, port in (("REST", info["rest_port"]), ("gRPC", info["grpc_port"]))
        if port
    )
    show(Said(f"The model server runs as process {info['pid']}: {ports}."))


def _stop(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    endpoint.stop()
    show(Said("The model server is stopped. `%tfserve start` starts it, and it serves again what it served."))


def _restart(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    endpoint.restart()
    _start(endpoint, line, scope)


def _logs(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    lines = whole_number(line.last("--lines"), "--lines", 1) or 200
    process = expanded(line.last("--process"), scope)
    text = endpoint.client.logs(lines, process) if process else endpoint.logs(lines)
    sys.stdout.write((text or "The model server has written no log yet.") + "\n")


def _share(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    names(line.words, "share")
    chosen = [option for option in ("--with", "--link", "--key") if option in line.options]
    if len(chosen) > 1:
        raise UsageError("Only one of --with, --link and --key can hold.", VERBS["share"].usage)
    kinds: dict[str, ShareKind] = {"--with": "user", "--link": "link", "--key": "key"}
    version, label = _which(line, scope)
    rate = line.last("--rate")
    show(
        endpoint.share(
            expand(line.words[0], scope),
            with_user=expanded(line.last("--with"), scope) or "",
            kind=kinds[chosen[0]] if chosen else None,
            versions=[] if version is None else [version],
            labels=[label] if label else [],
            expires=seconds(line.last("--expires") or "7d"),
            rate=per_second(rate) if rate else None,
            concurrency=whole_number(line.last("--concurrency"), "--concurrency", 1),
            note=line.last("--note") or "",
            notebook=expanded(line.last("--notebook"), scope) or "",
        )
    )


def _shares(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    show(endpoint.shares())


def _unshare(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    names(line.words, "unshare")
    endpoint.unshare(line.words[0])
    show(Said(f"{line.words[0]} is revoked. A JupyterHub's word about a token may count for 30 s more."))


def _config(endpoint: Endpoint, line: Line, scope: Mapping[str, Any]) -> None:
    sys.stdout.write((endpoint.client.config().rstrip() or "# no model is served") + "\n")


def _which(line: Line, scope: Mapping[str, Any]) -> tuple[int | None, str]:
    if "--version" in line.options and "--label" in line.options:
        raise UsageError("Give --version or --label, not both.", VERBS["predict"].usage)
    number = whole_number(expanded(line.last("--version"), scope), "--version", 1)
    return number, expanded(line.last("--label"), scope) or ""

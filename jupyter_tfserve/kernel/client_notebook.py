"""A notebook for whoever receives a share: asks the model with nothing but Python's standard library, the token from
the environment. Filled from the model's signature by `sharing.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ..api import Signature, Tensor
from .errors import KernelError

#: The environment variable that the notebook reads, as `jupyter tfserve tunnel` does.
TOKEN = "TFSERVE_TOKEN"

_CALL = '''\
def ask(body, verb=":predict"):
    """TensorFlow Serving's REST API: a JSON object in, a JSON object out."""
    request = urllib.request.Request(
        URL + verb,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": "Bearer " + TOKEN, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{error.code}: {error.read().decode(errors='replace')}") from None


def filled(value, *shape):
    """Nested lists of a shape."""
    return value if not shape else [filled(value, *shape[1:]) for _ in range(shape[0])]'''


def write(
    path: Path, url: str, name: str, signatures: Mapping[str, Signature], example: Mapping[str, Any] | None
) -> None:
    """Write the notebook. `url` is the model's, without ``:predict``; `example` a request body where one is known.

    Raises KernelError if the file exists: it may be somebody's work.
    """
    signature = signatures.get("serving_default") or next(iter(signatures.values()), None)
    cells = [
        new_markdown_cell(
            f"# Ask the model `{name}`\n\nNeeds Python and nothing else. Set `{TOKEN}` to the token or access key that "
            "you were given, before Jupyter starts; never write it into a notebook, which is saved as it is."
        ),
        new_code_cell(
            f"import json\nimport os\nimport urllib.error\nimport urllib.request\n\nURL = {json.dumps(url)}\n"
            f'TOKEN = os.environ.get("{TOKEN}", "")\n'
            f'assert TOKEN, "Set the environment variable {TOKEN} first."'
        ),
        new_code_cell(_CALL),
        new_markdown_cell(_described(signature)),
        new_code_cell(f"answer = ask({_request(signature, example)})\nanswer"),
        new_markdown_cell("Versions that answer, and the model's own description of its inputs and outputs:"),
        new_code_cell('ask(None, verb="")'),
        new_code_cell('ask(None, verb="/metadata")'),
    ]
    notebook = new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    notebook["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    try:
        with open(path, "x", encoding="utf-8") as file:
            nbformat.write(notebook, file)
    except FileExistsError:
        raise KernelError(f"{path} exists already.", "Name another file with --notebook.") from None


def _described(signature: Signature | None) -> str:
    if signature is None:
        return "The model tells no signature: what it takes, its owner knows."
    lines = ["| | name | dtype | shape |", "|---|---|---|---|"]
    for kind in ("inputs", "outputs"):
        for name, tensor in (signature["inputs"] if kind == "inputs" else signature["outputs"]).items():
            shape = "?" if tensor["shape"] is None else str([size if size >= 0 else "any" for size in tensor["shape"]])
            lines.append(f"| {kind[:-1]} | `{name}` | {tensor['dtype']} | {shape} |")
    return "\n".join(lines)


def _request(signature: Signature | None, example: Mapping[str, Any] | None) -> str:
    """Python source of a request body."""
    if example is not None:
        return f"json.loads({json.dumps(example)!r})"
    if signature is None:
        return '{"instances": [...]}'
    inputs = {name: _filled(tensor) for name, tensor in signature["inputs"].items()}
    if len(inputs) == 1:
        (source,) = inputs.values()
        return f'{{"inputs": {source}}}'
    return '{"inputs": {' + ", ".join(f"{json.dumps(name)}: {source}" for name, source in inputs.items()) + "}}"


def _filled(tensor: Tensor) -> str:
    value = {"string": '""', "bool": "False"}.get(tensor["dtype"], "0.0" if "float" in tensor["dtype"] else "0")
    sizes = [str(size if size >= 0 else 1) for size in tensor["shape"] or ()]
    return f"filled({', '.join([value, *sizes])})"

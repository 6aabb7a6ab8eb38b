"""Calls of a model that can be copied: curl, Python, gRPC, JavaScript. Each runs as it stands, with a token from where
the reader keeps it: a token's value is never in the text.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ...api import Signature
from ..outcomes import Address

#: Characters of a body that a call may hold; a longer one is read from a file.
_LONGEST = 2000

_TYPES = {"string": "DT_STRING", "bool": "DT_BOOL", "float16": "DT_HALF", "float32": "DT_FLOAT", "float64": "DT_DOUBLE"}


def calls(
    address: Address, name: str, where: str, body: Mapping[str, Any], signatures: Mapping[str, Signature]
) -> dict[str, str]:
    """The calls by the name of their language. `where` is what stands behind the model: "", "/versions/3",
    "/labels/stable".
    """
    base = address.model(name)
    if not base:
        return {}
    url = f"{base}{where}:predict"
    text = json.dumps(body)
    if len(text) > _LONGEST:
        text = ""
    found = {
        "curl": _curl(address, url, text),
        "Python": _python(address, url, text),
        "gRPC": _grpc(address, name, where, body if text else {}, signatures),
        "JavaScript": _javascript(url, text),
    }
    return {language: call for language, call in found.items() if call}


def place(which: str) -> str:
    """What stands behind a model for a version ("3"), a label ("stable") or neither ("")."""
    return f"/versions/{which}" if which.isdigit() else f"/labels/{quote(which, safe='')}" if which else ""


def _curl(address: Address, url: str, body: str) -> str:
    if address.jupyter:
        bearer = '-H "Authorization: token $JUPYTER_TOKEN"'
    elif address.token_file:
        bearer = f'-H "Authorization: Bearer $(cat {shlex.quote(address.token_file)})"'
    else:
        bearer = ""
    lines = ["curl -s", bearer, "-H 'Content-Type: application/json'"]
    lines += [f"-d {shlex.quote(body)}" if body else "-d @request.json", shlex.quote(url)]
    return " \\\n  ".join(filter(None, lines))


def _python(address: Address, url: str, body: str) -> str:
    lines = ["import requests", ""]
    if address.jupyter:
        lines.insert(0, "import os")
        headers = '{"Authorization": "token " + os.environ["JUPYTER_TOKEN"]}'
    elif address.token_file:
        headers = f'{{"Authorization": "Bearer " + open({address.token_file!r}).read()}}'
    else:
        headers = ""
    more = f",\n    headers={headers}" if headers else ""
    if body:
        json_ = repr(json.loads(body))
    else:
        lines.insert(0, "import json")
        json_ = 'json.load(open("request.json"))'
    lines += [
        f"answer = requests.post(\n    {url!r},\n    json={json_}{more},\n)",
        "answer.raise_for_status()",
        "print(answer.json())",
    ]
    return "\n".join(lines)


def _grpc(address: Address, name: str, where: str, body: Mapping[str, Any], signatures: Mapping[str, Signature]) -> str:
    """By TensorFlow Serving's own stubs: ``pip install tensorflow-serving-api``."""
    if not address.grpc:
        return ""
    signature = str(body.get("signature_name", "serving_default"))
    if signature not in signatures:
        signature = next(iter(signatures), signature)
    spec = "request.model_spec"
    lines = [
        "import grpc",
        "import numpy as np",
        "import tensorflow as tf",
        "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc",
        "",
        "request = predict_pb2.PredictRequest()",
        f"{spec}.name = {name!r}",
        f"{spec}.signature_name = {signature!r}",
    ]
    kind, _, which = where.removeprefix("/").partition("/")
    if kind == "versions":
        lines.append(f"{spec}.version.value = {which}")
    elif kind == "labels":
        lines.append(f"{spec}.version_label = {which!r}")
    for key, value in _inputs(body, signatures.get(signature)).items():
        lines.append(f"request.inputs[{key!r}].CopyFrom(tf.make_tensor_proto({value}))")
    token = f"open({address.token_file!r}).read()" if address.token_file else ""
    bearer = f', metadata=[("authorization", "Bearer " + {token})]' if token else ""
    lines += [
        f"with grpc.insecure_channel({address.grpc!r}) as channel:",
        "    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)",
        f"    answer = stub.Predict(request, timeout=60{bearer})",
        "print({name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()})",
    ]
    return "\n".join(line for line in lines if line != "import numpy as np" or any("np." in other for other in lines))


def _inputs(body: Mapping[str, Any], signature: Signature | None) -> dict[str, str]:
    """Python for the value of each input."""
    tensors = signature["inputs"] if signature else {}
    rows, columns = body.get("instances"), body.get("inputs")
    values: dict[str, Any] = {}
    if isinstance(columns, Mapping):
        values = dict(columns)
    elif columns is not None and len(tensors) == 1:
        values = {next(iter(tensors)): columns}
    elif isinstance(rows, list) and rows and isinstance(rows[0], Mapping) and "b64" not in rows[0]:
        values = {key: [row[key] for row in rows] for key in rows[0]}
    elif rows is not None and len(tensors) == 1:
        values = {next(iter(tensors)): rows}
    if not values:
        return {key: f"...  # {tensor['dtype']} {tensor['shape']}" for key, tensor in tensors.items()}
    return {key: _value(value, tensors[key]["dtype"] if key in tensors else "") for key, value in values.items()}


def _value(value: Any, dtype: str) -> str:
    if dtype == "string" or not dtype:
        return repr(value)
    return f"np.array({value!r}, {'np.bool_' if dtype == 'bool' else f'np.{dtype}'})"


def _javascript(url: str, body: str) -> str:
    """From a page of the same Jupyter Server its cookie counts as well; elsewhere the token does."""
    data = body or "await (await fetch('request.json')).text()"
    text = f"JSON.stringify({body})" if body else data
    return (
        f"const answer = await fetch({json.dumps(url)}, {{\n"
        "  method: 'POST',\n"
        "  headers: { 'Content-Type': 'application/json', Authorization: `token ${token}` },\n"
        f"  body: {text},\n"
        "});\n"
        "if (!answer.ok) throw new Error(await answer.text());\n"
        "console.log(await answer.json());"
    )

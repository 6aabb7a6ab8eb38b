"""docs/openapi.yaml and api.py say the same, key by key and path by path."""

from __future__ import annotations

import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import jsonschema
import pytest
import yaml

from jupyter_tfserve import api

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "docs" / "openapi.yaml").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
MESSAGES = {name: kind for name, kind in vars(api).items() if typing.is_typeddict(kind)}
STATES = {
    "VersionState": api.VersionState,
    "ServerState": api.ServerState,
    "ShareKind": api.ShareKind,
    "BatchingMode": api.BatchingMode,
    "MoveState": api.MoveState,
}
VERBS = {"get", "put", "post", "patch", "delete"}

#: Event is total=False for the sake of its optional keys; its docstring names those that are always there.
ALWAYS_THERE = {"Event": {"type", "time"}}


def schema_of(kind: Any) -> dict[str, Any]:
    """What a JSON Schema must say about an annotation, without the prose."""
    for name, named in {**MESSAGES, **STATES}.items():
        if kind is named or kind == named:
            return {"$ref": f"#/components/schemas/{name}"}
    if kind is Any:
        return {}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        assert arguments[0] is str
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if origin in (Union, types.UnionType):
        some, none = arguments
        assert none is type(None)
        schema = schema_of(some)
        if "$ref" in schema:
            return {"oneOf": [schema, {"type": "null"}]}
        return {**schema, "type": [schema["type"], "null"]}
    return {"type": {str: "string", int: "integer", float: "number", bool: "boolean"}[kind]}


def bare(schema: Any) -> Any:
    """A schema without what is said to people."""
    if not isinstance(schema, dict):
        return schema
    return {key: bare(value) for key, value in schema.items() if key not in ("description", "examples", "default")}


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [node["$ref"]] if "$ref" in node else [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


def operations() -> list[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    return [
        (path, verb, operation, item)
        for path, item in DOCUMENT["paths"].items()
        for verb, operation in item.items()
        if verb in VERBS
    ]


def test_every_message_is_described() -> None:
    assert set(SCHEMAS) == set(MESSAGES) | set(STATES)


@pytest.mark.parametrize("name", MESSAGES)
def test_schema_says_what_the_typed_dict_says(name: str) -> None:
    kind, schema = MESSAGES[name], SCHEMAS[name]
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert schema["description"]
    hints = typing.get_type_hints(kind)
    assert {key: bare(value) for key, value in schema.get("properties", {}).items()} == {
        key: schema_of(hint) for key, hint in hints.items()
    }
    assert set(schema.get("required", [])) == set(kind.__required_keys__) | ALWAYS_THERE.get(name, set())


@pytest.mark.parametrize("name", STATES)
def test_states_have_the_same_names(name: str) -> None:
    assert SCHEMAS[name]["enum"] == list(get_args(STATES[name]))


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_json_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


def test_paths_are_those_of_the_modules_table() -> None:
    assert api.__doc__ is not None
    listed = set()
    for verbs, path in re.findall(r"^([A-Z/]{3,}) +(/api/\S+)", api.__doc__, flags=re.MULTILINE):
        path = path.replace("NAME", "{name}").replace("ID", "{id}")
        listed |= {(path, verb.lower()) for verb in verbs.split("/")}
    assert {(path, verb) for path, verb, _, _ in operations()} == listed


def test_references_lead_somewhere() -> None:
    for reference in references(DOCUMENT):
        node = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_operations_are_complete() -> None:
    identifiers = [operation["operationId"] for _, _, operation, _ in operations()]
    assert len(set(identifiers)) == len(identifiers)
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for path, verb, operation, item in operations():
        where = f"{verb} {path}"
        assert operation["summary"], where
        assert set(operation["tags"]) <= tags, where
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Refused"}, where
        declared = [
            DOCUMENT["components"]["parameters"][p["$ref"].rpartition("/")[2]] if "$ref" in p else p
            for p in [*item.get("parameters", []), *operation.get("parameters", [])]
        ]
        assert {p["name"] for p in declared if p["in"] == "path"} == set(re.findall(r"{(\w+)}", path)), where
        has_body = verb in ("put", "patch") or (
            verb == "post" and path in ("/api/server", "/api/uploads", "/api/saved_models", "/api/shares")
        )
        assert ("requestBody" in operation) == has_body, where


def test_owner_operations_are_marked() -> None:
    assert api.__doc__ is not None
    for path, verb, operation, _ in operations():
        listed = path.replace("{name}", "NAME").replace("{id}", "ID")
        row = next(
            row
            for row in re.split(r"\n(?=[A-Z=])", api.__doc__)
            if re.match(rf"[A-Z/]*\b{verb.upper()}\b[A-Z/]* +{re.escape(listed)}\s", row)
        )
        assert ("owner only" in row) == (operation["tags"] == ["owner"]), f"{verb} {path}"

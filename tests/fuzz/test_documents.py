"""JSON around the REST API's keys, whole, broken and oddly encoded: an answer or a refusal in the API's own form."""

from __future__ import annotations

import gzip
import json
from typing import Any

import hypothesis.strategies as st
from fuzz.served import MODELS, Served

KEYS = ["instances", "inputs", "signature_name", "examples", "context", "b64", "x", "y", "a", "b", "", "inputs\x00"]
SIGNATURES = ["serving_default", "same", "text", "matrix", "float32", "string", "uint64", "regress", "number", ""]

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**308, 10**309, -(10**308) * 9, 1e-320, 0.5, "AAE=", "*", "\ud800"]),
    st.text(max_size=10),
    st.builds(lambda text: {"b64": text}, st.sampled_from(["", "AA", "AAE=", "A", "*", "é", "AA\n"])),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)
DOCUMENTS = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "instances": st.lists(VALUES, max_size=4) | VALUES,
            "inputs": VALUES,
            "signature_name": st.sampled_from(SIGNATURES) | VALUES,
            "examples": st.lists(
                st.dictionaries(st.sampled_from(KEYS), LEAVES | st.lists(LEAVES, max_size=3)), max_size=3
            ),
            "context": st.dictionaries(st.sampled_from(KEYS), LEAVES),
        },
    ),
    VALUES,
)
#: Requests that are answered, which are then damaged in some places.
FITTING = st.one_of(
    st.tuples(
        st.just("/v1/models/echo:predict"),
        st.builds(
            lambda dtype, key, value: {"signature_name": dtype, key: value},
            st.sampled_from("float32 float64 int8 uint64 string bool".split()),
            st.sampled_from(["instances", "inputs"]),
            st.lists(st.integers(0, 1) | st.floats() | st.booleans() | LEAVES, min_size=1, max_size=3),
        ),
    ),
    st.tuples(
        st.sampled_from(["/v1/models/examples:classify", "/v1/models/examples/versions/1:classify"]),
        st.builds(
            lambda name, values: {"examples": [{name: value} for value in values], "context": {"b": "x"}},
            st.sampled_from("aab"),
            st.lists(st.floats() | LEAVES, min_size=1, max_size=3),
        ),
    ),
    st.just(("/v1/models/several:predict", {"instances": [{"a": 1, "b": 2}, {"b": 3, "a": 4}]})),
    st.just(("/v1/models/examples:regress", {"signature_name": "regress", "examples": [{"a": 1.5}, {}]})),
    st.builds(
        lambda text: ("/v1/models/examples:predict", {"signature_name": "number", "inputs": [text]}),
        st.floats().map(str) | st.text(max_size=4) | st.just({"b64": "/w=="}),
    ),
)
EDITS = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.integers(0, 8),
        st.sampled_from(
            [b"", b'"', b"{", b"[", b"]", b"}", b",", b"\\", b"\\u", b"\\ud83d", b"\xff", b"\x00", b"NaN", b"1e400"]
        )
        | st.binary(max_size=4),
    ),
    max_size=3,
)
ENCODINGS = st.sampled_from([*["utf-8"] * 8, "utf-8-sig", "utf-16", "utf-32", "latin-1", "utf-7"])
PATHS = st.one_of(
    st.builds(
        "/v1/models/{}{}:{}".format,
        st.sampled_from([*MODELS, *MODELS, "nosuch", "%ff", "%", "a%2Fb", "%00", "%C3%A9"]),
        st.sampled_from(
            ["", "", "", "/versions/1", "/versions/99999999999999999999", "/labels/x", "/versions/-1", "/"]
        ),
        st.sampled_from(["predict", "predict", "classify", "regress", "explain", "PREDICT", "predict?x=1"]),
    ),
    st.sampled_from(["/v1/models", "/v1/models/echo", "/v1/models/echo/metadata", "/v1/", "/v2", "/", "*", "/healthz"]),
)
GZIP = st.sampled_from([*[""] * 8, "good", "cut", "plain", "twice"])


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes, dict[str, str]]:
    path, document = draw(FITTING | st.tuples(PATHS, DOCUMENTS))
    text = json.dumps(document, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    encoding = draw(ENCODINGS)
    body = text.encode(encoding, "surrogatepass" if encoding.startswith("utf") and encoding != "utf-7" else "replace")
    for at, length, piece in draw(st.just([]) | EDITS):
        body = body[:at] + piece + body[at + length :]
    packing = draw(GZIP)
    if packing in ("good", "cut", "twice"):
        body = gzip.compress(body, mtime=0) * (2 if packing == "twice" else 1)
        body = body[: len(body) // 2] if packing == "cut" else body
    verb = draw(st.sampled_from(["POST"] * 20 + ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]))
    headers = {"Content-Encoding": "gzip"} if packing else {}
    return verb, path, body, headers


def test_documents(served: Served) -> None:
    statuses: dict[int, int] = {}

    def check(request: tuple[str, str, bytes, dict[str, str]]) -> None:
        verb, path, body, headers = request
        status, content = served.rest(verb, path, body, headers)
        statuses[status] = statuses.get(status, 0) + 1
        if verb == "POST" and path.startswith("/v1/models/") and content and not content.startswith(b"<HTML>"):
            reply: Any = json.loads(content.decode("utf-8", "surrogateescape"))
            assert (list(reply) == ["error"]) == (status != 200), request
            assert "Traceback" not in str(reply)

    served.drive(st.one_of(requests()), check, 400)
    print(statuses)
    assert statuses[200] > 0 and statuses[400] > 0  # some get through, some do not

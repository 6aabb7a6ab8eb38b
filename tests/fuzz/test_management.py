"""The management API over its Unix socket: to whatever is asked an answer, or a refusal of the form that it describes.
The server is one of its own: what is accepted changes what it serves.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from fuzz.served import Served
from fuzz.test_documents import EDITS, VALUES
from helpers import PATIENCE, StoreServer

NAMES = st.sampled_from(
    ["affine", "affine", "b", "nosuch", "", ".", "..", "%00", "a%2Fb", "%ff", "%C3%A9", "a" * 300, "["]
)
NUMBERS = st.sampled_from([1, 2, 0, -1, 2**31, 2**63, 2**64, 10**30, 1.0, True, None, "1"])
POLICIES = st.one_of(
    st.builds(lambda count: {"latest": {"num_versions": count}}, NUMBERS),
    st.builds(lambda versions: {"specific": {"versions": versions}}, st.lists(NUMBERS, max_size=2) | NUMBERS),
    st.sampled_from([{"all": {}}, {"all": None}, {}, {"latest": None}, {"specific": {}}, {"all": {}, "latest": {}}]),
)
LABELS = st.dictionaries(st.sampled_from(["a", "", "a/b", "a:b", "é", "\x00"]), NUMBERS, max_size=2)
MODELS = st.fixed_dictionaries(
    {},
    optional={
        "base_path": st.sampled_from(["/nosuch", "relative", "", "/\x00", 1, None]),
        "platform": st.sampled_from(["tensorflow", "other", "", 1]),
        "policy": POLICIES,
        "labels": LABELS | VALUES,
        "keep_versions": NUMBERS,
        "other": VALUES,
    },
)
CONFIGS = st.sampled_from(
    [
        "",
        "model_config_list {}",
        'model_config_list { config { name: "b" base_path: "/x" } }',
        "\x00",
        "{" * 5000,
        "a: <",
    ]
)
QUERIES = st.sampled_from(
    ["", "", "?wait=1&timeout=0", "?wait=9", "?wait=-1", "?wait=%C2%B2", "?files=true", "?wait", "?", "?;=&&"]
)
TIMEOUTS = st.sampled_from(["", "&timeout=nan", "&timeout=-inf", "&timeout=-1", "&timeout=x", "&timeout=1e-9"])


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes]:
    method, path, body = draw(
        st.sampled_from(
            [
                ("GET", "state", VALUES),
                ("GET", "models/{}", VALUES),
                ("PUT", "models/{}", MODELS),
                ("DELETE", "models/{}", VALUES),
                ("PUT", "models/{}/policy", POLICIES),
                ("PATCH", "models/{}/labels", LABELS),
                ("GET", "config", VALUES),
                ("PUT", "config", CONFIGS),
                ("POST", "/[/{}", VALUES),
            ]
        )
    )
    query = draw(QUERIES)
    target = "/api/" + path.format(draw(NAMES)) + query + (draw(TIMEOUTS) if "wait=" in query else "")
    written = draw(body)
    data = (written if path == "config" and isinstance(written, str) else json.dumps(written)).encode()
    for at, length, piece in draw(st.just([]) | EDITS):
        data = data[:at] + piece + data[at + length :]
    if not draw(st.integers(0, 20)):
        data = b'{"labels": ' + b"[" * 5000
    return method, target, data


def ask(path: Path, method: str, target: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.settimeout(PATIENCE)
        connection.sock.connect(str(path))
        connection.putrequest(method, target)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_management(start_store: Callable[..., StoreServer], models: Path) -> None:
    process = start_store().wait_until_ready()
    process.register(models / "affine" / "1", "affine", 1)
    served = Served(process)
    statuses: dict[int, int] = {}

    def check(value: tuple[str, str, bytes]) -> None:
        method, target, body = value
        status, content = ask(process.socket, method, target, body)
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500 or status in (501, 503, 504), (value, status, content[:500])
        if status >= 400 and target.startswith("/api/") and not content.startswith(b"<HTML>"):
            refusal: Any = json.loads(content)
            assert set(refusal) == {"message", "remedy"}, (value, content[:500])

    try:
        served.drive(requests(), check, 100)
    finally:
        served.close()
    print(statuses)
    assert statuses[200] > 0 and statuses[400] > 0

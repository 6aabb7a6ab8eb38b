from __future__ import annotations

import shlex
from html.parser import HTMLParser
from typing import Any

import pytest

from jupyter_tfserve.api import Batching, ModelStatus, ServerInfo, Signature, State, VersionStatus
from jupyter_tfserve.kernel.outcomes import Address, ModelReport, Overview, Registered, Said, outside
from jupyter_tfserve.kernel.render import batching_text, crash_words, fixed_batch_warnings

EVIL = "<img src=x onerror=alert(1)>'\"&"


def info(**changes: Any) -> ServerInfo:
    known: ServerInfo = {
        "state": "running",
        "pid": 7,
        "python": "/python",
        "store": "/store",
        "store_id": "1",
        "rest_port": 8501,
        "grpc_port": 8500,
        "host": "127.0.0.1",
        "socket": "/socket",
        "started_at": 1.0,
        "restarts": 0,
        "last_exit": None,
        "notices": [],
        "error": "",
        "remedy": "",
        "token_file": "/run time/token",
    }
    return ServerInfo({**known, **changes})  # type: ignore[typeddict-item]


def signature(*shape: int, dtype: str = "float32") -> Signature:
    tensor = {"dtype": dtype, "shape": list(shape)}
    return Signature(inputs={"x": tensor}, outputs={"y": tensor}, method_name="")  # type: ignore[typeddict-item]


def version(**changes: Any) -> VersionStatus:
    known: VersionStatus = {
        "version": 3,
        "state": "AVAILABLE",
        "error_code": "OK",
        "error_message": "",
        "labels": ["stable"],
        "path": "/store/m/3",
        "since": 1.0,
        "load_seconds": 0.5,
        "in_flight": 0,
    }
    return VersionStatus({**known, **changes})  # type: ignore[typeddict-item]


def batching(**changes: Any) -> Batching:
    known: Batching = {
        "mode": "auto",
        "max_batch_size": 1000,
        "batch_timeout_micros": 0,
        "max_enqueued_batches": 10,
        "num_batch_threads": 2,
        "allowed_batch_sizes": [],
        "pad_variable_length_inputs": False,
        "enable_large_batch_splitting": False,
        "max_execution_batch_size": 0,
        "signatures": {"serving_default": ""},
    }
    return Batching({**known, **changes})  # type: ignore[typeddict-item]


def model(**changes: Any) -> ModelStatus:
    known: ModelStatus = {
        "name": "m",
        "base_path": "/store/m",
        "platform": "tensorflow",
        "policy": {"latest": {"num_versions": 1}},
        "labels": {"stable": 3},
        "keep_versions": 0,
        "versions": [version()],
        "signatures": {"serving_default": signature(-1, 2)},
        "batching": batching(),
        "error": "",
    }
    return ModelStatus({**known, **changes})  # type: ignore[typeddict-item]


def registered(address: Address, **changes: Any) -> Registered:
    known: dict[str, Any] = {
        "name": "m",
        "version": 3,
        "signatures": {"serving_default": signature(-1, 2)},
        "versions": (version(),),
        "labels": {"stable": 3},
        "example": None,
        "path": "/store/m/3",
        "seconds": 1.0,
    }
    return Registered(address=address, **{**known, **changes})


class Checker(HTMLParser):
    """Collects tags; every one that is opened must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name, value)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_html_is_escaped_and_well_formed() -> None:
    address = Address.of(info(), "http://host/" + EVIL)
    bad = model(
        name=EVIL,
        error=EVIL,
        base_path=EVIL,
        labels={EVIL: 3},
        versions=[version(error_message=EVIL)],
        batching=batching(signatures={EVIL: EVIL}),
    )
    state = State(server=info(store=EVIL), versions={}, models=[bad], stored=[EVIL])
    lineage: Any = {"user": EVIL, "host": EVIL, "time": 1.0, "notebook": EVIL, "expression": EVIL, "cell": 2}
    done = registered(
        address, name=EVIL, signatures={EVIL: signature(-1)}, warnings=(EVIL,), example={"instances": [EVIL]}
    )
    for outcome in (
        done,
        Overview(state, address, EVIL),
        ModelReport(bad, address, {3: lineage}, {3: (EVIL,)}, {}),
        Said(EVIL),
    ):
        html = outcome._repr_html_()
        assert not {"img", "script"} & Checker(html).tags
        assert "jp-jupyter-tfserve-card" in html or isinstance(outcome, Said)
        assert EVIL.splitlines()[0] in str(outcome)


def test_batching() -> None:
    said = batching_text(
        model(batching=batching(allowed_batch_sizes=[2, 4], signatures={"mean": "rows depend", "serving_default": ""}))
    )
    assert "auto: requests are merged where" in said
    assert "allowed_batch_sizes [2, 4], batch_timeout_micros 0, max_batch_size 1000" in said
    assert said.splitlines()[-2:] == [" " * 13 + "serving_default: merged", " " * 13 + "mean: not merged, rows depend"]
    off = batching_text(model(batching=batching(mode="off", signatures={"serving_default": "batching is off"})))
    assert off.splitlines() == ["Batching of m", "  batching   off: each request is a run of its own"]


def test_no_colour_is_fixed_for_a_light_page() -> None:
    html = registered(Address.of(info()))._repr_html_()
    assert "background:white" not in html and "#fff" not in html
    assert "var(--jp-" in html


@pytest.mark.parametrize("jupyter", ["", "http://127.0.0.1:8888/base/tfserve"])
def test_curl_never_holds_a_token(jupyter: str) -> None:
    line = Address.of(info(), jupyter).curl("m", '{"instances": ["it\'s"]}')
    words = shlex.split(line)
    assert words[words.index("-d") + 1] == '{"instances": ["it\'s"]}'
    assert ("$JUPYTER_TOKEN" in line) == bool(jupyter)
    assert ("$(cat '/run time/token')" in line) != bool(jupyter)
    assert words[-1] == (jupyter or "http://127.0.0.1:8501") + "/v1/models/m:predict"


def test_curl_line_has_a_body_that_fits_the_signature() -> None:
    address = Address.of(info())
    assert '{"instances": [[0.0, 0.0]]}' in str(registered(address))
    assert '{"instances": [""]}' in str(registered(address, signatures={"s": signature(-1, dtype="string")}))
    wide = str(registered(address, signatures={"s": signature(-1, 28, 28)}))
    assert "@request.json" in wide and "float32 [?, 28, 28]" in wide
    long = str(registered(address, example={"instances": [[0.0] * 1000]}))
    assert "@/store/m/3/assets.extra/tfserve_example.json" in long


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "http://127.0.0.1:8888/user/a%20b/tfserve"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/a%20b/"}, "https://YOUR-JUPYTERHUB/user/a%20b/tfserve"),
        (
            {"JUPYTERHUB_SERVICE_PREFIX": "/user/a%20b/", "JUPYTERHUB_PUBLIC_URL": "https://hub.example/x/user/a%20b/"},
            "https://hub.example/x/user/a%20b/tfserve",
        ),
        (
            {"JUPYTERHUB_SERVICE_PREFIX": "/user/a%20b/", "JUPYTERHUB_HOST": "https://a.hub.example"},
            "https://a.hub.example/user/a%20b/tfserve",
        ),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/other/"}, "http://127.0.0.1:8888/user/a%20b/tfserve"),
    ],
)
def test_url_as_seen_from_outside(environment: dict[str, str], url: str) -> None:
    assert outside("http://127.0.0.1:8888/user/a%20b/tfserve", environment) == url


def test_fixed_batch() -> None:
    assert fixed_batch_warnings({"s": signature(-1, 2), "t": signature()}) == []
    (warning,) = fixed_batch_warnings({"s": signature(32, 2)})
    assert "exactly 32 rows" in warning and "None" in warning


@pytest.mark.parametrize(
    ("state", "words"),
    [("running", "restarted and serves again"), ("restarting", "being restarted"), ("failed", "no memory")],
)
def test_crash(state: str, words: str) -> None:
    last = {"reason": "was killed by SIGKILL (out of memory, or by hand)", "time": 1.0, "log_tail": ""}
    said = crash_words(info(state=state, last_exit=last, error="no memory"))
    assert said.startswith("The model server was killed by SIGKILL") and words in said
    assert crash_words(info()) == ""

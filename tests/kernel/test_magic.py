"""%tfserve in a real kernel that no Jupyter Server started."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import nbformat
import psutil
import pytest

from .conftest import Kernel


@pytest.fixture(scope="module")
def kernel(kernel: Kernel) -> Iterator[Kernel]:
    """With what the cells below talk of."""
    kernel.run("%load_ext jupyter_tfserve\nimport os\nfrom jupyter_tfserve import connect")
    kernel.run("import numpy as np\ndef double(x): return x * 2.0\nrows = np.array([1.0, 2.0], np.float32)")
    yield kernel


def test_register_shows_a_card(kernel: Kernel) -> None:
    cell = kernel.run("%tfserve double double --example rows --label stable")
    why, card, *notices = cell.shown
    assert all("was taken" in notice["text/plain"] for notice in notices)
    assert "this kernel owns" in why["text/plain"]
    html, text = card["text/html"], card["text/plain"]
    assert re.search(r"double version \d+ is served", text)
    assert "x: float32 [?]" in html and "x: float32 [?]" in text
    assert '{"instances": [1.0]}' in text
    assert "(stable)" in text
    assert "<script" not in html and "aria-label" in html
    curl = next(line for line in text.splitlines() if "curl -s" in line).split(maxsplit=1)[1]
    token_file = re.search(r"\$\(cat ([^)]*)\)", curl)
    assert token_file is not None
    assert Path(token_file[1]).read_text() not in text + html, "the token's value was shown"
    answer = subprocess.run(curl, shell=True, capture_output=True, timeout=30, check=True).stdout
    assert json.loads(answer) == {"predictions": [2.0]}
    # Told once.
    assert len(kernel.run("%tfserve status double").shown) == 1


def test_predict_returns_arrays(kernel: Kernel) -> None:
    assert "array([2., 4.])" in kernel.run("%tfserve predict double rows").text
    assert "array([6.])" in kernel.run("%tfserve predict double [x + 1 for x in [2.0]] --label stable").text
    kernel.run("answer = %tfserve predict double {'x': rows}\nassert answer.tolist() == [2.0, 4.0]")
    kernel.run(
        "def inner(v):\n    here = %tfserve predict double v\n    return here\nassert inner([5.0]).tolist() == [10.0]"
    )


def test_predict_cell(kernel: Kernel) -> None:
    cell = kernel.run('%%tfserve predict double\n{"instances": [1.5]}')
    assert cell.shown[0]["application/json"] == {"predictions": [3.0]}
    assert json.loads(cell.shown[0]["text/plain"]) == {"predictions": [3.0]}
    assert "not JSON" in kernel.run("%%tfserve predict double\n{'instances': [1.5]}", fails=True).error[0]


def test_overview_and_status(kernel: Kernel) -> None:
    assert "double" in kernel.run("%tfserve").text
    report = kernel.run("%tfserve double").text
    assert "AVAILABLE" in report and "cell [" in report and "executed_cells.ipynb" in report
    cells = re.search(r"\S*executed_cells.ipynb", report)
    assert cells is not None
    sources = [cell.source for cell in nbformat.read(cells[0], as_version=4).cells]
    assert "%tfserve double double --example rows --label stable" in sources


def test_labels_versions_and_config(kernel: Kernel) -> None:
    kernel.run("%tfserve double double --example rows --version {4 * 10**9}")
    assert "Labels of double: canary=4000000000" in kernel.run("%tfserve label double canary=4000000000 stable=").text
    assert "newest 2 versions" in kernel.run("%tfserve versions double --latest 2").text
    assert "all versions" in kernel.run("%tfserve versions double --all").text
    kernel.run("v = 4 * 10**9")
    assert "served versions: 4000000000" in kernel.run("%tfserve versions double --only $v").text
    text = kernel.run("%tfserve config").printed
    assert "specific" in text and "canary" in text
    assert "double" in kernel.run(f"%%tfserve config\n{text.replace('canary', 'beta')}").text
    assert "beta" in kernel.run("%%tfserve config\n\n").printed
    assert kernel.run("%%tfserve config\nmodel_config_list { config { nonsense } }", fails=True).error


def test_batching(kernel: Kernel) -> None:
    shown = kernel.run("%tfserve batching double").text
    assert "auto: requests are merged where" in shown and "serving_default: merged" in shown
    assert "max_batch_size 1000" in shown
    shown = kernel.run("%tfserve batching double --max-batch-size 8 --timeout 500 --allowed-sizes 2,4,8 on").text
    assert "on: requests are merged" in shown
    assert "allowed_batch_sizes [2, 4, 8], batch_timeout_micros 500, max_batch_size 8" in " ".join(shown.split())
    assert "array([2., 4.])" in kernel.run("%tfserve predict double rows").text
    assert "max_batch_size 8" in kernel.run("%tfserve status double").text
    refused = kernel.run("%tfserve batching double --max-batch-size 4", fails=True)
    assert "Last entry in allowed_batch_sizes must match max_batch_size" in refused.error[0]
    assert "off: each request" in kernel.run("%tfserve batching double off").text
    kernel.run("n = 3")
    shown = kernel.run("%tfserve batching double auto --allowed-sizes default --max-batch-size default --queue $n").text
    assert "max_batch_size 1000, max_enqueued_batches 3" in shown and "allowed_batch_sizes" not in shown
    kernel.run(
        "done = connect().set_batching('double', {'mode': 'on', 'max_enqueued_batches': None})['batching']\n"
        "assert (done['mode'], done['max_enqueued_batches']) == ('on', 10), done"
    )
    kernel.run("%tfserve batching double auto")
    for line, words in (
        ("%tfserve batching double of", "'of' is no way to batch"),
        ("%tfserve batching", "needs a name"),
        ("%tfserve batching double --threads many", "whole number"),
        ("%tfserve batching nobody", "no model 'nobody'"),
    ):
        assert words in kernel.run(line, fails=True).error[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%tfserve statsu", "Did you mean `%tfserve status`"),
        ("%tfserve net modle", "no variable 'modle'"),
        ("%tfserve net doubel", "Did you mean 'double'"),
        ("%tfserve net double", "--example"),
        ("%tfserve bad/name double --example rows", "for example 'bad_name'"),
        ("%tfserve predict nobody rows", "nobody"),
        ("%tfserve net 3", "A int cannot be exported"),
        ("%tfserve net ./nowhere", "nothing at"),
        ("%tfserve label double canary=x", "whole number"),
        ("%tfserve net double --exmaple rows", "Did you mean --example"),
        ("%%tfserve status\nx", "takes no cell"),
    ],
)
def test_errors_are_plain_and_fail_the_cell(kernel: Kernel, line: str, words: str) -> None:
    cell = kernel.run(line, fails=True)
    assert words in " ".join(cell.error)
    assert "Traceback" not in "".join(cell.error) and 'File "' not in "".join(cell.error)
    assert len(cell.error) == 2, "a message and a remedy"


def test_what_the_users_own_code_raises_keeps_its_traceback(kernel: Kernel) -> None:
    kernel.run("def bad(): return 1 / 0")
    cell = kernel.run("%tfserve net bad()", fails=True)
    assert cell.reply["ename"] == "ZeroDivisionError"
    assert "1 / 0" in re.sub(r"\x1b\[[0-9;]*m", "", "".join(cell.error))


def test_paths_need_no_quotes(kernel: Kernel) -> None:
    kernel.run("import tensorflow as tf, os\ntf.saved_model.save(tf.Module(), 'empty')")
    kernel.run("from jupyter_tfserve.kernel.export import export; from pathlib import Path")
    kernel.run("os.makedirs('nets/one'); export(double, Path('nets/one'), example=rows)")
    for path in ("nets/one", "./nets/one", "'nets/one'", "Path('nets') / 'one'", "{'a': './nets/one'}['a']"):
        assert "is served" in kernel.run(f"%tfserve one {path}").text
    assert "is removed" in kernel.run("%tfserve remove one").text


def test_unload_and_register_again(kernel: Kernel) -> None:
    kernel.run("%tfserve status_of double --example rows")
    assert "%tfserve register status_of" in kernel.run("%tfserve unload status_of").text
    assert "`%tfserve register NAME` serves it again" in kernel.run("%tfserve").text
    assert "register status_of" in kernel.run("%tfserve status_of", fails=True).error[1]
    assert "is served" in kernel.run("%tfserve register status_of").text
    kernel.run("%tfserve register status double --example rows")
    assert "array([2., 4.])" in kernel.run("%tfserve predict status rows").text


def test_interrupt_leaves_nothing(kernel: Kernel) -> None:
    """The interrupt comes while TensorFlow traces the function."""
    kernel.run("def slow(x):\n    print('tracing')\n    import time; time.sleep(60)\n    return x")
    kernel.client.execute("%tfserve slow slow --example rows")
    while True:
        message = kernel.client.get_iopub_msg(timeout=60)
        if message["msg_type"] == "stream" and "tracing" in message["content"]["text"]:
            break
    kernel.manager.interrupt_kernel()
    while kernel.client.get_iopub_msg(timeout=60)["content"].get("execution_state") != "idle":
        pass
    kernel.client.get_shell_msg(timeout=60)
    kernel.run(
        "store = connect().store()\n"
        "assert not os.listdir(store.staging) and 'slow' not in store.names(), os.listdir(store.root)"
    )


def test_python_interface(kernel: Kernel) -> None:
    text = kernel.run(
        "done = connect().register('by_hand', double, example=rows, labels=['stable'])\n"
        "assert connect() is connect() and done.labels == {'stable': done.version}\n"
        "assert connect().predict('by_hand', rows).tolist() == [2.0, 4.0]\ndone"
    ).text
    assert "by_hand version" in text


def test_completion_and_help(kernel: Kernel) -> None:
    def complete(code: str) -> list[str]:
        matches: list[str] = kernel.client.complete(code, reply=True, timeout=30)["content"]["matches"]
        return matches

    assert "status" in complete("%tfserve sta")
    assert "by_hand" in complete("%tfserve status by")
    assert "--example" in complete("%tfserve net double --ex")
    assert "double" in complete("%tfserve net doub")
    reply = kernel.client.inspect("%tfserve", reply=True, timeout=30)["content"]
    assert "predict NAME EXPR" in reply["data"]["text/plain"]


def test_server_verbs(kernel: Kernel) -> None:
    assert len(kernel.run("%tfserve logs --lines 3").printed.splitlines()) == 3
    assert "is stopped" in kernel.run("%tfserve stop").text
    assert "%tfserve start" in kernel.run("%tfserve predict double rows", fails=True).error[1]
    overview = kernel.run("%tfserve").text
    assert "Model server: stopped" in overview and "In the store, not served" in overview
    assert "runs as process" in kernel.run("%tfserve start").text
    assert "array([2., 4.])" in kernel.run("%tfserve predict double rows").text


def test_panel(kernel: Kernel) -> None:
    """It is a widget, also in a kernel that owns its model server; asked for again it is the same one."""
    shown = kernel.run("%tfserve panel").shown[-1]
    first = shown["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert kernel.run("%tfserve panel").shown[-1]["application/vnd.jupyter.widget-view+json"]["model_id"] == first
    kernel.run("from jupyter_tfserve import Panel; panel = Panel.of(''); assert panel.following")
    wait = "while panel.server == 'starting':\n  assert time.time() < end\n  time.sleep(0.05)"
    kernel.run(f"import time; end = time.time() + 60\n{wait}")
    kernel.run("panel.close(); assert panel.comm is None")


def test_killed_kernel_takes_its_model_server_along(kernel: Kernel) -> None:
    """Last: it ends the kernel."""
    pid = int(kernel.run("print(connect().info()['pid'])").printed)
    url = kernel.run("print(connect().url)").printed.strip()
    assert httpx.get(f"{url}/v1/models/double", timeout=10).status_code in (200, 401, 403)
    server = psutil.Process(pid)
    kernel_pid = int(kernel.run("print(os.getpid())").printed)
    os.kill(kernel_pid, signal.SIGKILL)
    began = time.monotonic()
    psutil.wait_procs([server], timeout=10)
    assert not server.is_running()
    assert time.monotonic() - began < 4


def test_terminal(environment: Path, tmp_path: Path, saved_model: Path) -> None:
    """Plain IPython: text, and nothing left behind at its end."""
    script = tmp_path / "script.ipy"
    script.write_text(
        f"%load_ext jupyter_tfserve\n%tfserve double {saved_model}\n%tfserve\n"
        "from jupyter_tfserve import connect\nprint('PID', connect().info()['pid'])\n%tfserve nonsense\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--colors=nocolor", str(script)],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
    )
    assert "double version" in done.stdout and "curl -s" in done.stdout
    assert "<section" not in done.stdout
    assert "neither a verb nor a model" in done.stdout + done.stderr
    pid = re.search(r"PID (\d+)", done.stdout)
    assert pid is not None
    assert not psutil.pid_exists(int(pid[1]))
    assert not list((environment / "runtime").glob("tfserve-kernel-*"))

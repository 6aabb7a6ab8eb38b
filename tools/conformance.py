"""The wire conformance suite against this checkout: on the model server's own ports, on those of a front whose models
are in worker processes, and through a Jupyter Server under a base URL, with a token. `make conformance` runs it;
CONFORMANCE says where the suite is.

Fails if a case fails that is not a quirk (what only TensorFlow Serving's code promises); quirks are counted apart.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers import wait_for  # noqa: E402
from jupyter_process import JupyterServer  # noqa: E402

#: A prefix as a Hub gives it, with what must be quoted.
BASE_URL = "/user/ann%20b/"

#: A group's line in the table that the suite ends with.
_GROUP = re.compile(r"^([a-z-]+) +(\d+) passed +(\d+) failed +(\d+) skipped$")

_OUTCOMES = ("passed", "failed", "skipped")

Table = dict[str, Counter[str]]


class Suite:
    """The suite's own `run`, with our interpreter."""

    def __init__(self, folder: Path, more: list[str]) -> None:
        self._run = folder / "run"
        self._more = ["-q", "--tb=short", "-p", "no:cacheprovider", *more]
        self._environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "-1"}

    def __call__(self, *arguments: str, quirks: bool, **variables: str) -> tuple[Table, list[str]]:
        """Runs the cases that are quirks or those that are not; the outcomes by group, and the names of what failed."""
        command = [str(self._run), *arguments, "-m", "quirk" if quirks else "not quirk", *self._more]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**self._environment, **variables}, errors="replace"
        )
        assert process.stdout is not None
        table: Table = {}
        failed: list[str] = []
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            if line.strip() == "all together":  # the same once more
                break
            if match := _GROUP.match(line.strip()):
                counts = Counter({name: int(count) for name, count in zip(_OUTCOMES, match.groups()[1:], strict=True)})
                table[match[1]] = table.get(match[1], Counter()) + counts
            elif line.startswith(("FAILED ", "ERROR ")):
                failed.append(line.split(" ", 2)[1])
        process.stdout.read()
        if process.wait() not in (0, 1):
            raise SystemExit(f"The suite itself failed: {' '.join(command)}")
        return table, failed

    def prepared(self) -> tuple[Path, list[str]]:
        """Its configuration folder and the flags that a server needs, ports left out."""
        said = subprocess.run(
            [self._run, "--prepare"], stdout=subprocess.PIPE, text=True, check=True, env=self._environment
        ).stdout
        folder = Path(re.search(r"^configuration: (.+)$", said, re.MULTILINE)[1])  # type: ignore[index]
        flags = (folder / "flags.txt").read_text().split("\n")
        return folder, [
            flag for flag in flags if flag and not re.match("--(port|rest_api_port|model_config_file)=", flag)
        ]


def direct(suite: Suite, quirks: bool) -> tuple[Table, list[str]]:
    """The suite starts `tfserve` itself."""
    return suite("--server", f"{sys.executable} -m jupyter_tfserve.model_server", quirks=quirks)


def front(suite: Suite, quirks: bool) -> tuple[Table, list[str]]:
    """The same with a worker process for each device."""
    command = f"{sys.executable} -m jupyter_tfserve.model_server --isolation=device --workers=always"
    return suite("--server", command, quirks=quirks)


def through_jupyter(suite: Suite, quirks: bool) -> tuple[Table, list[str]]:
    """Two Jupyter Servers whose store holds the suite's models: a plain one, and one whose model server batches."""
    table: Table = {}
    failed: list[str] = []
    for batching in (False, True):
        found, names = _one_jupyter(suite, quirks, batching)
        table |= {group: table.get(group, Counter()) + counts for group, counts in found.items()}
        failed += names
    return table, failed


def _one_jupyter(suite: Suite, quirks: bool, batching: bool) -> tuple[Table, list[str]]:
    configuration, flags = suite.prepared()
    if batching:
        flags += ["--enable_batching", f"--batching_parameters_file={configuration / 'batching.config'}"]
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        store = Path(folder, "store")
        store.mkdir()
        (store / "models.config").write_bytes((configuration / "models.config").read_bytes())
        jupyter = JupyterServer(
            Path(folder), *(f"--TFServe.model_server_flags={flag}" for flag in flags), base_url=BASE_URL
        )
        try:
            jupyter.wait_until_ready()
            info = jupyter.wait_running()
            wait_for(
                "the models to be loaded",
                lambda: jupyter.call("GET", "/tfserve/v1/models/half_plus_two/metadata").status == 200,
            )
            return suite(
                f"http://127.0.0.1:{jupyter.port}{BASE_URL}tfserve",
                f"127.0.0.1:{info['grpc_port']}",
                quirks=quirks,
                TFS_TOKEN=jupyter.token,
                TFS_BATCHING="1" if batching else "",
            )
        finally:
            jupyter.end()
            jupyter.close()


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path, help="the suite's folder")
    parser.add_argument("--only", choices=("direct", "front", "jupyter"), help="one of the ways")
    parser.add_argument("--no-quirks", action="store_true", help="leave the quirks out")
    known, more = parser.parse_known_args()
    if not (known.suite / "run").exists():
        sys.stderr.write(
            f"There is no conformance suite at {known.suite.resolve()}: its cases are not part of this repository. "
            "Say where they are:  make conformance CONFORMANCE=/path/to/conformance\n"
        )
        return 2
    suite = Suite(known.suite.resolve(), more)
    ways = {"direct": direct, "front": front, "jupyter": through_jupyter}
    lines: list[str] = []
    status = 0
    for way in [known.only] if known.only else ways:
        for quirks in (False,) if known.no_quirks else (False, True):
            table, failed = ways[way](suite, quirks)
            total = sum(table.values(), Counter())
            if not quirks and (failed or not (total["passed"] or more)):
                status = 1
            counts = ", ".join(f"{total[name]} {name}" for name in _OUTCOMES)
            lines.append(f"{way:<8} {'quirks' if quirks else 'all that counts':<16} {counts}")
            lines += [f"         {name}" for name in failed]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Writes docs/flags.md from the flags themselves: `python docs/flags_page.py`. A test keeps the page up to date."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from jupyter_tfserve.model_server import flags

#: Defaults that depend on the machine.
BY_CORES = {"rest_api_num_threads": "4 x cores", "grpc_max_threads": "4 x cores", "num_tflite_pools": "cores"}

HEAD = """\
<!-- Written by docs/flags_page.py: change the help texts in jupyter_tfserve/model_server/flags.py instead. -->

# Flags of tfserve

`tfserve` takes tensorflow_model_server's flags with the same names and defaults, so that a command line moves between
the two unchanged. A flag is written `--name=value` or `--name value`; a boolean one may stand alone.

Two things differ on purpose. Without `--host` the ports are opened on 127.0.0.1 only. And an unknown flag ends the
program with status 2, naming the closest one there is. [What else differs](tensorflow-serving.md).
"""


def page() -> str:
    """The whole page."""
    actions = [action for action in flags._parser()._actions if action.dest != "help"]
    first_of_ours = next(i for i, action in enumerate(actions) if action.dest == "host")
    folder = Path(flags.__file__).parent
    source = "".join(path.read_text() for path in sorted(folder.rglob("*.py")) if path.name != "flags.py")

    def rows(some: list[argparse.Action]) -> str:
        lines = ["| flag | default | meaning |", "|---|---|---|"]
        for action in some:
            name, default = action.dest, action.default
            written = BY_CORES.get(name) or (str(default).lower() if isinstance(default, bool) else str(default))
            meaning = re.sub(r" \(default: .*\)$", "", action.help or "")
            if name not in flags.WITHOUT_EFFECT and not re.search(rf"flags\.{name}\b", source):
                raise RuntimeError(f"--{name} is read by nothing: act upon it, or list it in WITHOUT_EFFECT.")
            lines.append(f"| `{name}` | {f'`{written}`' if written else ''} | {meaning.removeprefix('no effect: ')} |")
        return "\n".join(lines)

    stock = [action for action in actions[:first_of_ours] if action.dest not in flags.WITHOUT_EFFECT]
    without = [action for action in actions[:first_of_ours] if action.dest in flags.WITHOUT_EFFECT]
    return (
        f"{HEAD}\n## TensorFlow Serving's\n\n{rows(stock)}\n\n"
        f"## Without effect here\n\nTensorFlow Serving's too; the log says once that they do nothing, and why.\n\n"
        f"{rows(without)}\n\n## Ours\n\n{rows(actions[first_of_ours:])}\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("flags.md").write_text(page())

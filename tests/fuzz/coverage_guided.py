"""The coverage-guided fuzzer: ``python tests/fuzz/coverage_guided.py SECONDS [TARGET...]``, by `make fuzz`.

Runs each target (`targets.py`) for its share of the time under atheris (libFuzzer), in a process of its own. A finding
ends its target; its input is printed, and the program ends with 1.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

#: Of an input: long enough for every construct, short enough for thousands of runs a second.
LONGEST = 2048


def fuzz(name: str, corpus: Path, seconds: int) -> None:
    """In the process of one target; does not return."""
    import atheris

    with atheris.instrument_imports(include=["jupyter_tfserve.model_server", "google.protobuf.text_format"]):
        from fuzz.targets import TARGETS

    from fuzz.seeds import FOUND, PIECES, SEEDS

    for number, data in enumerate(SEEDS[name] + FOUND[name]):
        (corpus / f"seed-{number}").write_bytes(data)
    words = corpus.parent / "words"
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in piece) + '"\n' for piece in PIECES))
    arguments = [
        str(corpus),
        f"-dict={words}",
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        "-timeout=20",
        "-rss_limit_mb=4096",
        f"-artifact_prefix={corpus.parent}/",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def main(seconds: int, names: list[str]) -> int:
    """All targets one after the other; returns the number of those with a finding."""
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is missing: pip install -e '.[fuzz]' (wheels for Linux, Python 3.11 to 3.13)")
        return 1
    findings = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder, "corpus")
            corpus.mkdir()
            command = [sys.executable, __file__, "--target", name, str(corpus), str(max(1, seconds // len(names)))]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
            runs = re.findall(r"number_of_executed_units:\s*(\d+)", done.stdout)
            kept = len(list(corpus.iterdir()))
            print(f"{name}: {runs[-1] if runs else '?'} executions, {kept} inputs kept", flush=True)
            if done.returncode:
                findings += 1
                print(done.stdout[-6000:])
                for found in Path(folder).glob("*-*"):
                    print(f"{found.name}: base64 {base64.b64encode(found.read_bytes()).decode()}", flush=True)
    print(f"{findings} findings")
    return findings


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if sys.argv[1] == "--target":
        fuzz(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        from fuzz.targets import TARGETS

        sys.exit(main(int(sys.argv[1]), sys.argv[2:] or list(TARGETS)))

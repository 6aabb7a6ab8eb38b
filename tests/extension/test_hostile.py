"""Uploaded SavedModels are refused for what they could do; real ones, written by TensorFlow in another process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

from jupyter_tfserve.extension import hostile
from jupyter_tfserve.extension.hostile import Hostile

MAKE = """
import sys
import tensorflow as tf
from pathlib import Path

root = Path(sys.argv[1])
text = [tf.TensorSpec([], tf.string, name="path")]
floats = [tf.TensorSpec([None], tf.float32, name="x")]

def save(name, function, signature=text, **state):
    module = tf.Module()
    for key, value in state.items():
        setattr(module, key, value)
    concrete = tf.function(function, input_signature=signature).get_concrete_function()
    tf.saved_model.save(module, str(root / name), signatures=concrete)

variable = tf.Variable([1.0])
save("fine", lambda x: {"y": x + variable}, floats, v=variable)
count = lambda: tf.while_loop(lambda i: i < 3, lambda i: i + 1, [tf.constant(0)])[0]
save("loops", lambda x: {"y": count() + tf.cast(x, tf.int32)}, floats)
save("ReadFile", lambda path: {"y": tf.io.read_file(path)})
save("WriteFile", lambda path: {"y": tf.cond(tf.strings.length(path) > 0,
     lambda: (tf.io.write_file(path, "x"), 1)[1], lambda: 0)})
save("MatchingFiles", lambda path: {"y": tf.io.matching_files(path)})
save("EagerPyFunc", lambda path: {"y": tf.py_function(lambda p: p, [path], tf.string)})
one = dict(tensor_names=["a"], shape_and_slices=[""])
save("SaveV2", lambda path: {"y": (tf.raw_ops.SaveV2(prefix=path, tensors=[path], **one), path)[1]})
save("RestoreV2", lambda path: {"y": tf.raw_ops.RestoreV2(prefix=path, dtypes=[tf.float32], **one)[0]})
save("TextLineDataset", lambda path: {"y": tf.data.TextLineDataset(path).reduce(b"", lambda a, b: a + b)})
save("PrintV2", lambda path: {"y": (tf.print(path, output_stream="file:///tmp/x"), path)[1]})
table = tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer(str(root / "words.txt"), tf.string,
    tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER), -1)
save("InitializeTableFromTextFileV2", lambda path: {"y": table.lookup(path)}, table=table)
"""

REFUSED = (
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "EagerPyFunc",
    "SaveV2",
    "RestoreV2",
    "TextLineDataset",
    "PrintV2",
    "InitializeTableFromTextFileV2",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "words.txt").write_text("a\nb\n")
    done = subprocess.run([sys.executable, "-c", MAKE, folder], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["fine", "loops"])
def test_what_a_model_needs_is_let_through(made: Path, name: str) -> None:
    hostile.check(made / name, frozenset())


@pytest.mark.parametrize("name", REFUSED)
def test_ops_are_refused_and_named(made: Path, name: str) -> None:
    with pytest.raises(Hostile) as refused:
        hostile.check(made / name, frozenset())
    named = set(re.findall(r"\w+", refused.value.message.partition(": ")[2]))
    assert name in named
    assert "allowed_ops" in refused.value.remedy
    hostile.check(made / name, frozenset(named))


def test_the_models_of_the_other_tests(models: Path) -> None:
    for name in ("affine", "several", "echo", "tf1", "keras_export", "keras_saved", "big"):
        hostile.check(models / name / "1", frozenset())
    with pytest.raises(Hostile, match="MatchingFiles, WriteFile"):
        hostile.check(models / "gated" / "1", frozenset())


def test_what_cannot_be_read_is_refused(made: Path, tmp_path: Path) -> None:
    graph = (made / "ReadFile" / "saved_model.pb").read_bytes()
    hostile.check(tmp_path, frozenset())  # no SavedModel at all
    for content in (graph[: len(graph) // 2], b"\x12\xff", b"\x13\x14", b"\xff" * 100):
        (tmp_path / "saved_model.pb").write_bytes(content)
        with pytest.raises(Hostile, match="no SavedModel"):
            hostile.check(tmp_path, frozenset())
    for name in ("saved_model.pbtxt", "saved_model.cpb"):
        (tmp_path / "saved_model.pb").write_bytes((made / "fine" / "saved_model.pb").read_bytes())
        (tmp_path / name).write_text("")
        with pytest.raises(Hostile, match=name):
            hostile.check(tmp_path, frozenset())
        (tmp_path / name).unlink()

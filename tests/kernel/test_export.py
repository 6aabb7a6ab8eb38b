from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from jupyter_tfserve.kernel.errors import ExportError, KernelError
from jupyter_tfserve.kernel.export import export, is_base_path, read_example

ROWS = np.array([1.0, 2.0], np.float32)


def ask(folder: Path, signature: str = "serving_default", **inputs: Any) -> dict[str, Any]:
    """Run a signature in a TF1 session: what stock TensorFlow Serving does."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        found = meta.signature_def[signature]
        feed = {found.inputs[name].name: value for name, value in inputs.items()}
        answer: dict[str, Any] = session.run({name: info.name for name, info in found.outputs.items()}, feed)
        return answer


def shapes(folder: Path, signature: str = "serving_default") -> dict[str, list[int]]:
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        return {
            name: [size.size for size in info.tensor_shape.dim]
            for name, info in meta.signature_def[signature].inputs.items()
        }


class Scale(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        self.factor = tf.Variable(2.0)
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [7]), -1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])  # type: ignore[untyped-decorator]
    def predict(self, x: Any) -> Any:
        return {"y": x * self.factor}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])  # type: ignore[untyped-decorator]
    def find(self, word: Any) -> Any:
        return {"id": self.table.lookup(word)}

    def add(self, x: Any, y: Any) -> Any:
        return x * self.factor + y


def small_keras() -> Any:
    import keras

    return keras.Sequential([keras.Input([3]), keras.layers.Dense(2, kernel_initializer="ones")])


def test_keras_model(tmp_path: Path) -> None:
    done = export(small_keras(), tmp_path, example=np.ones((5, 3)))
    assert done.kind == "Keras model"
    assert done.example == read_example(tmp_path) == {"instances": [[1.0, 1.0, 1.0]]}
    ((name, shape),) = shapes(tmp_path).items()
    assert shape == [-1, 3]
    assert ask(tmp_path, **{name: np.ones((4, 3), np.float32)})["output_0"].tolist() == [[3.0, 3.0]] * 4


def test_keras_model_with_more_signatures(tmp_path: Path) -> None:
    model = small_keras()
    export(model, tmp_path, signatures={"twice": lambda x: {"y": 2 * model(x)}})
    ((name, _),) = shapes(tmp_path, "twice").items()
    assert ask(tmp_path, "twice", **{name: np.ones((1, 3), np.float32)})["y"].tolist() == [[6.0, 6.0]]
    assert shapes(tmp_path)


def test_keras_model_that_was_never_called(tmp_path: Path) -> None:
    import keras

    with pytest.raises(ExportError, match="not been built") as caught:
        export(keras.Sequential([keras.layers.Dense(2)]), tmp_path)
    assert "--example" in caught.value.remedy
    export(keras.Sequential([keras.layers.Dense(2)]), tmp_path, example=np.ones((2, 3), np.float32))
    assert next(iter(shapes(tmp_path).values())) == [-1, 3]


def test_keras_model_with_python_inside(tmp_path: Path) -> None:
    import keras

    class Mean(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return tf.constant(np.asarray(x).mean(axis=-1))

    model = Mean()
    model(np.ones((1, 3), np.float32))
    with pytest.raises(ExportError, match="Keras could not export this Mean") as caught:
        export(model, tmp_path)
    assert "keras.ops" in caught.value.remedy


def test_module_with_declared_methods(tmp_path: Path) -> None:
    done = export(Scale(), tmp_path)
    assert (done.kind, done.example) == ("tf.Module", None)
    assert ask(tmp_path, x=ROWS)["y"].tolist() == [2.0, 4.0]
    # A lookup table is not a variable: it is found in the module.
    assert ask(tmp_path, "find", word=np.array(["a", "b"], object))["id"].tolist() == [7, -1]


def test_module_with_a_named_method(tmp_path: Path) -> None:
    done = export(Scale(), tmp_path, signatures={"add": None}, example=(ROWS, ROWS))
    assert done.example == {"inputs": {"x": [1.0], "y": [1.0]}}
    assert shapes(tmp_path) == shapes(tmp_path, "add") == {"x": [-1], "y": [-1]}
    assert ask(tmp_path, x=ROWS, y=ROWS)["output_0"].tolist() == [3.0, 6.0]


@pytest.mark.parametrize("signatures", [{}, {"nothing": None}, {"add": None}, {"add": 3}])
def test_module_that_does_not_say_what_to_serve(tmp_path: Path, signatures: dict[str, Any]) -> None:
    class Plain(tf.Module):  # type: ignore[misc]
        def add(self, x: Any) -> Any:
            return x

    with pytest.raises(ExportError) as caught:
        export(Plain(), tmp_path, signatures=signatures)
    assert caught.value.remedy


def test_module_that_holds_a_keras_model_loads_in_a_session(tmp_path: Path) -> None:
    """`tf.saved_model.save(module)` would write one that a TF1 session cannot initialise."""

    class Holder(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.model = small_keras()

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return self.model(x)

    export(Holder(), tmp_path)
    assert ask(tmp_path, x=np.ones((1, 3), np.float32))["output_0"].tolist() == [[3.0, 3.0]]


def test_function_with_variables_of_its_surroundings(tmp_path: Path) -> None:
    factor = tf.Variable(3.0)

    @tf.function  # type: ignore[untyped-decorator]
    def scale(x: Any) -> Any:
        return x * factor

    with pytest.raises(ExportError, match="types of the inputs") as caught:
        export(scale, tmp_path)
    assert "--example" in caught.value.remedy
    export(scale, tmp_path, example=ROWS)
    assert shapes(tmp_path) == {"x": [-1]}
    assert ask(tmp_path, x=np.ones(3, np.float32))["output_0"].tolist() == [3.0, 3.0, 3.0]


def test_concrete_function(tmp_path: Path) -> None:
    concrete = tf.function(lambda x: x + 1.0).get_concrete_function(tf.TensorSpec([None], tf.float32))
    export(concrete, tmp_path)
    assert ask(tmp_path, x=ROWS)["output_0"].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("function", "example", "inputs"),
    [
        (lambda x: x + 1, [1.0, 2.0], {"x": [-1]}),
        (lambda x, y: x + y, (ROWS, ROWS), {"x": [-1], "y": [-1]}),
        (lambda x, y: x + y, {"x": ROWS, "y": ROWS}, {"x": [-1], "y": [-1]}),
        (lambda columns: columns["a"] + columns["b"], {"a": ROWS, "b": ROWS}, {"a": [-1], "b": [-1]}),
        (lambda image: tf.reduce_sum(image, [1, 2]), np.zeros((1, 4, 4)), {"image": [-1, 4, 4]}),
    ],
)
def test_python_function(tmp_path: Path, function: Any, example: Any, inputs: dict[str, list[int]]) -> None:
    assert export(function, tmp_path, example=example).kind == "Python function"
    assert shapes(tmp_path) == inputs


def test_function_that_counts_its_rows_is_exported_for_that_many(tmp_path: Path) -> None:
    done = export(lambda x: tf.reshape(x, [int(x.shape[0]), 1]), tmp_path, example=ROWS)
    assert shapes(tmp_path) == {"x": [2]}
    assert done.example == {"instances": [1.0, 2.0]}, "an example with another number of rows would be refused"


def test_function_that_is_not_made_of_tensors(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="could not be traced") as caught:
        export(lambda x: np.asarray(x).sum(), tmp_path, example=ROWS)
    assert "TensorFlow operations" in caught.value.remedy


def test_example_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="takes 1"):
        export(lambda x: x, tmp_path, example=(1, 2))
    with pytest.raises(ExportError, match="not a tensor"):
        export(lambda x: x, tmp_path, example=object())


def test_saved_model_from_disk_and_back(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    for folder in (first, second, third):
        folder.mkdir()
    export(Scale(), first)
    (first / "link").symlink_to(tmp_path)
    (first / "link").unlink()
    assert export(str(first), second).kind == "SavedModel"
    assert ask(second, x=ROWS)["y"].tolist() == [2.0, 4.0]
    assert export(tf.saved_model.load(str(second)), third).kind == "loaded SavedModel"
    assert ask(third, x=ROWS)["y"].tolist() == [2.0, 4.0]


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base" / "3").mkdir(parents=True)
    (tmp_path / "base" / "3" / "saved_model.pb").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "net.keras").touch()
    assert is_base_path(tmp_path / "base")
    assert not is_base_path(tmp_path / "base" / "3")
    monkeypatch.chdir(tmp_path)
    for path, message in [
        ("nothing", "nothing at"),
        ("empty", "neither saved_model.pb nor version folders"),
        ("net.keras", "Keras archive"),
        ("gs://bucket/model", "not a folder of this machine"),
        ("base", "several versions"),
    ]:
        with pytest.raises(ExportError, match=message) as caught:
            export(path, tmp_path / "empty")
        assert caught.value.remedy


def test_full_disk_is_said_before_the_copy(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with open(tmp_path / "model" / "saved_model.pb", "wb") as file:
        # A hole: it needs no space until somebody copies it.
        file.truncate(shutil.disk_usage(tmp_path).free + 10**9)
    (tmp_path / "to").mkdir()
    with pytest.raises(KernelError, match="is full") as caught:
        export(tmp_path / "model", tmp_path / "to")
    assert "The version needs" in caught.value.message
    assert not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize("obj", [3, np.ones(2), {"a": 1}, None])
def test_what_cannot_be_served_says_what_can(tmp_path: Path, obj: Any) -> None:
    with pytest.raises(ExportError, match="cannot be exported") as caught:
        export(obj, tmp_path)
    assert "Keras" in caught.value.remedy


def test_scikit_learn(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    with pytest.raises(ExportError, match="sklearn LogisticRegression") as caught:
        export(LogisticRegression(), tmp_path)
    assert "coef_" in caught.value.remedy


def test_without_tensorflow(tmp_path: Path) -> None:
    """An environment without TensorFlow: it is hidden, as a missing package is."""
    code = """
import sys, importlib.abc
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(name)
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "tensorflow" else real(name, package)
sys.meta_path.insert(0, Hidden())
from pathlib import Path
from jupyter_tfserve.kernel.export import export
from jupyter_tfserve.kernel.errors import KernelError
try:
    export(lambda x: x, Path(sys.argv[1]), example=[1.0])
except KernelError as error:
    assert sys.executable in error.message, error
    assert "pip install 'jupyter-tfserve[tensorflow]'" in error.remedy, error
else:
    raise SystemExit("exported")
"""
    run(code, str(tmp_path))


def test_the_wing_imports_no_tensorflow() -> None:
    run("import sys, jupyter_tfserve.kernel.magic; assert not {'tensorflow', 'keras'} & set(sys.modules)")


def run(code: str, *arguments: str, **environment: str) -> None:
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        timeout=120,
        env={**os.environ, **environment, "PYTHONPATH": root},
    )

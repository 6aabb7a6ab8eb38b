"""Makes the small SavedModels that the tests serve: ``python make_models.py FOLDER``. Takes as long as TensorFlow's
import and some seconds.

What each one does stands at its function. ``affine/1`` ... ``affine/3`` are made to be copied to any version.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import flatbuffers
import keras
import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow_serving.apis import prediction_log_pb2

tf1 = tf.compat.v1

#: Seconds after which a model that waits for a file gives up: a test that fails must not hang as well.
GIVE_UP = 30.0

#: Of each run of the model `slow`.
SLOW_SECONDS = 0.2

DTYPES = (
    "float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool string float16 bfloat16 "
    "complex64 complex128"
).split()


def save(folder: Path, signatures: dict[str, tuple[Callable[..., Any], list[tf.TensorSpec]]], **state: Any) -> None:
    """A TF2 SavedModel; `state` holds its variables."""
    module = tf.Module()
    for name, value in state.items():
        setattr(module, name, value)
    concrete = {
        name: tf.function(function, input_signature=specs).get_concrete_function()
        for name, (function, specs) in signatures.items()
    }
    tf.saved_model.save(module, str(folder), signatures=concrete)


def spec(shape: list[int | None], dtype: Any, name: str) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name=name)


def affine(folder: Path, offset: float) -> None:
    """y = x + offset, the offset in a variable."""
    offset = tf.Variable(offset)
    save(folder, {"serving_default": (lambda x: {"y": x + offset}, [spec([None], tf.float32, "x")])}, offset=offset)


def big(folder: Path, megabytes: int) -> None:
    """y = x + 1, with a variable of so many MiB."""
    variable = tf.Variable(np.ones(megabytes << 18, np.float32))
    save(
        folder,
        {"serving_default": (lambda x: {"y": x + tf.reduce_max(variable)}, [spec([None], tf.float32, "x")])},
        variable=variable,
    )


def tf1_model(folder: Path) -> None:
    """y = x / 2 + 2 as TF1 wrote it."""
    with tf.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        x = tf1.placeholder(tf.float32, [None], name="x")
        y = tf.identity(tf1.get_variable("a", initializer=0.5) * x + tf1.get_variable("b", initializer=2.0), name="y")
        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.Builder(str(folder))
        signature = tf1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()


def keras_model() -> keras.Model:
    """y = sum of 3 features + 1."""
    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(1, name="y")])
    model.layers[-1].set_weights([np.ones((3, 1), np.float32), np.ones(1, np.float32)])
    return model


def several(folder: Path) -> None:
    """Several inputs, outputs and signatures."""

    def fail(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x < -1e30), ["x is too large"])]):
            return {"y": tf.identity(x)}

    def default(a: tf.Tensor, b: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"product": a * b, "label": tf.strings.as_string(b), "raw_bytes": tf.strings.as_string(b)}

    save(
        folder,
        {
            "serving_default": (default, [spec([None], tf.int64, "a"), spec([None], tf.int64, "b")]),
            "matrix": (lambda x: {"y": tf.reduce_sum(x, 1)}, [spec([None, 2], tf.float32, "x")]),
            "same": (lambda x: {"y": tf.identity(x)}, [spec(None, tf.float64, "x")]),
            "text": (lambda x: {"y": tf.identity(x)}, [spec([None], tf.string, "x")]),
            "scalar": (lambda x: {"y": tf.reduce_sum(x)}, [spec([None], tf.float32, "x")]),
            "fail": (fail, [spec([None], tf.float32, "x")]),
        },
    )


def echo(folder: Path) -> None:
    """A signature for each dtype that gives back what it was given."""
    save(
        folder,
        {name: (lambda x: {"y": tf.identity(x)}, [spec(None, tf.as_dtype(name), "x")]) for name in DTYPES},
    )


def examples(folder: Path) -> None:
    """Classify, regress and `number`, which reads strings as numbers; the examples' feature `a` defaults to 0."""

    def parsed(inputs: tf.Tensor) -> tf.Tensor:
        return tf.io.parse_example(inputs, {"a": tf.io.FixedLenFeature([], tf.float32, 0.0)})["a"]

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = tf.stack([parsed(inputs), -parsed(inputs)], 1)
        return {"scores": scores, "classes": tf.where(scores > 0, "up", "down")}

    serialized = [spec([None], tf.string, "inputs")]
    save(
        folder,
        {
            "serving_default": (classify, serialized),
            "regress": (lambda inputs: {"outputs": parsed(inputs)}, serialized),
            "number": (lambda x: {"y": tf.strings.to_number(x)}, [spec([None], tf.string, "x")]),
        },
    )


def probed(folder: Path) -> None:
    """Signatures for the probe of `auto` batching: some whose rows are independent, and some that it must not merge."""
    count = tf.Variable(0.0)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], ["A", "B"]), "?")
    row, matrix, text = spec([None], tf.float32, "x"), spec([None, 2], tf.float32, "x"), spec([None], tf.string, "x")

    def counted(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([count.assign_add(1.0)]):
            return {"y": tf.identity(x)}

    def parsed(x: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.io.parse_example(x, {"v": tf.io.FixedLenFeature([], tf.float32)})
        return {"y": features["v"] * 2}

    def looped(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.map_fn(lambda one: one * 2, x)}

    def first(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x, "z": tf.fill(tf.shape(x), x[0])}

    def in_a_branch(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.cond(tf.size(x) > 1000, lambda: x + tf.random.uniform([]), lambda: x)}

    def shortened(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.reshape(x, [-1])}

    save(
        folder,
        {
            "serving_default": (lambda x: {"y": tf.nn.softmax(x @ [[0.5, 2.0], [1.0, 3.0]])}, [matrix]),
            "text": (lambda x: {"y": tf.strings.upper(x)}, [text]),
            "table": (lambda x: {"y": table.lookup(x)}, [text]),
            "looped": (looped, [row]),
            "whole_numbers": (lambda x: {"y": x + 1}, [spec([None, None], tf.int32, "x")]),
            "not_a_number": (lambda x: {"y": tf.stack([x, x * float("nan")], 1)}, [row]),
            "images": (
                lambda x: {"y": tf.nn.max_pool2d(x, 32, 32, "VALID")},
                [spec([None, None, None, 3], tf.float32, "x")],
            ),
            "alike": (lambda x: {"y": 1 + 1e-5 * x}, [row]),
            "alike_mean": (lambda x: {"y": 1 + 1e-5 * (x - tf.reduce_mean(x))}, [row]),
            "mean": (lambda x: {"y": x - tf.reduce_mean(x)}, [row]),
            "first": (first, [row]),
            "cumulated": (lambda x: {"y": tf.cumsum(x)}, [row]),
            "total": (lambda x: {"y": tf.reduce_sum(x)}, [row]),
            "fixed": (lambda x: {"y": x * 2}, [spec([2], tf.float32, "x")]),
            "shortened": (shortened, [matrix]),
            "counted": (counted, [row]),
            "count": (lambda x: {"y": x * 0 + count}, [row]),
            "random": (lambda x: {"y": x + tf.random.uniform(tf.shape(x))}, [row]),
            "in_a_branch": (in_a_branch, [row]),
            "same_answer": (lambda x: {"y": tf.fill(tf.shape(x), tf.reduce_max(x) > 1e6)}, [row]),
            "parsed": (parsed, [text]),
        },
        count=count,
        table=table,
    )


def with_warm_up(folder: Path) -> None:
    """Predict requests for `parsed` of the model above, which can run nothing but a tf.Example."""
    (folder / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as file:
        for value in (1.0, 2.0):
            feature = tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
            example = tf.train.Example(features=tf.train.Features(feature={"v": feature}))
            record = prediction_log_pb2.PredictionLog()
            record.predict_log.request.model_spec.signature_name = "parsed"
            rows = [example.SerializeToString()]
            record.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto(rows, shape=[1]))
            file.write(record.SerializeToString())


def until_there(path: tf.Tensor, name: str) -> tf.Tensor:
    """An op that ends, with the number of looks, once a file is there."""
    end = tf.timestamp() + GIVE_UP

    def not_there(looks: tf.Tensor) -> tf.Tensor:
        return tf.logical_and(tf.equal(tf.size(tf.io.matching_files(path)), 0), tf.timestamp() < end)

    return tf.while_loop(not_there, lambda looks: looks + 1, [tf.constant(0)], name=name)[0]


def gated(folder: Path) -> None:
    """y = 1 once the file `gate` is there; it touches the file `gate` + ".waits" first."""

    def run(gate: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.io.write_file(gate + ".waits", "")]):
            looks = until_there(gate, "wait")
        return {"y": tf.cast(looks >= 0, tf.float32)}

    save(folder, {"serving_default": (run, [spec([], tf.string, "gate")])})


def slow_to_load(folder: Path, gate: Path) -> None:
    """y = x; loading touches the file `gate` + ".waits" and ends once `gate` is there."""
    with tf.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        x = tf1.placeholder(tf.float32, [None], name="x")
        y = tf.identity(x, name="y")
        with tf.control_dependencies([tf.io.write_file(str(gate) + ".waits", "")]):
            wait = until_there(tf.constant(str(gate)), "wait")
        builder = tf1.saved_model.Builder(str(folder))
        signature = tf1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=wait.op)
        builder.save()


def slow(folder: Path) -> None:
    """y = x after `SLOW_SECONDS` of work; signature `regress` the same for tf.Examples with a feature `a`."""

    def late(x: tf.Tensor) -> tf.Tensor:
        end = tf.timestamp() + SLOW_SECONDS
        body = lambda m: tf.linalg.matmul(m, m) / 64.0  # noqa: E731
        worked = tf.while_loop(lambda m: tf.timestamp() < end, body, [tf.ones([64, 64])])[0]
        return x + 0.0 * tf.reduce_sum(worked)

    def regress(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(inputs, {"a": tf.io.FixedLenFeature([], tf.float32, 0.0)})
        return {"outputs": late(parsed["a"])}

    save(
        folder,
        {
            "serving_default": (lambda x: {"y": late(x)}, [spec([None], tf.float32, "x")]),
            "regress": (regress, [spec([None], tf.string, "inputs")]),
        },
    )


def limited(folder: Path) -> None:
    """y = x + 1 where all x are below 100, else an error: of all that are in the run."""

    def run(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x < 100.0), ["x is too large"])]):
            return {"y": x + 1.0}

    save(folder, {"serving_default": (run, [spec(None, tf.float32, "x")])})


def hungry(folder: Path) -> None:
    """y = x after taking x MiB of memory for a moment."""

    def run(x: tf.Tensor) -> dict[str, tf.Tensor]:
        taken = tf.fill([tf.cast(x[0], tf.int64) * (1 << 18)], x[0])
        return {"y": x + 0.0 * taken[-1]}

    save(folder, {"serving_default": (run, [spec([1], tf.float32, "x")])})


def reader(folder: Path) -> None:
    """y = the content of the file `path`."""
    save(folder, {"serving_default": (lambda path: {"y": tf.io.read_file(path)}, [spec([], tf.string, "path")])})


def chain(folder: Path) -> None:
    """y = x through several layers of 64 x 64, each of them zero: enough work for TensorFlow to rewrite it."""
    weights = tf.Variable(np.zeros((64, 64), np.float32))

    def run(x: tf.Tensor) -> dict[str, tf.Tensor]:
        for _ in range(6):
            x = tf.nn.relu(tf.matmul(tf.tanh(x * 1.5 + 0.5), weights))
        return {"y": x}

    save(folder, {"serving_default": (run, [spec([None, 64], tf.float32, "x")])}, weights=weights)


def of_an_optional_module(folder: Path) -> None:
    """y: features of a sound, by an op of a library that `import tensorflow` loads and a session alone does not."""
    from tensorflow.lite.experimental.microfrontend.python.ops.audio_microfrontend_op import audio_microfrontend

    save(
        folder,
        {
            "serving_default": (
                lambda x: {"y": tf.cast(audio_microfrontend(x), tf.int32)},
                [spec([1000], tf.int16, "x")],
            )
        },
    )


def lite(folder: Path, for_serving: Path) -> None:
    """saved_model.pb: y = x + 1; model.tflite beside it: y = 2x, and two more signatures. `for_serving` holds the first
    of them alone, in the form that TensorFlow Serving reads.
    """
    affine(folder, 1.0)
    keys = ["serving_default", "both", "text"]
    with tempfile.TemporaryDirectory() as source:
        save(
            Path(source),
            {
                "serving_default": (lambda x: {"y": 2.0 * x}, [spec([None, 3], tf.float32, "x")]),
                "both": (
                    lambda a, b: {"sum": a + b, "difference": a - b},
                    [spec([None], tf.int32, "a"), spec([None], tf.int32, "b")],
                ),
                "text": (lambda s: {"t_bytes": s}, [spec([None], tf.string, "s")]),
            },
        )
        converted = tf.lite.TFLiteConverter.from_saved_model(source, signature_keys=keys).convert()
        one = tf.lite.TFLiteConverter.from_saved_model(source, signature_keys=keys[:1]).convert()
    (folder / "model.tflite").write_bytes(converted)
    signature = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    interpreter = tf.lite.Interpreter(model_content=one)
    for tensors, key, [detail] in (
        (signature.inputs, "in", interpreter.get_input_details()),
        (signature.outputs, "out", interpreter.get_output_details()),
    ):
        tensors[key].name, tensors[key].dtype = detail["name"], types_pb2.DT_FLOAT
        for size in (-1, 3):
            tensors[key].tensor_shape.dim.add(size=size)
    written = flexbuffers.Builder()
    with written.Map():
        written.Key("served")
        # A string that holds any bytes: C++ writes such, and Python's own method does not.
        written._WriteBlob(signature.SerializeToString(), append_zero=True, type_=flexbuffers.Type.STRING)
    model = schema.ModelT.InitFromPackedBuf(one, 0)
    model.signatureDefs = None
    buffer = schema.BufferT()
    buffer.data = list(written.Finish())
    entry = schema.MetadataT()
    entry.name, entry.buffer = "signature_defs_metadata", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    for_serving.mkdir(parents=True)
    (for_serving / "model.tflite").write_bytes(bytes(builder.Output()))


def main(root: Path) -> None:
    """All of them."""
    for offset in (1, 2, 3):
        affine(root / "affine" / str(offset), float(offset))
    big(root / "big" / "1", 4)
    big(root / "large" / "1", 40)
    tf1_model(root / "tf1" / "1")
    several(root / "several" / "1")
    echo(root / "echo" / "1")
    examples(root / "examples" / "1")
    probed(root / "probed" / "1")
    probed(root / "probed" / "2")
    with_warm_up(root / "probed" / "2")
    gated(root / "gated" / "1")
    chain(root / "chain" / "1")
    slow(root / "slow" / "1")
    hungry(root / "hungry" / "1")
    limited(root / "limited" / "1")
    reader(root / "reader" / "1")
    of_an_optional_module(root / "optional_module" / "1")
    lite(root / "lite" / "1", root / "lite_serving" / "1")
    slow_to_load(root / "slow_to_load" / "1", root / "slow_to_load" / "gate")
    model = keras_model()
    model.export(str(root / "keras_export" / "1"), verbose=False)
    tf.saved_model.save(model, str(root / "keras_saved" / "1"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What is asked of the servers: SavedModels, the one request of each, and the answer that is right. Called by
`__main__.py` and `soak.py`.

A request has one row; every model maps an input `x` to an output `y`. The expectation comes from numpy or Python where
that is possible, and from TensorFlow, run eagerly, for the convolutions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse


@dataclass(frozen=True)
class Work:
    """One model: `x` is one row (float32, or object of bytes), `y` the row that answers it."""

    name: str
    about: str
    x: np.ndarray
    y: np.ndarray
    #: More requests in flight than this say nothing new, as the model alone takes all the time; and what is still in
    #: flight when a run of seconds ends would be missing in its rate.
    most_in_flight: int = 1_000


#: In the order in which they are measured.
NAMES = ("half_plus_two", "mlp", "string", "image", "jpeg")

_FLOATS = tf.TensorSpec([None], tf.float32, "x")
_STRINGS = tf.TensorSpec([None], tf.string, "x")
_ROWS = tf.TensorSpec([None, 784], tf.float32, "x")
_IMAGES = tf.TensorSpec([None, 224, 224, 3], tf.float32, "x")

_TEXT = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich"


def make(folder: Path, names: tuple[str, ...]) -> dict[str, Work]:
    """Write `<folder>/<name>/1`, and the row as `<folder>/<name>.npy`, for each name."""
    made = {name: _MAKERS[name](folder / name / "1") for name in names}
    for work in made.values():
        np.save(folder / f"{work.name}.npy", work.x)
    return made


def _save(function: Callable[[Any], Any], spec: tf.TensorSpec, folder: Path) -> None:
    module = tf.Module()
    module.serve = tf.function(lambda x: {"y": function(x)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures=module.serve)


def _half_plus_two(folder: Path) -> Work:
    _save(lambda x: x / 2 + 2, _FLOATS, folder)
    x = np.array([1.5], np.float32)
    return Work("half_plus_two", "x / 2 + 2 of one number: nothing but overhead", x, x / 2 + 2)


def _mlp(folder: Path) -> Work:
    rng = np.random.default_rng(1)
    weights = [rng.normal(0, 0.05, shape).astype(np.float32) for shape in ((784, 512), (512, 512), (512, 10))]

    def run(x: tf.Tensor) -> tf.Tensor:
        for layer in weights[:-1]:
            x = tf.nn.relu(x @ tf.constant(layer))
        return tf.nn.softmax(x @ tf.constant(weights[-1]))

    _save(run, _ROWS, folder)
    x = rng.random((1, 784)).round(4).astype(np.float32)
    hidden = np.maximum(np.maximum(x @ weights[0], 0) @ weights[1], 0) @ weights[2]
    exponents = np.exp(hidden - hidden.max())
    return Work("mlp", "784-512-512-10, one row of 784 floats", x, exponents / exponents.sum())


def _string(folder: Path) -> Work:
    _save(lambda x: tf.strings.lower(x, encoding="utf-8"), _STRINGS, folder)
    x = np.array([_TEXT.encode()], object)
    return Work("string", "a sentence to lower case", x, np.array([_TEXT.lower().encode()], object))


def _network() -> Callable[[tf.Tensor], tf.Tensor]:
    """A small convolutional network, 10 to 20 ms on one core: images in 0..1, [n, 224, 224, 3] -> 1000 logits."""
    rng = np.random.default_rng(2)

    def kernel(*shape: int) -> tf.Tensor:
        return tf.constant(rng.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape), tf.float32)

    convolutions = (
        (kernel(7, 7, 3, 32), 2),
        (kernel(3, 3, 32, 64), 1),
        (kernel(3, 3, 64, 128), 2),
        (kernel(3, 3, 128, 128), 1),
    )
    last = kernel(128, 1000)

    def run(x: tf.Tensor) -> tf.Tensor:
        for weights, stride in convolutions:
            x = tf.nn.relu(tf.nn.conv2d(x, weights, stride, "SAME"))
        return tf.reduce_mean(x, (1, 2)) @ last

    return run


def _pixels() -> np.ndarray:
    """A picture of soft blobs: JPEG is made for such, and noise would make it large."""
    y, x = np.mgrid[0:224, 0:224] / 224
    channels = [np.sin(7 * x + 3 * k) * np.cos(5 * y - k) for k in range(3)]
    return ((np.stack(channels, -1) + 1) * 127.5).astype(np.uint8)


def _image(folder: Path) -> Work:
    run = _network()
    _save(run, _IMAGES, folder)
    x = (_pixels()[None] / 255).astype(np.float32)
    return Work("image", "224x224x3 floats through a small convolutional network", x, run(x).numpy(), 8)


def _jpeg(folder: Path) -> Work:
    run = _network()

    def decode(data: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.io.decode_jpeg(data, channels=3), (224, 224, 3))

    def serve(x: tf.Tensor) -> tf.Tensor:
        return run(tf.cast(tf.map_fn(decode, x, fn_output_signature=tf.uint8), tf.float32) / 255)

    _save(serve, _STRINGS, folder)
    x = np.array([tf.io.encode_jpeg(_pixels(), quality=90).numpy()], object)
    return Work("jpeg", "the same network behind a JPEG decoder", x, serve(tf.constant(x)).numpy(), 8)


_MAKERS: dict[str, Callable[[Path], Work]] = {
    "half_plus_two": _half_plus_two, "mlp": _mlp, "string": _string, "image": _image, "jpeg": _jpeg,
}  # fmt: skip


# The request and the answer, in each of the APIs that the servers speak.

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
GRPC = "application/grpc"


@dataclass(frozen=True)
class Api:
    """How a work is put into a request body, and its answer taken out of one."""

    name: str
    content_type: str
    encode: Callable[[Work], bytes]
    decode: Callable[[bytes, Work], np.ndarray]

    @property
    def is_grpc(self) -> bool:
        """Whether bodies are gRPC messages."""
        return self.content_type == GRPC


def is_right(answer: np.ndarray, work: Work) -> bool:
    """Whether an answer is the expected one: strings to the byte, floats within what kernels differ by."""
    if answer.shape != work.y.shape:
        return False
    if work.y.dtype == object:
        return bool((answer == work.y).all())
    return np.allclose(answer, work.y, rtol=1e-3, atol=1e-4)


def _json_rows(work: Work) -> list[Any]:
    if work.x.dtype != object:
        # As `json.dumps(array.tolist())` of a float32 array writes them: 3 MB for an image.
        rows: list[Any] = work.x.tolist()
        return rows
    if work.name == "jpeg":
        return [{"b64": base64.b64encode(row).decode()} for row in work.x]
    return [row.decode() for row in work.x]


def _to_json(work: Work) -> bytes:
    return json.dumps({"instances": _json_rows(work)}).encode()


def _as_array(rows: list[Any], work: Work) -> np.ndarray:
    if work.y.dtype == object:
        return np.array([row if isinstance(row, bytes) else row.encode() for row in rows], object)
    return np.array(rows, np.float32).reshape(-1, *work.y.shape[1:])


def _from_json(body: bytes, work: Work) -> np.ndarray:
    return _as_array(json.loads(body)["predictions"], work)


def _to_predict(work: Work) -> bytes:
    request = PredictRequest()
    request.model_spec.name = work.name
    tensor = request.inputs["x"]
    tensor.CopyFrom(tf.make_tensor_proto(work.x))
    if work.x.dtype != object:  # a single number would be a `float_val`
        tensor.ClearField("float_val")
        tensor.tensor_content = work.x.tobytes()
    serialized: bytes = request.SerializeToString()
    return serialized


def _from_predict(body: bytes, work: Work) -> np.ndarray:
    array: np.ndarray = tf.make_ndarray(PredictResponse.FromString(body).outputs["y"])
    return array


def _to_v2_json(work: Work) -> bytes:
    if work.x.dtype == object:
        data: list[Any] = [row if isinstance(row, str) else row["b64"] for row in _json_rows(work)]
        datatype = "BYTES"
    else:
        data, datatype = work.x.ravel().tolist(), "FP32"
    return json.dumps({"inputs": [{"name": "x", "shape": work.x.shape, "datatype": datatype, "data": data}]}).encode()


def _from_v2_json(body: bytes, work: Work) -> np.ndarray:
    return _as_array(json.loads(body)["outputs"][0]["data"], work)


def _to_v2_grpc(work: Work) -> bytes:
    from mlserver.grpc.dataplane_pb2 import ModelInferRequest

    request = ModelInferRequest(model_name=work.name)
    tensor = request.inputs.add(name="x", shape=work.x.shape, datatype="FP32")
    if work.x.dtype == object:
        tensor.datatype = "BYTES"
        tensor.contents.bytes_contents.extend(work.x)
    else:
        request.raw_input_contents.append(work.x.tobytes())  # the fastest that the protocol has
    serialized: bytes = request.SerializeToString()
    return serialized


def _from_v2_grpc(body: bytes, work: Work) -> np.ndarray:
    from mlserver.grpc.dataplane_pb2 import ModelInferResponse

    response = ModelInferResponse.FromString(body)
    if response.raw_output_contents and work.y.dtype != object:
        return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(work.y.shape)
    if response.raw_output_contents:  # each string behind its length
        return _as_array([response.raw_output_contents[0][4:]], work)
    contents = response.outputs[0].contents
    return _as_array(list(contents.bytes_contents or contents.fp32_contents), work)


#: TF Serving's REST and gRPC, its messages over REST, and the Open Inference Protocol's two ("v2").
APIS = {
    api.name: api
    for api in (
        Api("rest", JSON, _to_json, _from_json),
        Api("grpc", GRPC, _to_predict, _from_predict),
        Api("rest-protobuf", PROTOBUF, _to_predict, _from_predict),
        Api("v2-rest", JSON, _to_v2_json, _from_v2_json),
        Api("v2-grpc", GRPC, _to_v2_grpc, _from_v2_grpc),
    )
}

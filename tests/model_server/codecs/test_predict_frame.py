"""Requests that differ in their numbers only: what is told from a frame is what the whole request says."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from jupyter_tfserve.model_server.codecs import proto_tensor
from jupyter_tfserve.model_server.codecs.predict_frame import Frames, frame_of

DTYPES = (np.float32, np.float64, np.int8, np.int32, np.int64, np.uint8, np.float16, np.complex64)


def request(array: Any, name: str = "x", typed: bool = False, model: str = "m") -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest()
    made.model_spec.name = model
    made.model_spec.version.value = 7
    made.output_filter.append("y")
    tensor = made.inputs[name]
    tensor.dtype = tf.as_dtype(array.dtype).as_datatype_enum
    for size in array.shape:
        tensor.tensor_shape.dim.add().size = size
    if typed:
        getattr(tensor, "float_val" if array.dtype == np.float32 else "double_val").extend(array.ravel().tolist())
    else:
        tensor.tensor_content = array.tobytes()
    return made


def test_a_frame_says_what_the_request_says() -> None:
    rng = np.random.default_rng(1)
    choose = random.Random(1)
    for _ in range(400):
        typed = choose.random() < 0.3
        dtype = np.dtype(choose.choice(DTYPES[:2] if typed else DTYPES))
        shape = tuple(choose.randint(1, 4) for _ in range(choose.randint(1, 3)))
        first, second = (rng.integers(-3, 3, shape).astype(dtype) for _ in range(2))
        payload, other = (
            request(one, "x" * choose.randint(1, 3), typed).SerializeToString() for one in (first, second)
        )
        frames = Frames()
        assert frames.find(payload) is None
        frame = frames.learn(payload)
        assert frame is not None and frames.find(payload) is frame
        assert (frame.dtype, frame.shape, frame.spec.name, frame.spec.version.value) == (dtype, shape, "m", 7)
        assert frame.output_filter == ("y",)
        if len(other) == len(payload):  # zeros of a typed field may be left out
            assert frame.holds(other)
            [tensor] = predict_pb2.PredictRequest.FromString(other).inputs.values()
            assert frame.numbers(other) == proto_tensor.decode(tensor, "x").tobytes() == second.tobytes()


def test_numbers_that_look_like_what_is_around_them() -> None:
    for text in (b"x\x12", b"mmmm", b"\x08\x01\x12\x04", b"\x0a\x00\x00\x00"):
        array = np.frombuffer(text.ljust(4, b"m"), np.float32)
        payload = request(array, "mmmmmmmm", model="mmmmmmmmmmmm").SerializeToString()
        frame = frame_of(payload)
        if frame is None:  # they could be anywhere
            assert text == b"mmmm"
            continue
        other = request(np.array([1.25], np.float32), "mmmmmmmm", model="mmmmmmmmmmmm").SerializeToString()
        assert frame.holds(other) and frame.numbers(other) == np.float32(1.25).tobytes()
        assert not frame.holds(request(array, "mmmmmmmn", model="mmmmmmmmmmmm").SerializeToString())


def test_another_request_of_the_same_length_is_none_of_them() -> None:
    frames = Frames()
    payload = request(np.array([1.0, 2.0], np.float32)).SerializeToString()
    frames.learn(payload)
    for other in (
        request(np.array([1.0, 2.0], np.float32), model="n"),
        request(np.array([[1.0, 2.0]], np.float32)[0:1].reshape(2), name="y"),
        request(np.array([1, 2], np.int32)),
    ):
        text = other.SerializeToString()
        assert len(text) == len(payload) and frames.find(text) is None
        learned = frames.learn(text)
        assert learned is not None and frames.find(text) is learned


def several() -> bytes:
    made = request(np.array([1.0], np.float32))
    made.inputs["b"].CopyFrom(made.inputs["x"])
    return made.SerializeToString()


def filled_up() -> bytes:
    made = request(np.array([1.0], np.float32), typed=True)
    made.inputs["x"].tensor_shape.dim[0].size = 3
    return made.SerializeToString()


def of_unknown_rank() -> bytes:
    made = request(np.array([1.0], np.float32))
    made.inputs["x"].tensor_shape.unknown_rank = True
    made.inputs["x"].tensor_shape.dim[0].size = 1
    return made.SerializeToString()


def too_short() -> bytes:
    made = request(np.array([1.0], np.float32))
    made.inputs["x"].tensor_shape.dim[0].size = 2
    return made.SerializeToString()


NO_FRAMES = {
    "no message": b"no message",
    "nothing": b"",
    "several inputs": several(),
    "filled up": filled_up(),
    "of unknown rank": of_unknown_rank(),
    "too short": too_short(),
    "scalar": request(np.array(1.0, np.float32)).SerializeToString(),
    "no rows": request(np.zeros([0], np.float32)).SerializeToString(),
    "large": request(np.zeros([200_000], np.float32)).SerializeToString(),
    "bool": request(np.array([True])).SerializeToString(),
    "strings": predict_pb2.PredictRequest(inputs={"x": tf.make_tensor_proto(["a"])}).SerializeToString(),
    "varints": predict_pb2.PredictRequest(inputs={"x": tf.make_tensor_proto([1])}).SerializeToString(),
}


@pytest.mark.parametrize("payload", NO_FRAMES.values(), ids=NO_FRAMES)
def test_what_has_no_frame(payload: bytes) -> None:
    frames = Frames()
    for _ in range(6):
        assert frames.learn(payload) is None
        assert frames.find(payload) is None


def test_they_do_not_grow_without_end() -> None:
    frames = Frames()
    for length in range(1, 3000):
        frames.learn(request(np.zeros([length], np.uint8)).SerializeToString())
    for number in range(100):
        frames.learn(request(np.zeros([1], np.float32), model=f"model{number:03}").SerializeToString())
    assert len(frames._known) <= 1024
    assert max(map(len, frames._known.values())) <= 4

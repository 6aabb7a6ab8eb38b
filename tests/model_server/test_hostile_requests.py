"""Requests that mean harm get an error, soon and for little memory, while others are served."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import tensorflow as tf
from helpers import PATIENCE, StoreServer, converse, replies, wait_for
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

PREDICT = "/v1/models/affine:predict"

#: Bytes by which a hostile request may make the server grow.
GROWTH = 400 << 20


class Meanwhile:
    """Predicts all the time; every answer must be right, and none slow."""

    def __init__(self, server: StoreServer) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.slowest = 0.0
        self.failures: list[str] = []
        self.count = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                if self._server.predict("affine", [1.0]) != [2.0]:
                    self.failures.append("wrong")
            except (AssertionError, OSError) as error:
                self.failures.append(repr(error))
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.count += 1
            self._stop.wait(0.005)

    def __enter__(self) -> Meanwhile:
        self._thread.start()
        wait_for("others to be served", lambda: self.count > 3)
        return self

    def __exit__(self, *error: object) -> None:
        here = self.count
        with contextlib.suppress(AssertionError):
            wait_for("others to be served on", lambda: self.count > here + 3)
        self._stop.set()
        self._thread.join()
        assert self.count > here + 3
        assert self.failures == []
        assert self.slowest < 10, self.slowest  # 2 s where the machine has nothing else to do


@pytest.fixture
def small(start_store: Callable[..., StoreServer], models: Path) -> Iterator[StoreServer]:
    """A server that takes bodies of 8 MB."""
    one = start_store("--max_body_bytes=8388608")
    one.wait_until_ready()
    one.register(models / "affine" / "1", "affine", 1)
    yield one


def raw(body: bytes, *headers: str) -> bytes:
    lines = [
        f"POST {PREDICT} HTTP/1.1",
        "Host: x",
        f"Content-Length: {len(body)}",
        *headers,
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


def test_each_gets_an_error_while_others_are_served(small: StoreServer) -> None:
    process = psutil.Process(small.process.pid)
    before = process.memory_info().rss
    bomb = gzip.compress(b'{"instances": [' + b"1," * (50 << 20) + b"1]}", 9)  # 100 MB in 100 kB
    deep = b'{"instances": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    with Meanwhile(small):
        for data, expected in (
            (raw(bomb, "Content-Encoding: gzip"), {400, 413}),
            (raw(deep), {400}),
            (raw(b'{"instances": [' + b"1" * 7_000_000 + b"]}"), {400}),
            (raw(b'{"instances": [1' + b"e" + b"9" * 100_000 + b"]}"), {400}),
            (f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".encode(), {413}),
            (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", {431, 414, 400}),
            (b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %d\r\n" % (i, i) for i in range(20_000)) + b"\r\n", {431}),
            (b"GET / HTTP/1.1\r\nX: " + b"y" * 500_000, {431}),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 100, {400, 501}),
        ):
            # A server that has refused may close while the rest is still being sent.
            with contextlib.suppress(ConnectionError):
                (answer,) = replies(converse(small.rest_port, data), ["POST"])
                assert answer.status in expected, (data[:80], answer)
                assert b"Traceback" not in answer.body
    grown = process.memory_info().rss - before
    assert grown < GROWTH, grown
    assert "Traceback" not in small.said()


def test_huge_shapes_and_protobuf_bombs(small: StoreServer) -> None:
    process = psutil.Process(small.process.pid)
    before = process.memory_info().rss

    def shaped(
        *sizes: int, dtype: int = tf.float32.as_datatype_enum, content: bytes = b""
    ) -> predict_pb2.PredictRequest:
        message = predict_pb2.PredictRequest()
        message.model_spec.name = "affine"
        tensor = message.inputs["x"]
        tensor.dtype = dtype
        for size in sizes:
            tensor.tensor_shape.dim.add(size=size)
        if content:
            tensor.tensor_content = content
        else:
            tensor.float_val.append(1.0)  # repeated to fill the shape, says the format
        return message

    with Meanwhile(small), grpc.insecure_channel(f"127.0.0.1:{small.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        for request in (
            shaped(2**31, 2**31),
            shaped(2**62),
            shaped(2**40),
            shaped(-1),
            shaped(*[2] * 300),
            shaped(2**31, 2**31, content=b"1234"),
            shaped(2**33, 0, 2**33, content=b"1234"),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                stub.Predict(request, timeout=PATIENCE)
            assert refused.value.code() in (
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
            ), (request, refused.value)
        nested = b""
        for _ in range(500):  # deeper than any parser goes
            nested = b"\x12" + _varint(len(nested)) + nested
        for payload in (nested, b"\x0a" * 1000, b"\xff" * 1000, b"\x12\x80\x80\x80\x80\x08"):
            with pytest.raises(grpc.RpcError) as refused:
                call(payload, timeout=PATIENCE)
            assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
    grown = process.memory_info().rss - before
    assert grown < GROWTH, grown


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def test_slow_loris(small: StoreServer) -> None:
    """Hundreds of clients that send a byte now and then keep nobody from being served."""
    with contextlib.ExitStack() as stack, Meanwhile(small):
        slow = []
        for _ in range(300):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", small.rest_port), PATIENCE))
            one.sendall(b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nX-")
            slow.append(one)
        for _ in range(3):
            for one in slow:
                one.sendall(b"a")
        body = json.dumps({"instances": [1.0]}).encode()
        assert small.call("POST", PREDICT, body).status == 200

"""What the coverage-guided fuzzer calls, and the suite with its seeds: each target takes bytes, gives them to a codec
or parser of ours in this process, and fails where anything but a ServingError comes out or two ways to read differ.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import simdjson
from google.protobuf.message import DecodeError
from signatures import NUMPY
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import input_pb2

from jupyter_tfserve.model_server import config, config_protos
from jupyter_tfserve.model_server.codecs import examples, json_numbers, json_reply, json_tensor, json_text, proto_tensor
from jupyter_tfserve.model_server.core.servable import Array, Signature, TensorInfo
from jupyter_tfserve.model_server.errors import ServingError, truncated
from jupyter_tfserve.model_server.frontends.http import Exchange, Response
from jupyter_tfserve.model_server.frontends.http_server import HttpServer

#: Elements past which a shape is not filled up: that is a matter of memory, not of reading.
MANY = 1 << 20


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, types and order included; without recursion, as what is compared may be deep."""
    pairs = [(one, other)]
    while pairs:
        one, other = pairs.pop()
        if type(one) is not type(other):
            return False
        if isinstance(one, dict):
            if list(one) != list(other):
                return False
            pairs += [(one[key], other[key]) for key in one]
        elif isinstance(one, list):
            if len(one) != len(other):
                return False
            pairs += zip(one, other, strict=True)
        elif repr(one) != repr(other):
            return False
    return True


def _outcome(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ServingError as error:
        assert error.message.isprintable() or error.message.encode("utf-8", "surrogateescape"), error
        truncated(error.message).encode()
        return ServingError


# JSON.


def json_both(data: bytes) -> None:
    """What the fast reader gives is what ours gives, for both rules of equal keys."""
    for last in (False, True):
        ours = _outcome(lambda last=last: json_text.loads(data, last))
        found = _outcome(lambda last=last: json_tensor.parse(data, last))
        if not isinstance(ours, dict):
            ours = ServingError
        assert found is ours or same(found, ours), (data, last)
    try:
        whole = simdjson.Parser().parse(data)
    except (ValueError, RuntimeError):
        return
    if not isinstance(whole, simdjson.Object):
        return
    assert isinstance(ours, dict), data  # what simdjson accepts is valid: ours must accept it, too


def _signature(dtype: str, names: str) -> Signature:
    infos = {name: TensorInfo(name, dtype, np.dtype(NUMPY[dtype]), None) for name in names}
    return Signature("s", infos, infos, "", {})


_SIGNATURES = [(_signature(dtype, "x"), _signature(dtype, "xy")) for dtype in NUMPY]


def _bits(array: Array) -> Any:
    values: Any = array.ravel().tolist() if array.dtype == object else array.tobytes()
    return array.dtype, array.shape, values


def json_predict(data: bytes) -> None:
    """A predict body for each dtype: decoded alike by all readers, and what is decoded survives a reply."""
    parsed = _outcome(lambda: json_tensor.parse(data))
    if parsed is ServingError:
        return
    slow = json_text.loads(data)
    for signatures in _SIGNATURES:
        for signature in signatures:
            found = _outcome(lambda s=signature: json_tensor.decode(parsed, s))
            again = _outcome(lambda s=signature: json_tensor.decode(slow, s))
            assert (found is ServingError) == (again is ServingError)
            _short_way(data, signature, found)
            if found is ServingError:
                continue
            arrays, row_format = found
            assert [_bits(a) for a in arrays] == [_bits(a) for a in again[0]]
            for array in arrays:
                _proto_round_trip(array)
            encode = json_reply.encode_rows if row_format else json_reply.encode_columns
            written = _outcome(lambda e=encode, a=arrays, s=signature: e(a, s))
            if written is ServingError:
                continue
            reply = json_tensor.parse(written)
            if len(arrays) == 1 and row_format:
                body = {"instances": reply["predictions"]}
            elif len(arrays) == 1:
                body = {"inputs": reply["outputs"]}
            else:
                body = {"instances" if row_format else "inputs": reply["predictions" if row_format else "outputs"]}
            if row_format and not body["instances"]:
                continue  # no rows can be written, but not read
            if any(array.dtype == object or 0 in array.shape for array in arrays):
                continue  # bytes may be told only by a name in _bytes; a zero in the middle hides what is behind it
            back, _ = json_tensor.decode(body, signature)
            assert [_canonical(a) for a in back] == [_canonical(a) for a in arrays]


def _short_way(data: bytes, signature: Signature, found: Any) -> None:
    """Where a list of numbers becomes an array at once, it is the same one."""
    numbers = json_numbers.read(data)
    with np.errstate(over="ignore"):
        array = None if numbers is None else numbers.array(signature)
    if array is not None:
        assert found is not ServingError, data
        assert _bits(array) == _bits(found[0][0]), data


def _canonical(array: Array) -> Any:
    """Its bits; JSON has one NaN only."""
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return _bits(array)


def _proto_round_trip(array: Array) -> None:
    for as_content in (False, True):
        tensor = tensor_pb2.TensorProto()
        proto_tensor.encode(array, tensor, as_content)
        back = proto_tensor.decode(tensor_pb2.TensorProto.FromString(tensor.SerializeToString()), "x")
        assert _bits(back) == _bits(array)


def json_examples(data: bytes) -> None:
    """A classify body."""
    parsed = _outcome(lambda: json_tensor.parse(data, last_inside=True))
    if parsed is not ServingError:
        _outcome(lambda: examples.from_json(parsed))


# Protobuf.


def proto(data: bytes) -> None:
    """A TensorProto: what is accepted can be written both ways and reads back as it was."""
    try:
        tensor = tensor_pb2.TensorProto.FromString(data)
    except DecodeError:
        return
    count = 1
    for dim in tensor.tensor_shape.dim:
        count *= max(0, dim.size)
    if count > MANY:
        return
    array = _outcome(lambda: proto_tensor.decode(tensor, "x"))
    if array is ServingError:
        return
    for as_content in (False, True):
        written = tensor_pb2.TensorProto()
        proto_tensor.encode(array, written, as_content)
        wire = tensor_pb2.TensorProto.FromString(written.SerializeToString())
        assert _quiet(proto_tensor.decode(wire, "x")) == _quiet(array), (data, as_content)


def _quiet(array: Array) -> Any:
    """Its bits, those of NaNs aside: protobuf's Python interface passes floats through C doubles, which quiets them."""
    if array.dtype.kind in "fc":
        parts = array.reshape(-1).view(
            {"complex64": np.float32, "complex128": np.float64}.get(array.dtype.name, array.dtype)
        )
        return array.dtype, array.shape, np.where(np.isnan(parts), np.array(np.nan, parts.dtype), parts).tobytes()
    return _bits(array)


def proto_examples(data: bytes) -> None:
    """An Input of Classify and Regress."""
    try:
        message = input_pb2.Input.FromString(data)
    except DecodeError:
        return
    _outcome(lambda: examples.from_input(message))


# Text protos.


def text_protos(data: bytes) -> None:
    """A models.config and the other files."""
    text = data.decode("utf-8", "replace")
    parsed = _outcome(lambda: config.parse(text))
    if parsed is not ServingError:
        _outcome(lambda: config.to_models(parsed))
    for name in ("SSLConfig", "MonitoringConfig", "BatchingParameters"):
        parsed = _outcome(lambda name=name: config_protos.parse(name, text))
        if name == "BatchingParameters" and parsed is not ServingError:
            _outcome(lambda parsed=parsed: config.batching_parameters(parsed))


# HTTP.


class _Transport:
    """What a connection needs of asyncio's: keeps what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def write_eof(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        """Nothing is read here."""

    resume_reading = pause_reading


class _Raised(logging.Handler):
    """An exception that the connection only logs is a finding as well."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)


logging.getLogger("jupyter_tfserve.model_server.frontends.http_server").addHandler(_Raised())

_LOOP = asyncio.new_event_loop()
_DATE = re.compile(rb"Date: [^\r]*")

#: Of a body in these tests: small, so that the limit is met.
MAX_BODY = 4096


def _echo(request: Exchange) -> None:
    said = [request.method, request.target, sorted(request.headers.items()), request.body]
    request.respond(Response(200, repr(said).encode(), "text/plain"))


def _converse(parts: list[bytes], server: HttpServer) -> bytes:
    async def feed() -> bytes:
        transport = _Transport()
        connection: Any = server.protocol()
        connection.connection_made(transport)
        for part in parts:
            if transport.closed:
                break
            connection.data_received(part)
        if not transport.closed and not connection.eof_received():
            transport.close()
        connection.connection_lost(None)
        return _DATE.sub(b"", bytes(transport.written))

    return _LOOP.run_until_complete(feed())


def http(data: bytes) -> None:
    """A connection's bytes: however they are cut, and whether or not the server has seen them before, the answers are
    the same. The first byte seeds the cuts.
    """
    if not data:
        return
    step, data = data[0] % 19 + 1, data[1:]
    server = HttpServer(_echo, MAX_BODY)
    whole = _converse([data], server)
    cut = [data[n : n + step] for n in range(0, len(data), step)]
    assert _converse([data], server) == whole, data
    assert _converse(cut, server) == whole, data
    assert _converse(cut, HttpServer(_echo, MAX_BODY)) == whole, data
    for line in re.findall(rb"HTTP/1.1 (5\d\d) ", whole):
        assert line == b"501", data


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (json_both, json_predict, json_examples, proto, proto_examples, text_protos, http)
}

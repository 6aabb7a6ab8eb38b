"""Where the fuzzers begin, by target: one well-formed input of each kind, and what once went wrong (`FOUND`)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import input_pb2

_JSON = [
    b'{"instances": [1, 2.5, -0, 1e3, NaN, -Infinity, 18446744073709551615]}',
    b'{"signature_name": "s", "inputs": {"x": [[1], [2]], "y": {"b64": "AAE="}}}',
    b'\xef\xbb\xbf{"instances": [{"x": "\\ud83d\\ude00\\n", "y": true}, {"y": false, "x": ""}]} rest',
    b'{"inputs": [], "a": {"a": 1, "a": [null, {}]}, "inputs": 3}',
    b'{"inputs": [[["\xff\xc3\xa9"]]]}',
]
_EXAMPLES = [b'{"context": {"c": "x"}, "examples": [{"a": [1, 2], "b": 0.5, "s": {"b64": "AA"}, "e": []}]}']
_HTTP = [
    b"\x00GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\nHEAD / HTTP/1.0\r\n\r\n",
    b"\x03POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabcPUT / HTTP/1.1\r\n\r\n",
    b"\x07POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n0\r\nTrailer: x\r\n\r\n"
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x01GET / HTTP/1.1\r\nConnection: close\r\n\r\nBREW / HTTP/1.1\r\n\r\n",
]
_TEXT = [
    b'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow"\n'
    b"model_version_policy { specific { versions: 1 versions: 2 } } version_labels { key: 'a' value: 1 }\n"
    b'logging_config { log_collector_config { filename_prefix: "/l" } sampling_config { sampling_rate: 0.1 } } } }',
    b"max_batch_size { value: 8 } allowed_batch_sizes: [2, 8] pad_variable_length_inputs: true # said",
    b'server_key: "k" "l"; server_cert: \'\\n\\x41\\101\' client_verify: True',
    b'prometheus_config: < enable: true, path: "/metrics" >',
    b"custom_model_config { [type.googleapis.com/google.protobuf.Int64Value] { value: 1 } }",
]


def _tensors() -> list[bytes]:
    arrays = [
        np.arange(6, dtype=dtype).reshape(2, 3)
        for dtype in "f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 f2 c8 c16".split()  # numpy's codes
    ]
    arrays += [np.array([True, False]), np.array([b"a", b""], object), np.zeros((0, 2), np.float32)]
    protos = [tf.make_tensor_proto(array) for array in arrays]
    protos += [tf.make_tensor_proto([float(n) for n in range(3)]), tf.make_tensor_proto([b"x", b"y"])]
    return [proto.SerializeToString() for proto in protos]


def _inputs() -> list[bytes]:
    example = tf.train.Example()
    example.features.feature["a"].int64_list.value.append(1)
    plain, merged = input_pb2.Input(), input_pb2.Input()
    plain.example_list.examples.add().CopyFrom(example)
    merged.example_list_with_context.context.features.feature["c"].bytes_list.value.append(b"x")
    merged.example_list_with_context.examples.add().CopyFrom(example)
    return [plain.SerializeToString(), merged.SerializeToString()]


SEEDS: dict[str, list[bytes]] = {
    "json_both": _JSON + _EXAMPLES,
    "json_predict": _JSON,
    "json_examples": _EXAMPLES,
    "proto": _tensors(),
    "proto_examples": _inputs(),
    "text_protos": _TEXT,
    "http": _HTTP,
}

#: What once ended in anything but an answer or a refusal, or was answered wrongly.
FOUND: dict[str, list[bytes]] = {
    "json_both": [
        b'{"a\\u0000b": 1, "a": 2}',  # simdjson's look-up ends at the NUL
        b'{"a": ' * 400 + b"1" + b"}" * 400,  # deeper than Python's stack, not than simdjson's limit
        b'[{"a\\u0000": 1}]',  # so in a list, where it was only to be quoted
        b'{"a": ' + b"[" * 900 + b"{}" + b"]" * 900 + b"}",
    ],
    "json_predict": [b'{"inputs": ' + b"9" * 309 + b"}"],
    "json_examples": [
        b'{"examples": [{"a": ' + b"9" * 309 + b"}]}",  # past what a double holds
        b'{"examples": [{"\xff": 1}]}',  # a feature's name is a protobuf string
    ],
    "proto": [
        bytes.fromhex("080a120412020801" + "220180"),  # a bool of 0x80, which is no varint
    ],
    "proto_examples": [],
    "text_protos": [],
    "http": [
        # The body behind an offer to upgrade (curl --http2, Java's HttpClient) was taken for the next request.
        b"\x00POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n"
        b"abcGET / HTTP/1.1\r\n\r\n",
        b"\x02GET / HTTP/1.1\r\nX: " + b"x" * 140000 + b"\r\n\r\n",
        # Of a head that came before, the length of the body was read otherwise than the parser reads it.
        b"\x00POST / HTTP/1.1\r\nContent-Length: 4 \r\n\r\nabcdGET / HTTP/1.1\r\n\r\n",
    ],
}


def mutants(seed: int, inputs: list[bytes], count: int) -> Iterator[bytes]:
    """`count` inputs near the given ones: the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(inputs)[:4096])
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(data) + 1)
            kind = chance.randrange(5)
            if kind == 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            elif kind == 1:
                data[at:at] = chance.choice(PIECES)
            elif kind == 2:
                del data[at : at + chance.choice([1, 1, 2, 8])]
            elif kind == 3:
                end = at + chance.randrange(32)
                data[at:at] = data[at:end]
            else:
                other = chance.choice(inputs)
                start = chance.randrange(len(other) + 1)
                data[at:at] = other[start : start + chance.randrange(64)]
        yield bytes(data)


#: What means something to a parser: mutants get it whole.
PIECES = [
    *(b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b"\r\n", b"\r\n\r\n", b"\n", b" ", b"0", b"-", b"\x00", b"\xff"),
    *(b"1e400", b"NaN", b"null", b"true", b"9" * 20, b'{"b64": ""}', b"\\ud800", b"\\u0000", b"\xed\xa0\x80"),
    *(b"\x80\x80\x80\x80\x10", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1"),
    b"Upgrade: x\r\nConnection: upgrade\r\n",
]

"""Messages that the `tensorflow-serving-api` and `tensorflow` packages lack, declared with the same names, numbers and
types: TF Serving's config files (`config/*.proto`), and what the profiler's service is asked (TSL's
`profiler_service.proto`, of which only the fields that are used here). No compiled .proto: so few do not need protoc.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from .errors import Code, ServingError, invalid

_PACKAGE = "jupyter_tfserve.config"
_INT64, _BOOL, _STRING = ".google.protobuf.Int64Value", ".google.protobuf.BoolValue", ".google.protobuf.StringValue"
_Field = descriptor_pb2.FieldDescriptorProto

#: Message -> fields: number, name, and its type: a scalar type, or the full name of a message.
_MESSAGES: dict[str, list[tuple[int, str, int | str]]] = {
    "SSLConfig": [
        (1, "server_key", _Field.TYPE_STRING),
        (2, "server_cert", _Field.TYPE_STRING),
        (3, "custom_ca", _Field.TYPE_STRING),
        (4, "client_verify", _Field.TYPE_BOOL),
    ],
    "PrometheusConfig": [(1, "enable", _Field.TYPE_BOOL), (2, "path", _Field.TYPE_STRING)],
    "MonitoringConfig": [(1, "prometheus_config", f".{_PACKAGE}.PrometheusConfig")],
    "BatchingParameters": [
        (1, "max_batch_size", _INT64),
        (2, "batch_timeout_micros", _INT64),
        (3, "max_enqueued_batches", _INT64),
        (4, "num_batch_threads", _INT64),
        (5, "thread_pool_name", _STRING),
        (6, "allowed_batch_sizes", _Field.TYPE_INT64),
        (7, "pad_variable_length_inputs", _Field.TYPE_BOOL),
        (8, "enable_large_batch_splitting", _BOOL),
        (9, "max_execution_batch_size", _INT64),
    ],
    "ProfileRequest": [
        (1, "duration_ms", _Field.TYPE_UINT64),
        (4, "opts", _Field.TYPE_BYTES),  # a ProfileOptions, which TensorFlow has
        (5, "repository_root", _Field.TYPE_STRING),
        (6, "session_id", _Field.TYPE_STRING),
        (7, "host_name", _Field.TYPE_STRING),
    ],
    "ProfileResponse": [(7, "empty_trace", _Field.TYPE_BOOL)],
    "TerminateRequest": [(1, "session_id", _Field.TYPE_STRING)],
}
_REPEATED = {"allowed_batch_sizes"}


def _declare() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="jupyter_tfserve/config.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            added = message.field.add(
                name=field,
                number=number,
                label=_Field.LABEL_REPEATED if field in _REPEATED else _Field.LABEL_OPTIONAL,
                type=_Field.TYPE_MESSAGE if isinstance(kind, str) else kind,
            )
            if isinstance(kind, str):
                added.type_name = kind
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _declare()


def parse(name: str, text: str) -> Any:
    """A message from its text proto. Raises ServingError with TF Serving's words and where it went wrong."""
    try:
        return text_format.Parse(text, _CLASSES[name]())
    except text_format.ParseError as error:
        raise invalid(f"Error parsing text-format tensorflow.serving.{name}: {error}") from None


def read(name: str, path: Path) -> Any:
    """A message from a file; raises ServingError."""
    try:
        return parse(name, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ServingError(Code.NOT_FOUND, f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise invalid(f"{path} is no text: {error}") from None


def from_bytes(name: str, payload: bytes) -> Any:
    """A message from the wire; raises ServingError."""
    try:
        return _CLASSES[name].FromString(payload)
    except Exception:  # protobuf's DecodeError, which differs between its implementations
        raise ServingError(Code.INTERNAL, f"The request is no {name}") from None


def to_bytes(name: str, **fields: Any) -> bytes:
    """A message for the wire."""
    return bytes(_CLASSES[name](**fields).SerializeToString())

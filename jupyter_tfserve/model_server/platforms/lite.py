"""Serves `model.tflite` of a version folder, with --prefer_tflite_model: through LiteRT (`ai_edge_litert`) where it is
installed, else through the interpreter that TensorFlow still carries. `local.py` asks `found`, then `load`.

An interpreter serves one request at a time, so there is a pool of them; more are made when they are needed.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flatbuffers import flexbuffers
from tensorflow.core.protobuf import meta_graph_pb2

from ..core.servable import DEFAULT_SIGNATURE, Array, Servable, Signature
from ..errors import Code, ServingError, invalid
from ..memory import whole_tensorflow
from ..tensorflow_parts import as_dtype
from .saved_model import _give_memory_back, _signature_def_map, _signatures

try:
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tensorflow.lite.python import schema_py_generated as schema

    Interpreter = whole_tensorflow().lite.Interpreter

#: In a version's folder, beside or instead of saved_model.pb.
MODEL_FILE = "model.tflite"

#: Where TF Serving looks for signatures: a map of serialized SignatureDefs, whose tensors are named.
_METADATA = b"signature_defs_metadata"

_PREDICT_METHOD = "tensorflow/serving/predict"

#: Seconds that a request without a deadline waits for an interpreter.
_WAIT_SECONDS = 30.0


def found(path: Path) -> bool:
    """Whether a version folder has a model for here; without one TF Serving loads its SavedModel."""
    return (path / MODEL_FILE).exists()


def load(path: Path, interpreters: int) -> Servable:
    """Load a version folder's model, for so many requests at once. Raises ServingError."""
    try:
        return _LiteServable(path / MODEL_FILE, max(1, interpreters))
    except (ValueError, RuntimeError, OSError) as error:
        raise invalid(f"{path / MODEL_FILE} cannot be loaded: {error}") from None


class _LiteServable:
    """A model.tflite and its interpreters."""

    def __init__(self, file: Path, interpreters: int) -> None:
        # Read, not mapped: what happens to the file must not happen to those who use it.
        self._content = file.read_bytes()
        self._places = threading.Semaphore(interpreters)
        self._lock = threading.Lock()
        self._idle = [self._make()]
        definitions = _definitions_for_serving(self._content, self._idle[0])
        self._has_runners = not definitions and bool(self._idle[0].get_signature_list())
        if self._has_runners:
            definitions = _definitions_of_runners(self._idle[0])
        elif not definitions:
            definitions = _definitions_of_tensors(self._idle[0])
        self.signatures = _signatures(definitions)
        self.signature_def_map = _signature_def_map(definitions)

    def _make(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow's interpreter recommends LiteRT, each time
            return Interpreter(model_content=self._content, num_threads=1)

    def run(
        self, signature: Signature, inputs: Sequence[Array], outputs: tuple[str, ...], timeout_ms: int = 0
    ) -> list[Array]:
        with self._interpreter(timeout_ms) as interpreter:
            try:
                if self._has_runners:
                    runner = interpreter.get_signature_runner(signature.name)
                    found = runner(**dict(zip(signature.inputs, inputs, strict=True)))
                    return [found[name] for name in outputs]
                return _run_tensors(interpreter, signature, inputs, outputs)
            except (ValueError, RuntimeError) as error:
                raise invalid(f"The TFLite model does not take these inputs: {str(error).strip()}") from None

    def is_quick(self, signature: Signature) -> bool:
        """No: a run may wait for an interpreter."""
        return False

    @contextmanager
    def _interpreter(self, timeout_ms: int) -> Iterator[Any]:
        """An interpreter that nobody else uses. Raises ServingError if none is free in time."""
        if not self._places.acquire(timeout=timeout_ms / 1000 if timeout_ms else _WAIT_SECONDS):
            if timeout_ms:
                raise ServingError(Code.DEADLINE_EXCEEDED, "Timed out waiting for a TFLite interpreter")
            raise ServingError(Code.UNAVAILABLE, "All TFLite interpreters are busy.", "Raise --num_tflite_pools.")
        try:
            with self._lock:
                interpreter = self._idle.pop() if self._idle else None
            interpreter = interpreter or self._make()
            yield interpreter
            # Not after an error: whether it can be used again is not known.
            with self._lock:
                self._idle.append(interpreter)
        finally:
            self._places.release()

    def close(self) -> None:
        self._idle.clear()
        self._content = b""
        _give_memory_back()


def _run_tensors(
    interpreter: Any, signature: Signature, inputs: Sequence[Array], outputs: Sequence[str]
) -> list[Array]:
    """A signature whose tensors are known by name only, in the model's main graph."""
    places = _places(interpreter.get_input_details())
    fed = [(places[info.name], array) for info, array in zip(signature.inputs.values(), inputs, strict=True)]
    for place, array in fed:
        interpreter.resize_tensor_input(place, array.shape)
    interpreter.allocate_tensors()
    for place, array in fed:
        interpreter.set_tensor(place, array)
    interpreter.invoke()
    places = _places(interpreter.get_output_details())
    return [interpreter.get_tensor(places[signature.outputs[name].name]) for name in outputs]


def _places(details: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Where each tensor is, by its name."""
    return {detail["name"]: detail["index"] for detail in details}


def _definitions_for_serving(content: bytes, interpreter: Any) -> dict[str, Any]:
    """The SignatureDefs that were put into the model for TF Serving; {} for none. Raises ValueError if one names a
    tensor that there is not.
    """
    model = schema.Model.GetRootAsModel(content, 0)
    definitions: dict[str, Any] = {}
    for index in range(model.MetadataLength()):
        if model.Metadata(index).Name() == _METADATA:
            written = flexbuffers.GetRoot(bytearray(model.Buffers(model.Metadata(index).Buffer()).DataAsNumpy())).AsMap
            for key, value in zip(written.Keys, written.Values, strict=True):
                definitions[key.AsKey] = meta_graph_pb2.SignatureDef.FromString(value.AsStringBytes)
    for definition in definitions.values():
        for tensors, details in (
            (definition.inputs, interpreter.get_input_details()),
            (definition.outputs, interpreter.get_output_details()),
        ):
            known = _places(details)
            for info in tensors.values():
                # Old converters left out the ":0" (`FixTfLiteTensorName`).
                info.name = info.name if info.name in known else info.name.partition(":")[0]
                if info.name not in known:
                    raise ValueError(f"a signature names the tensor {info.name!r}, which the model has not")
    return definitions


def _definitions_of_runners(interpreter: Any) -> dict[str, Any]:
    """The signatures that converters write since 2021. Stock knows only those above: there the inputs of such a model
    have the names of tensors.
    """
    definitions = {}
    for name in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(name)
        definition = definitions[name] = meta_graph_pb2.SignatureDef(method_name=_PREDICT_METHOD)
        for target, details in (
            (definition.inputs, runner.get_input_details()),
            (definition.outputs, runner.get_output_details()),
        ):
            for key, detail in details.items():
                _describe(target[key], detail)
    return definitions


def _definitions_of_tensors(interpreter: Any) -> dict[str, Any]:
    """For a model without signatures: one, with the names of its tensors."""
    definition = meta_graph_pb2.SignatureDef(method_name=_PREDICT_METHOD)
    for target, details in (
        (definition.inputs, interpreter.get_input_details()),
        (definition.outputs, interpreter.get_output_details()),
    ):
        for detail in details:
            _describe(target[detail["name"].partition(":")[0]], detail)
    return {DEFAULT_SIGNATURE: definition}


def _describe(info: Any, detail: Mapping[str, Any]) -> None:
    """Write a tensor's name, dtype and shape into a TensorInfo."""
    info.name = detail["name"]
    info.dtype = as_dtype(detail["dtype"]).as_datatype_enum
    open_shape = detail["shape_signature"]
    for size in open_shape if len(open_shape) else detail["shape"]:
        info.tensor_shape.dim.add(size=int(size))

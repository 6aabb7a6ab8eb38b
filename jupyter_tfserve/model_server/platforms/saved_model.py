"""Loads SavedModels: TF1, TF2 and Keras exports alike, through a TF1 session, whose cached callables run a small
model ten times faster than the TF2 signature does. What such a session cannot run (Keras 3 models written with
`tf.saved_model.save`, which stock TF Serving cannot run either) goes through the TF2 loader behind the same
interface.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2

from .. import tensorflow_parts as parts
from ..core.servable import Array, Servable, Signature, TensorInfo
from ..errors import Code, ServingError
from ..memory import is_postponed, whole_tensorflow
from .effects import Effects
from .remedies import remedy

log = logging.getLogger(__name__)

#: A signature whose runs take less than this runs in the calling thread, which saves TensorFlow's hand-over to a pool
#: (25-50 us); a deadline cannot stop it there, and need not.
QUICK_SECONDS = 0.001

#: A run that took longer than this is no accident of the machine's.
_SLOW_SECONDS = 0.02

#: What one run counts in the mean of the last ones.
_WEIGHT = 0.1

_OUT_OF_MEMORY = "Memory ran out: send fewer rows at once, or stop serving another model."

#: Ops that make a run's length depend on its input, so that a quick run says nothing of the next one.
_LOOPS = {"While", "StatelessWhile", "Enter", "For"}


@dataclass(frozen=True)
class SavedModelOptions:
    """How SavedModels are loaded."""

    tags: tuple[str, ...] = ("serve",)
    session_config: config_pb2.ConfigProto | None = None
    device: str = ""  #: TensorFlow's name, "/CPU:0" or "/GPU:1"; "": where TensorFlow puts it


def load(path: Path, options: SavedModelOptions) -> Servable:
    """Load a version folder. Raises ServingError, whose message is what the status of the version will say."""
    if not (path / "saved_model.pb").exists() and not (path / "saved_model.pbtxt").exists():
        raise ServingError(
            Code.NOT_FOUND,
            f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}",
            "A version folder holds saved_model.pb: model.export(path) and tf.saved_model.save(model, path) write it.",
        )
    try:
        return _load_into_session(path, options)
    except _NotForSession as error:
        log.info("%s is loaded by the TF2 loader: %s", path, error)
        try:
            return _FunctionServable(path, options)
        except Exception as second:
            raise _load_error(second) from second
    except ServingError:
        raise
    except Exception as error:
        raise _load_error(error) from error


def _load_into_session(path: Path, options: SavedModelOptions) -> Servable:
    try:
        return _SessionServable(path, options)
    except (parts.errors.OpError, ValueError, LookupError) as error:
        if "registered" not in str(error) or not is_postponed():
            raise
        # An op that one of TensorFlow's optional modules brings along.
        log.info("%s is loaded with the whole of TensorFlow: %s", path, error)
        whole_tensorflow()
        return _SessionServable(path, options)


class _NotForSession(Exception):
    """A TF1 session cannot run this SavedModel."""


class _Runs:
    """How long the runs of a signature take."""

    __slots__ = ("are_quick", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None  #: the last ones in the mean
        self.are_quick = False

    def note(self, took: float) -> None:
        """One more."""
        mean = self.seconds
        if mean is None:
            mean = math.inf  # the first run pays for building the executor, so it says nothing
        elif mean == math.inf or took > _SLOW_SECONDS:
            mean = took
        else:
            mean += _WEIGHT * (took - mean)
        self.seconds = mean
        self.are_quick = mean < QUICK_SECONDS


class _SessionServable:
    """A SavedModel in a session of its own."""

    def __init__(self, path: Path, options: SavedModelOptions) -> None:
        graph = parts.Graph()
        self._session = parts.Session(graph=graph, config=options.session_config)
        try:
            with graph.as_default(), parts.device(options.device or None):
                meta_graph = parts.load_saved_model(self._session, list(options.tags), str(path))
                self.signatures = _signatures(meta_graph.signature_def)
                self.signature_def_map = _signature_def_map(meta_graph.signature_def)
                self._check_variables(graph)
            effects = Effects(meta_graph.graph_def)
            self._effects = {
                name: effects.of({info.name for info in s.inputs.values()}, [info.name for info in s.outputs.values()])
                for name, s in self.signatures.items()
            }
            self._loops = any(
                node.op in _LOOPS
                for nodes in (meta_graph.graph_def.node, *(f.node_def for f in meta_graph.graph_def.library.function))
                for node in nodes
            )
        except BaseException:
            self._session.close()
            raise
        self._callables: dict[tuple[str, tuple[str, ...], int], Callable[..., list[Any]]] = {}
        self._runs = {name: _Runs() for name in self.signatures}
        self._making = threading.Lock()

    def run(
        self, signature: Signature, inputs: Sequence[Array], outputs: tuple[str, ...], timeout_ms: int = 0
    ) -> list[Array]:
        runs = self._runs[signature.name]
        if runs.are_quick:
            limit = -1
        else:  # a callable's time limit is fixed when it is made: one for each power of two
            limit = 1 << (timeout_ms - 1).bit_length() if timeout_ms > 0 else 0
        key = (signature.name, outputs, limit)
        call = self._callables.get(key) or self._make(signature, key)
        began = time.perf_counter()
        try:
            found = call(*inputs)
        except (parts.errors.OpError, ValueError, TypeError, MemoryError) as error:
            raise _error(error) from None
        if not self._loops:
            runs.note(time.perf_counter() - began)
        for value in found:
            if type(value) is not np.ndarray:
                return [value if isinstance(value, np.ndarray) else _scalar(value) for value in found]
        return found

    def is_quick(self, signature: Signature) -> bool:
        """Whether the last runs were short, and none can take much longer than another."""
        return self._runs[signature.name].are_quick

    def effect(self, signature: Signature) -> str:
        """The type of an op in its graph that keeps state or is random; "" if there is none."""
        return self._effects[signature.name]

    def _make(self, signature: Signature, key: tuple[str, tuple[str, ...], int]) -> Callable[..., list[Any]]:
        with self._making:
            if key in self._callables:
                return self._callables[key]
            options = config_pb2.CallableOptions(
                feed=[info.name for info in signature.inputs.values()],
                fetch=[signature.outputs[name].name for name in key[1]],
            )
            if key[2] < 0:
                options.run_options.inter_op_thread_pool = -1
            else:
                options.run_options.timeout_in_ms = key[2]
            # There is no public way to a callable of a session that is fed arrays; this one is what Keras and
            # `Session.make_callable` are built on.
            self._callables[key] = self._session._make_callable_from_options(options)
            return self._callables[key]

    def _check_variables(self, graph: Any) -> None:
        """Raise _NotForSession if a signature reads a variable that loading did not restore."""
        handles: dict[str, Any] = {}
        seen = set()
        operations = [
            graph.get_tensor_by_name(info.name).op
            for signature in self.signatures.values()
            for info in signature.outputs.values()
        ]
        while operations:
            operation = operations.pop()
            if operation.name not in seen:
                seen.add(operation.name)
                if operation.type == "VarHandleOp":
                    handles[operation.name] = operation.outputs[0]
                operations += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
        if handles:
            present = self._session.run([parts.var_is_initialized_op(resource=handle) for handle in handles.values()])
            missing = [name for name, is_there in zip(handles, present, strict=True) if not is_there]
            if missing:
                raise _NotForSession(f"variable {missing[0]} is not restored in a TF1 session")

    def close(self) -> None:
        self._callables.clear()
        self._session.close()
        del self._session
        _give_memory_back()


class _FunctionServable:
    """A SavedModel behind TF2's loader: slower (0.3 ms a call), and its runs cannot be stopped."""

    def is_quick(self, signature: Signature) -> bool:
        """No: a run is not measured, and takes the thread that it is in."""
        return False

    def __init__(self, path: Path, options: SavedModelOptions) -> None:
        self._tf = tf = whole_tensorflow()
        with tf.device(options.device or None):
            self._loaded: Any = tf.saved_model.load(str(path), tags=list(options.tags))
        definitions = _read_signature_defs(path, options.tags)
        self.signatures = {
            name: signature for name, signature in _signatures(definitions).items() if name in self._loaded.signatures
        }
        self.signature_def_map = _signature_def_map(definitions)
        self._options = options

    def run(
        self, signature: Signature, inputs: Sequence[Array], outputs: tuple[str, ...], timeout_ms: int = 0
    ) -> list[Array]:
        function, tf = self._loaded.signatures[signature.name], self._tf
        try:
            with tf.device(self._options.device or None):
                found = function(
                    **{
                        name: tf.constant(array, tf.as_dtype(info.numpy))
                        for (name, info), array in zip(signature.inputs.items(), inputs, strict=True)
                    }
                )
        except (parts.errors.OpError, ValueError, TypeError, MemoryError) as error:
            raise _error(error) from None
        arrays = [found[name].numpy() for name in outputs]
        return [value if isinstance(value, np.ndarray) else _scalar(value) for value in arrays]

    def close(self) -> None:
        del self._loaded
        _give_memory_back()


def _scalar(value: Any) -> Array:
    """What TensorFlow gives as a Python or numpy scalar; a string as bytes."""
    return np.array(value, object) if isinstance(value, bytes) else np.array(value)


def _signatures(definitions: Mapping[str, Any]) -> dict[str, Signature]:
    """The signatures that can be called: those whose tensors all have a type (an init op's has none)."""
    signatures = {}
    for name, definition in definitions.items():
        tensors = (*definition.inputs.values(), *definition.outputs.values())
        if not definition.outputs or any(tensor.dtype not in _NUMPY or not tensor.name for tensor in tensors):
            continue
        signatures[name] = Signature(
            name,
            {key: _info(definition.inputs[key]) for key in sorted(definition.inputs)},
            {key: _info(definition.outputs[key]) for key in sorted(definition.outputs)},
            definition.method_name,
            {key: parts.make_ndarray(value) for key, value in definition.defaults.items()},
        )
    return signatures


_SERVED = (
    "FLOAT DOUBLE INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64 BOOL STRING HALF BFLOAT16 COMPLEX64 COMPLEX128"
).split()
_NUMPY: dict[int, np.dtype[Any]] = {
    number: np.dtype(parts.as_dtype(number).as_numpy_dtype)  # object for strings
    for number in (types_pb2.DataType.Value(f"DT_{name}") for name in _SERVED)
}


def _info(tensor: meta_graph_pb2.TensorInfo) -> TensorInfo:
    shape = None if tensor.tensor_shape.unknown_rank else tuple(dim.size for dim in tensor.tensor_shape.dim)
    name = types_pb2.DataType.Name(tensor.dtype)[3:].lower()
    return TensorInfo(tensor.name, name, _NUMPY[tensor.dtype], shape)


def _signature_def_map(definitions: Mapping[str, Any]) -> bytes:
    message = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in definitions.items():
        message.signature_def[name].CopyFrom(definition)
    return bytes(message.SerializeToString())


def _read_signature_defs(path: Path, tags: Sequence[str]) -> Mapping[str, Any]:
    from tensorflow.python.saved_model import loader_impl

    for meta_graph in loader_impl.parse_saved_model(str(path)).meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return dict(meta_graph.signature_def)
    return {}


def _load_error(error: Exception) -> ServingError:
    """The same of a load, with what to do about it."""
    said = _error(error)
    return ServingError(said.code, said.message, remedy(said.message))


def _error(error: Exception) -> ServingError:
    """What TensorFlow raised, with its code and without Python's traceback."""
    if isinstance(error, parts.errors.OpError):
        message = error.message.removeprefix("Graph execution error:\n\n")
        remedy = _OUT_OF_MEMORY if isinstance(error, parts.errors.ResourceExhaustedError) else ""
        return ServingError(Code(error.error_code), message, remedy)
    if isinstance(error, MemoryError):
        return ServingError(Code.RESOURCE_EXHAUSTED, "There is not enough memory.", _OUT_OF_MEMORY)
    if isinstance(error, OSError):
        return ServingError(Code.NOT_FOUND if isinstance(error, FileNotFoundError) else Code.DATA_LOSS, str(error))
    if isinstance(error, RuntimeError):  # "MetaGraphDef associated with tags ... could not be found"
        return ServingError(Code.NOT_FOUND, str(error))
    return ServingError(Code.INVALID_ARGUMENT, f"{error}")


try:
    _malloc_trim: Callable[[int], int] | None = ctypes.CDLL("libc.so.6").malloc_trim
except (OSError, AttributeError):
    _malloc_trim = None


def _give_memory_back() -> None:
    """A graph is full of cycles, and the allocator keeps what is freed: collect the one, trim the other."""
    gc.collect()
    if _malloc_trim is not None:
        _malloc_trim(0)

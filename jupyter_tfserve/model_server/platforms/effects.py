"""What a run of a graph leaves behind: says of a signature whether it can be run just to see. Called by
`saved_model.py` when a graph is loaded; `probe.py` asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry

#: TensorFlow marks ops that touch a resource as stateful. These only read it, call a function whose body is looked at
#: by itself, or keep what they keep until the end of the run.
_HARMLESS = {
    *("VarHandleOp", "ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VarIsInitializedOp"),
    *("Variable", "VariableV2", "IsVariableInitialized"),
    *("HashTable", "HashTableV2", "LookupTableFind", "LookupTableFindV2", "LookupTableSize", "LookupTableSizeV2"),
    *("StatefulPartitionedCall", "While", "If", "Case", "Assert"),
    "XlaCallModule",  # a function of JAX: pure, its random keys are inputs
}
_HARMLESS_PREFIXES = ("TensorArray", "Ref")  # RefSwitch, RefMerge, ...: hand a TF1 variable on


class Effects:
    """The graph of a SavedModel, and the functions in its library."""

    def __init__(self, graph: graph_pb2.GraphDef) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._bodies = {function.signature.name: function.node_def for function in graph.library.function}
        self._known: dict[str, str] = {}  # by function

    def of(self, inputs: Collection[str], outputs: Iterable[str]) -> str:
        """The type of an op that keeps state, is random or reads a clock, and that takes part when tensors named
        `outputs` are fetched and those named `inputs` are fed; "" if there is none.
        """
        waiting = list(outputs)
        seen: set[str] = set()
        while waiting:
            tensor = waiting.pop()
            name = tensor.lstrip("^").partition(":")[0]
            if name in seen or (tensor if ":" in tensor else f"{tensor}:0") in inputs or name not in self._nodes:
                continue
            seen.add(name)
            node = self._nodes[name]
            found = self._effect(node)
            if found:
                return found
            waiting += node.input
        return ""

    def _effect(self, node: node_def_pb2.NodeDef) -> str:
        if node.op in self._bodies:
            return self._of_function(node.op)
        if _has_effect(node.op):
            return str(node.op)
        return next(filter(None, map(self._of_function, _functions(node))), "")

    def _of_function(self, name: str) -> str:
        """Of a whole body: what has an effect runs there whether its result is used or not."""
        if name not in self._known:
            self._known[name] = ""  # it may call itself
            self._known[name] = next(filter(None, map(self._effect, self._bodies.get(name, ()))), "")
        return self._known[name]


def _functions(node: node_def_pb2.NodeDef) -> Iterator[str]:
    value: Any
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        for function in value.list.func:
            yield function.name


def _has_effect(op: str) -> bool:
    if op in _HARMLESS or op.startswith(_HARMLESS_PREFIXES):
        return False
    definition = op_def_registry.get(op)
    if definition is None:  # nobody knows what it does
        return True
    return definition.is_stateful or any(argument.is_ref for argument in definition.input_arg)

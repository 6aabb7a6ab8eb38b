"""A SavedModel is code: ops that read or write files, reach the network or run Python are refused in what was uploaded.
`uploads.py` asks before it publishes. Reads the graph by its wire format: Jupyter Server has no TensorFlow.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..wire import BYTES, WireError, fields

#: Refused wherever they stand. The names are TensorFlow's, with their versions (V2, V3) and older spellings.
_NEVER = re.compile(
    r"(_?(Eager)?PyFunc(Stateless)?|ReadFile|WriteFile|(Experimental)?MatchingFiles(Dataset)?|FileSystemSetConfiguration"
    r"|ImmutableConst|DumpTensor|LoadAndRemapMatrix"
    r"|(TextLine|FixedLengthRecord|TFRecord|WholeFile|LMDB)(Reader|Dataset)"
    r"|(Experimental)?(Sql|LMDB|CSV)Dataset|(Save|Load|Snapshot\w*|ListSnapshotChunks|DatasetFromGraph)Dataset"
    r"|Snapshot(NestedDatasetReader|DatasetReader|ChunkDataset)|(DatasetToTFRecord|ExperimentalDatasetToTFRecord)"
    r"|DistributedSave|CacheDataset|DataServiceDataset|\w*DataService\w*"
    r"|PrintV2|Debug\w+|CalibrationStatisticsSaver|Create(Summary|\w*)(File|Db)Writer|Write\w*Summary|SummaryWriter|ImportEvent"
    r"|Rpc\w+|RemoteCall|WorkerHeartbeat|_?(Host)?(Send|Recv)|Collective\w+|_?Nccl\w+|IO\w*>\w+|Zmq\w*|BigQuery\w*|Bigtable\w*"
    r"|InitializeTableFromTextFile|GenerateVocabRemapping|\w*TPU\w*)(V\d+)?"
)

#: Every SavedModel has them, to save and restore its variables: refused where a prediction or the initialisation runs
#: them, with names of files that the model or its caller chooses.
_SAVING = re.compile(r"(Save|SaveSlices|Restore|RestoreSlice|MergeV2Checkpoints|DTensorRestore)(V\d+)?")


class Hostile(Exception):
    """The version is refused: it names ops, or cannot be read."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


@dataclass
class _Node:
    """A node of a graph or of a function."""

    op: str = ""
    inputs: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)


def check(version: Path, allowed: frozenset[str]) -> None:
    """Raise Hostile for a version folder whose SavedModel has ops that are not `allowed`."""
    for name in ("saved_model.pbtxt", "saved_model.cpb"):
        if (version / name).exists():
            raise Hostile(f"{name} is not taken from afar: its ops cannot be checked here.", "Upload saved_model.pb.")
    try:
        model = (version / "saved_model.pb").read_bytes()
    except FileNotFoundError:
        return  # no SavedModel: the model server says so
    try:
        found = sorted({op for op in _forbidden(model) if op not in allowed})
    except (WireError, UnicodeDecodeError, RecursionError) as error:
        raise Hostile("saved_model.pb is no SavedModel that can be read.", "Export it again.") from error
    if found:
        raise Hostile(
            f"The model has ops that touch files, the network or Python: {', '.join(found)}.",
            "If you trust it, allow them with TFServe.allowed_ops in the Jupyter Server's configuration.",
        )


def _forbidden(model: bytes) -> Iterator[str]:
    for number, kind, meta_graph in fields(model):
        if (number, kind) == (2, BYTES):
            yield from _forbidden_in(meta_graph)


def _forbidden_in(meta_graph: memoryview) -> Iterator[str]:
    graph: dict[str, _Node] = {}
    functions: dict[str, list[_Node]] = defaultdict(list)
    start: set[str] = set()
    for number, kind, value in fields(meta_graph):
        if kind != BYTES:
            continue
        if number == 2:
            _read_graph(value, graph, functions)
        elif number == 5:  # signature_def
            start |= set(_outputs(value))
        elif number == 4:  # collection_def: what else is run when it is loaded (TF1's main_op and legacy_init_op)
            start |= set(_init_ops(value))
    nodes = [*graph.values(), *(node for body in functions.values() for node in body)]
    yield from (node.op for node in nodes if _NEVER.fullmatch(node.op))
    for node in _reachable(graph, functions, start):
        if _SAVING.fullmatch(node.op):
            yield node.op


def _read_graph(message: memoryview, graph: dict[str, _Node], functions: dict[str, list[_Node]]) -> None:
    for number, kind, value in fields(message):
        if (number, kind) == (1, BYTES):
            name, node = _node(value)
            graph[name] = node
        elif (number, kind) == (2, BYTES):  # library
            for _, part_kind, function in (part for part in fields(value) if part[0] == 1):
                if part_kind == BYTES:
                    _read_function(function, functions)


def _read_function(message: memoryview, functions: dict[str, list[_Node]]) -> None:
    name, body = "", []
    for number, kind, value in fields(message):
        if (number, kind) == (1, BYTES):  # signature: an OpDef, whose field 1 is the name
            name = next((_text(v) for n, k, v in fields(value) if (n, k) == (1, BYTES)), name)
        elif (number, kind) == (3, BYTES):
            body.append(_node(value)[1])
    functions[name].extend(body)


def _node(message: memoryview) -> tuple[str, _Node]:
    name, node = "", _Node()
    for number, kind, value in fields(message):
        if kind != BYTES:
            continue
        if number == 1:
            name = _text(value)
        elif number == 2:
            node.op = _text(value)
        elif number == 3:
            node.inputs.append(_text(value).removeprefix("^").partition(":")[0])
        elif number == 5:  # attr: a map's entry, whose field 2 is an AttrValue
            for entry, entry_kind, attr in fields(value):
                if (entry, entry_kind) == (2, BYTES):
                    node.functions += _functions(attr)
    return name, node


def _functions(attr: memoryview) -> Iterator[str]:
    """The functions that an AttrValue names: `func`, also in a list."""
    for number, kind, value in fields(attr):
        if kind != BYTES:
            continue
        if number == 10:  # func: NameAttrList
            yield from (_text(name) for n, k, name in fields(value) if (n, k) == (1, BYTES))
        elif number == 1:  # list
            for item, item_kind, func in fields(value):
                if (item, item_kind) == (9, BYTES):
                    yield from (_text(name) for n, k, name in fields(func) if (n, k) == (1, BYTES))


def _outputs(entry: memoryview) -> Iterator[str]:
    """The nodes that an entry of signature_def fetches; its key does not matter, loading runs some too."""
    for number, kind, signature in fields(entry):
        if (number, kind) == (2, BYTES):
            for part, part_kind, tensor_entry in fields(signature):
                if (part, part_kind) == (2, BYTES):  # outputs
                    for n, k, info in fields(tensor_entry):
                        if (n, k) == (2, BYTES):
                            yield from (_text(v).partition(":")[0] for m, j, v in fields(info) if (m, j) == (1, BYTES))


def _init_ops(entry: memoryview) -> Iterator[str]:
    """Nodes that a collection names: saved_model_main_op, legacy_init_op and all others of the kind node_list."""
    for number, kind, collection in fields(entry):
        if (number, kind) == (2, BYTES):
            for part, part_kind, listed in fields(collection):
                if (part, part_kind) == (1, BYTES):  # node_list
                    yield from (_text(v).partition(":")[0] for n, k, v in fields(listed) if (n, k) == (1, BYTES))


def _reachable(graph: dict[str, _Node], functions: dict[str, list[_Node]], start: set[str]) -> Iterator[_Node]:
    """What runs for the nodes of `start`: their inputs, and whole functions that are called."""
    waiting, seen = list(start), set(start)
    called: set[str] = set()
    while waiting:
        node = graph.get(waiting.pop())
        if node is None:
            continue
        bodies = [node]
        while bodies:
            one = bodies.pop()
            yield one
            for name in {*one.functions, one.op} - called:  # a function may be called by an op of its name
                if name in functions:
                    called.add(name)
                    bodies += functions[name]
        new = [name for name in node.inputs if name not in seen]
        seen.update(new)
        waiting += new


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8")

"""The management API's messages: the one vocabulary of the model server, the extension, the kernel and the front ends.

Every message is plain JSON; the TypedDicts here name its keys. The same paths are answered in two places: by a model
server on its Unix socket, and by the Jupyter Server under ``<base_url>/tfserve`` (which adds what only the owner of the
model server knows: :class:`ServerInfo`). `docs/openapi.yaml` describes them for other languages.

=======  ===================================  ==========================================================================
GET      /api/state                           :class:`State`
GET      /api/models/NAME                     :class:`ModelStatus`; ``?wait=VERSION&timeout=SECONDS`` answers when that
                                              version has loaded, failed or been replaced, or the time is over
PUT      /api/models/NAME                     :class:`ModelRequest` -> :class:`ModelStatus` (creates or changes)
DELETE   /api/models/NAME                     stops serving; ``?files=true`` deletes the store's copy too
PUT      /api/models/NAME/policy              :class:`Policy` -> :class:`ModelStatus`
PUT      /api/models/NAME/batching            :class:`BatchingRequest` -> :class:`ModelStatus`
PUT      /api/models/NAME/device              :class:`PlacementRequest` -> :class:`ModelStatus`: the move has begun;
                                              with ``?timeout=SECONDS`` it is over, or the time is
PATCH    /api/models/NAME/labels              ``{"label": version or null}`` -> :class:`ModelStatus`
GET      /api/models/NAME/example             :class:`Example`; ``?signature=S``
GET/PUT  /api/config                          the whole ModelServerConfig as text proto -> :class:`State`
GET      /api/devices                         :class:`DeviceList`
GET      /api/events                          :class:`Event` objects as server-sent events; ``?stats=true`` adds those
                                              of type "stats"
GET      /api/stats                           :class:`Stats`, ``?seconds=N``
POST     /api/server                          :class:`ServerRequest` -> :class:`ServerInfo` (owner only)
GET      /api/logs                            the model server's log as text, ``?lines=N``; ``?follow=true`` goes on
                                              until the caller goes; ``?process=ID``: a worker's (owner only)
POST     /api/uploads                         :class:`UploadRequest` -> :class:`Upload` (owner only)
PUT      /api/uploads/ID                      ``?path=P&offset=N``, raw bytes -> :class:`Upload` (owner only)
POST     /api/uploads/ID                      checks the hashes, publishes -> :class:`Upload` (owner only)
DELETE   /api/uploads/ID                      gives up (owner only)
POST     /api/saved_models                    :class:`SavedModelRequest` -> :class:`ServedVersion` (owner only)
GET      /api/shares                          :class:`ShareList` (owner only)
POST     /api/shares                          :class:`ShareRequest` -> :class:`NewShare` (owner only)
DELETE   /api/shares/ID                       revokes it at once (owner only)
=======  ===================================  ==========================================================================

A refusal has a 4xx or 5xx status and is a :class:`Refusal`. Beside these a model server answers its owner's
``GET /api/heartbeat`` with 200 as long as it works (`process.py`).
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

#: TF Serving's names for what a version goes through (`core/servable_state.h`).
VersionState = Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]


class LatestPolicy(TypedDict):
    """Serve the highest `num_versions` versions."""

    num_versions: int


class SpecificPolicy(TypedDict):
    """Serve just these versions."""

    versions: list[int]


class AllPolicy(TypedDict):
    """Serve every version there is."""


class Policy(TypedDict, total=False):
    """TF Serving's ServableVersionPolicy: exactly one of the three keys."""

    latest: LatestPolicy
    all: AllPolicy
    specific: SpecificPolicy


#: "on": requests are merged. "auto": those for signatures whose rows were seen to be independent. "off": none are.
BatchingMode = Literal["on", "auto", "off"]


class BatchingRequest(TypedDict, total=False):
    """How a model's requests are to be run; keys left out keep their value, null goes back to the default."""

    mode: BatchingMode | None
    max_batch_size: int | None  #: rows of one request, and of one run
    batch_timeout_micros: int | None  #: how long a run waits for more; 0: it takes what is there
    max_enqueued_batches: int | None  #: full batches that may wait; what comes on top is refused (503)
    num_batch_threads: int | None  #: runs of one signature at the same time
    allowed_batch_sizes: list[int] | None  #: a run is padded to the next of these; ascending
    pad_variable_length_inputs: bool | None  #: requests of different lengths are padded to the longest and merged
    enable_large_batch_splitting: bool | None  #: a request larger than a run may be is run in pieces
    max_execution_batch_size: int | None  #: rows of one run, with splitting; 0: max_batch_size


class Batching(TypedDict):
    """How a model's requests are run."""

    mode: BatchingMode
    max_batch_size: int
    batch_timeout_micros: int
    max_enqueued_batches: int
    num_batch_threads: int
    allowed_batch_sizes: list[int]
    pad_variable_length_inputs: bool
    enable_large_batch_splitting: bool
    max_execution_batch_size: int
    signatures: dict[str, str]  #: why requests for a signature are not merged, "" if they are


class PlacementRequest(TypedDict, total=False):
    """Where a model is to be served; keys left out keep their value."""

    device: str  #: "auto", "cpu", "gpu:0", ...
    replicas: int  #: worker processes that have it, each with all of its versions
    memory_limit: int | None  #: bytes of GPU memory; it has a process of its own then


class Placement(TypedDict):
    """Where a model is served."""

    device: str  #: what was asked for: "auto" (the default), "cpu", "gpu:0", ...
    replicas: int
    memory_limit: int | None
    moving_to: str  #: "" unless a move is under way
    error: str  #: why the last move failed, "" if it did not


class ModelRequest(TypedDict, total=False):
    """What to serve under a name; keys left out keep their value, or take TF Serving's default in a new model."""

    base_path: str  #: absolute folder that holds version folders; default: the store's own folder of that name
    platform: str  #: default "tensorflow"
    policy: Policy  #: default {"latest": {"num_versions": 1}}
    labels: dict[str, int | None]  #: merged into those there are; null takes a label away
    keep_versions: int  #: newest version folders that the store keeps on disk; 0 keeps all (the default)
    placement: PlacementRequest  #: where its versions are to be loaded
    python: str  #: read by the owner only: interpreter for the model server where Jupyter's own has no TensorFlow


class Tensor(TypedDict):
    """One input or output of a signature, as the model declares it."""

    dtype: str  #: TensorFlow's name: "float32", "string", ...
    shape: list[int] | None  #: -1 for an open dimension; null for unknown rank


class Signature(TypedDict):
    """A way to call a model."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    method_name: str


class Origin(TypedDict):
    """Who made a version, and where: from the file that a registration leaves in it. A claim of that file, no proof."""

    notebook: str  #: path of the notebook file, "" where it is not known
    cell: int | None  #: the execution count of the cell
    user: str
    time: float  #: Unix time of the registration


class VersionStatus(TypedDict):
    """One version, loaded or not."""

    version: int
    state: VersionState
    error_code: str  #: a canonical code's name, "OK" when all is well
    error_message: str
    error_remedy: str  #: what to do about it, "" where nothing can be said
    labels: list[str]
    path: str
    since: float  #: Unix time of the last change of state
    load_seconds: float | None  #: how long loading took, when it has loaded
    in_flight: int  #: requests that run in it now
    devices: list[str]  #: where it is loaded
    memory: int | None  #: bytes that it takes, measured or estimated; null unless it is loaded
    idle: bool  #: it has left memory until somebody asks it (`--unload_idle_seconds`)
    origin: Origin | None  #: null for a version that no registration made


class ModelStatus(TypedDict):
    """One served model."""

    name: str
    base_path: str
    platform: str
    policy: Policy
    labels: dict[str, int]
    keep_versions: int
    versions: list[VersionStatus]  #: those that are or were served, highest first
    on_disk: list[int]  #: those in `base_path`, to be served or not, highest first
    signatures: dict[str, Signature]  #: of the version that answers by default; {} while none does
    batching: Batching  #: of that version; without one, what the next will go by
    placement: Placement
    error: str  #: why the model as a whole cannot be served ("" when it can): no such folder, no version in it


class Sample(TypedDict):
    """What one model did in one second."""

    requests: int  #: that were answered, errors included
    errors: int
    p50_ms: float | None  #: of the answers without an error, from their arrival on; null if there was none
    p99_ms: float | None
    queue_ms: float | None  #: mean wait of a request for its run; null if there was no run
    in_flight: int  #: at the end of the second
    queued: int  #: of those, the ones that wait for a run
    batch_sizes: dict[str, int]  #: runs, by rows with their padding, up to each power of two: {"1": 3, "2": 0, "4": 10}


class Stats(TypedDict):
    """The last seconds."""

    time: float  #: Unix time of the last sample
    seconds: int  #: length of each list
    samples: dict[str, list[Sample | None]]  #: by model, oldest first; null: nothing happened in that second. Models
    #: that did nothing at all are left out


class Example(TypedDict):
    """A request to try a model with."""

    signature: str
    body: dict[str, Any]  #: for :predict: what was kept with the version, else zeros in the signature's shapes


ServerState = Literal["stopped", "starting", "running", "restarting", "failed"]


class Device(TypedDict):
    """A device that models can be served on."""

    id: str  #: "cpu", "gpu:0"; "gpu:0:1" for a MIG instance
    kind: Literal["cpu", "gpu", "mig"]
    name: str  #: "NVIDIA H100 80GB HBM3"
    memory_total: int | None  #: bytes; of the CPU: the container's, else the machine's
    memory_used: int | None  #: bytes, by all programs
    load: float | None  #: 0 to 1
    usable: bool
    reason: str  #: why TensorFlow cannot use it, in plain words ("" when it can)
    remedy: str
    models: list[str]  #: served there


class DeviceList(TypedDict):
    """The devices of the machine."""

    devices: list[Device]  #: the CPU first
    notice: str  #: "" or why there is no GPU: "No NVIDIA driver is installed on this machine."


class Process(TypedDict):
    """One model server process."""

    id: str  #: "server", which has the ports; a worker is called for what it is for: "cpu", "gpu:0/digits/3"
    pid: int | None
    device: str  #: "" for one that runs no models
    state: ServerState
    restarts: int
    memory: int | None  #: bytes that it has in memory
    models: list[str]


class LastExit(TypedDict):
    """How the model server before this one ended, when that was not asked for."""

    reason: str  #: plain words: "killed by SIGKILL (out of memory, or by hand)"
    time: float
    log_tail: str


class ServerInfo(TypedDict):
    """The model server process, as the one who owns it sees it."""

    state: ServerState
    pid: int | None
    python: str  #: the interpreter it runs on
    store: str
    store_id: str  #: the content of `<store>/.store_id`: who can read the same there shares the disk
    rest_port: int | None
    grpc_port: int | None
    host: str
    socket: str  #: its Unix socket
    started_at: float | None
    restarts: int
    last_exit: LastExit | None
    notices: list[str]  #: what the user should be told once: "port 8500 was taken: gRPC answers on 8502"
    error: str  #: why it could not be started ("" when it could)
    remedy: str
    token_file: str  #: 0600 file with the bearer that the direct ports accept beside Jupyter's own ("" for none)


class State(TypedDict):
    """Everything at a glance."""

    server: ServerInfo | None  #: null when asked of a model server directly
    versions: dict[str, str]  #: of software: "tensorflow", "jupyter_tfserve"
    models: list[ModelStatus]  #: by name
    processes: list[Process]  #: of the model server: the one with the ports, and its workers
    stored: list[str]  #: models that the store holds and that are not served


class ServerRequest(TypedDict, total=False):
    """What to do with the model server process."""

    action: Literal["start", "stop", "restart"]
    python: str  #: as in ModelRequest


class UploadFile(TypedDict):
    """One file of a version that comes over the network."""

    path: str  #: relative, with "/"
    size: int
    sha256: str


class UploadRequest(TypedDict):
    """A version that is to come in pieces; asked again with the same files it goes on where it stopped."""

    model: str
    version: int | None  #: null: the Unix time, above the newest
    files: list[UploadFile]


class Upload(TypedDict):
    """How far an upload is."""

    id: str
    model: str
    version: int
    received: dict[str, int]  #: bytes that are there, by file
    published: str  #: the version's folder once it is published, else ""


class SavedModelRequest(TypedDict, total=False):
    """A SavedModel among the files that the Jupyter Server shows; a copy of it is to be served."""

    path: str  #: required: its folder, as the contents API names it
    name: str  #: required: of the model
    version: int | None  #: default: the Unix time, above the newest
    labels: list[str]  #: that move to it in the moment that it answers


class ServedVersion(TypedDict):
    """What a SavedModel became; whether it has loaded, `GET /api/models/NAME` says."""

    name: str
    version: int


#: To whom: a user of the Hub, whoever opens a link on the Hub, whoever has the key.
ShareKind = Literal["user", "link", "key"]


class ShareRequest(TypedDict, total=False):
    """Who may predict with which models; nothing else is ever shared."""

    models: list[str]  #: required
    kind: ShareKind  #: default: "user" with `user`, else "link" on a Hub and "key" elsewhere
    user: str  #: of the Hub
    versions: list[int]  #: only these; the request must name one
    labels: list[str]  #: only these; the request must name one
    expires_in: float | None  #: seconds; null for never; default a week
    rate: float | None  #: requests a second
    concurrency: int | None  #: requests in flight
    note: str


class Share(TypedDict):
    """One share."""

    id: str
    kind: ShareKind
    models: list[str]
    versions: list[int]
    labels: list[str]
    user: str  #: "" unless it is for a user of the Hub
    created: float
    expires: float | None
    rate: float | None
    concurrency: int | None
    note: str
    last_used: float | None  #: to the minute


class ShareList(TypedDict):
    """Everything that is shared."""

    shares: list[Share]
    kinds: list[ShareKind]  #: that can be made on this server; the default comes first


class NewShare(TypedDict):
    """A share, and what is told this once."""

    share: Share
    key: str  #: the access key; "" for other kinds
    accept_url: str  #: where the colleague accepts a link, on the Hub; "" for other kinds; may lack scheme and host


#: What a model goes through that moves to another device; "failed" leaves it where it was.
MoveState = Literal["loading", "switched", "draining", "done", "failed"]


class Event(TypedDict, total=False):
    """Something changed. `type` and `time` are always there."""

    type: Literal["version", "model", "server", "refusal", "move", "stats"]
    time: float
    model: str  #: version, model, move; refusal: the one asked for, "" for none
    version: int  #: version
    state: str  #: version: VersionState; server: ServerState; model: "served", "changed" or "removed"; move: MoveState
    error: str
    device: str  #: move: where to
    reason: str  #: server: why
    port: Literal["rest", "grpc"]  #: refusal: where; the model server tells these, and the Jupyter Server audits them
    status: int  #: refusal: the HTTP status that it is or would be
    grant: str  #: refusal: of the caller, "" for one whom nobody knows
    count: int  #: refusal: how many like it within a second
    samples: dict[str, Sample]  #: stats: each second, by model; those that did nothing are left out


class Refusal(TypedDict):
    """The body of every error."""

    message: str  #: what is wrong, in plain words
    remedy: str  #: what to do about it ("" where nothing can be said)

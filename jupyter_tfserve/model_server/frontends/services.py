"""TF Serving's gRPC services, from bytes to bytes, whatever transport carries them.

All methods are functions that return the reply. Predict can also be started and left: the transport gives a `Call`,
which is told the reply when the run that its request became part of is done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    regression_pb2,
)

from .. import inference, metrics
from ..codecs import examples, predict_message, prediction_log
from ..config import Config, to_models
from ..core.manager import Version
from ..core.policy import LoggingConfig
from ..core.servable import DEFAULT_SIGNATURE
from ..core.server_core import ServerCore
from ..core.tasks import Turn, run_here
from ..errors import Code, ServingError, invalid
from ..request_log import RequestLogs
from .grpc_predict import Call, Prediction, WaitingCall
from .profiler import PROFILER_SERVICE, ProfilerService

log = logging.getLogger(__name__)

#: A method: the request's bytes and its deadline (`time.monotonic()`, None for none) -> the reply's bytes.
Method = Callable[[bytes, float | None], bytes]

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

_STATES = {"START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50}

_SIGNATURE_DEF = "signature_def"


class Services:
    """PredictionService and ModelService over one server core."""

    runs_here = True  #: whether the versions are in this process

    def __init__(
        self,
        core: ServerCore,
        as_tensor_content: bool = False,
        check_method_names: bool = False,
        logs: RequestLogs | None = None,
        reload: Callable[[Config], object] | None = None,
        profiler: ProfilerService | None = None,
    ) -> None:
        self.core = core
        self.as_tensor_content = as_tensor_content
        self._check_method_names = check_method_names
        self._logs = logs or RequestLogs()
        self._metrics: dict[str, tuple[metrics.Distribution, metrics.Count]] = {}  # of models that were served
        self._reload = reload or (lambda config: core.reload(to_models(config)))
        self._profiler = profiler

    def methods(self) -> Mapping[str, Mapping[str, Method]]:
        """Every method by service and name."""
        return {
            PREDICTION_SERVICE: {
                "Predict": self.predict,
                "Classify": self.classify,
                "Regress": self.regress,
                "MultiInference": self.multi_inference,
                "GetModelMetadata": self.get_model_metadata,
            },
            MODEL_SERVICE: {
                "GetModelStatus": self.get_model_status,
                "HandleReloadConfigRequest": self.handle_reload_config_request,
            },
            **({PROFILER_SERVICE: self._profiler.methods()} if self._profiler else {}),
        }

    def predict(self, payload: bytes, deadline: float | None) -> bytes:
        """PredictionService/Predict."""
        call = WaitingCall(payload, deadline)
        run_here(lambda turn: self.start_predict(call, turn, here=True))
        return call.wait()

    def start_predict(self, call: Call, turn: Turn, here: bool = False) -> None:
        """PredictionService/Predict: decode, and wait for the run without waiting here. What goes wrong is the call's
        answer; `turn` and `here` are those of `core.batch_queue.Queue.submit`.
        """
        task = Prediction(self, call)
        try:
            task.request = request = predict_message.parse(call.payload)
            asked = request.model_spec
            task.model = asked.name
            if not task.model and not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            name, number, label = spec_of(asked)
            # From here on it is known who answers; the payload is still as it came.
            task.version = version = self.core.acquire(name, number, label)
            call.payload = b""
            queue = inference.queue(
                version.loaded, asked.signature_name, request.output_filter, Code.FAILED_PRECONDITION
            )
            task.inputs = predict_message.inputs(request, queue.signature)
            task.queue = queue
            queue.submit(task, turn, here)
        except ServingError as error:
            task.failed(error)
        except Exception:
            log.exception("A gRPC request failed")
            task.failed(ServingError(Code.INTERNAL, "Internal error"))

    def classify(self, payload: bytes, deadline: float | None) -> bytes:
        """PredictionService/Classify."""
        request = _parse(classification_pb2.ClassificationRequest, payload)
        response = classification_pb2.ClassificationResponse()
        with _Counted(request, "Classify") as spec, self.core.use(*spec) as version:
            batch = examples.from_input(request.input)
            metrics.count_examples(version.model, len(batch))
            self._classify(version, request.model_spec.signature_name, batch, deadline, response.result, "Classify")
        _fill_spec(response.model_spec, version, request.model_spec.signature_name)
        self._log("classify", version.model, request, response)
        return bytes(response.SerializeToString())

    def regress(self, payload: bytes, deadline: float | None) -> bytes:
        """PredictionService/Regress."""
        request = _parse(regression_pb2.RegressionRequest, payload)
        response = regression_pb2.RegressionResponse()
        with _Counted(request, "Regress") as spec, self.core.use(*spec) as version:
            batch = examples.from_input(request.input)
            metrics.count_examples(version.model, len(batch))
            self._regress(version, request.model_spec.signature_name, batch, deadline, response.result, "Regress")
        _fill_spec(response.model_spec, version, request.model_spec.signature_name)
        self._log("regress", version.model, request, response)
        return bytes(response.SerializeToString())

    def multi_inference(self, payload: bytes, deadline: float | None) -> bytes:
        """PredictionService/MultiInference: the first task's model and version serve all tasks."""
        request = _parse(inference_pb2.MultiInferenceRequest, payload)
        if not request.tasks:
            raise invalid("Inference request must have at least one task.")
        name = request.tasks[0].model_spec.name
        seen = set()
        for task in request.tasks:
            if not task.model_spec.name:
                raise invalid("Found ModelSpec with an empty model name.")
            if task.model_spec.name != name:
                raise invalid(
                    "All ModelSpecs in a MultiInferenceRequest must access the same model name. "
                    f"Expected: {name} Found: {task.model_spec.name}"
                )
            if task.model_spec.signature_name in seen:
                raise invalid(f"Duplicate evaluation of signature: {task.model_spec.signature_name}")
            seen.add(task.model_spec.signature_name)
        batch = examples.from_input(request.input)
        response = inference_pb2.MultiInferenceResponse()
        with self.core.use(*spec_of(request.tasks[0].model_spec)) as version:
            metrics.count_examples(version.model, len(batch))
            for task in request.tasks:
                result = response.results.add()
                signature = task.model_spec.signature_name
                if task.method_name == inference.CLASSIFY_METHOD:
                    target = result.classification_result
                    self._classify(version, signature, batch, deadline, target, "MultiInference")
                elif task.method_name == inference.REGRESS_METHOD:
                    target = result.regression_result
                    self._regress(version, signature, batch, deadline, target, "MultiInference")
                else:
                    raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
                _fill_spec(result.model_spec, version, signature)
        self._log("multi_inference", version.model, request, response)
        return bytes(response.SerializeToString())

    def metrics_of(self, model: str) -> tuple[metrics.Distribution, metrics.Count]:
        """The latencies of a model's predictions, and how many there were."""
        found = self._metrics.get(model)
        if found is None:
            found = self._metrics[model] = (
                metrics.REQUEST_LATENCY.child(model, "Predict", "GRPC"),
                metrics.REQUEST_COUNT.child(model, "OK"),
            )
        return found

    def answer(self, model: str, calls: Sequence[Call], replies: Sequence[bytes], began: Sequence[float]) -> None:
        """Answer predictions that went well, and count them; `began` has a `time.monotonic()` for each."""
        now = time.monotonic()
        for call, reply in zip(calls, replies, strict=True):
            call.reply(reply)
        latency, successes = self.metrics_of(model)
        latency.observe_all([(now - start) * 1e6 for start in began])
        successes.add(len(replies))

    def refuse(self, model: str, call: Call, error: ServingError) -> None:
        """Answer a prediction with an error."""
        metrics.REQUEST_COUNT.add(model, error.code.name)
        call.fail(error)

    def log_prediction(self, request: Any, reply: bytes, config: LoggingConfig) -> None:
        """Offer a prediction, whose reply is serialized, to its model's log."""
        self._logs.offer(
            request.model_spec.name,
            config,
            lambda rate: prediction_log.record("predict", request, predict_message.reply(reply), rate),
        )

    def _log(self, kind: str, model: str, request: Any, response: Any) -> None:
        config = self.core.logging(model)
        self._logs.offer(model, config, lambda rate: prediction_log.record(kind, request, response, rate))

    def _classify(
        self, version: Version, name: str, batch: list[bytes], deadline: float | None, result: Any, api: str
    ) -> None:
        rows = inference.classify(version.loaded, name, batch, self._check_method_names, _left(deadline), api)
        prediction_log.fill_classes(result, rows)

    def _regress(
        self, version: Version, name: str, batch: list[bytes], deadline: float | None, result: Any, api: str
    ) -> None:
        values = inference.regress(version.loaded, name, batch, self._check_method_names, _left(deadline), api)
        prediction_log.fill_values(result, values)

    def get_model_metadata(self, payload: bytes, deadline: float | None) -> bytes:
        """PredictionService/GetModelMetadata."""
        request = _parse(get_model_metadata_pb2.GetModelMetadataRequest, payload)
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        name, number, label = spec_of(request.model_spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self.core.use(name, number, label) as version:
            signatures = get_model_metadata_pb2.SignatureDefMap.FromString(version.loaded.signature_def_map)
            response.model_spec.version.value = version.number
        response.model_spec.name = name
        response.metadata[_SIGNATURE_DEF].Pack(signatures)
        return bytes(response.SerializeToString())

    def get_model_status(self, payload: bytes, deadline: float | None) -> bytes:
        """ModelService/GetModelStatus: labels are not looked at."""
        request = _parse(get_model_status_pb2.GetModelStatusRequest, payload)
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        name = request.model_spec.name
        versions = self.core.manager.versions(name)
        if request.model_spec.WhichOneof("version_choice") == "version":
            number = request.model_spec.version.value
            versions = [version for version in versions if version.number == number]
            if not versions:
                raise ServingError(Code.NOT_FOUND, f"Could not find version {number} of model {name}")
        if not versions and name not in self.core.models:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in versions:
            status = response.model_version_status.add(version=version.number, state=_STATES[version.state])
            status.status.error_code = int(version.error.code) if version.error else 0
            status.status.error_message = version.error.message if version.error else ""
        return bytes(response.SerializeToString())

    def handle_reload_config_request(self, payload: bytes, deadline: float | None) -> bytes:
        """ModelService/HandleReloadConfigRequest: returns when each new model has a version or none that could be
        had.
        """
        request = _parse(model_management_pb2.ReloadConfigRequest, payload)
        if request.config.WhichOneof("config") is None:
            raise invalid("ModelServerConfig of the request holds no model_config_list.")
        counted = metrics.totals(request.metric_names)
        before = set(self.core.models)
        self._reload(request.config)
        failures = self.core.wait(
            [model.name for model in request.config.model_config_list.config if model.name not in before]
        )
        if failures:
            raise ServingError(Code.UNKNOWN, not_available(failures))
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = 0
        for name, count in metrics.totals(request.metric_names).items():
            response.metric.add(name=name).int64_value_increase = count - counted[name]
        return bytes(response.SerializeToString())


def not_available(failures: Mapping[str, str]) -> str:
    """TF Serving's text for models that could not be loaded."""
    each = ", ".join(f"{{{{{{name: {name}}} due to error: {why}}}}}" for name, why in failures.items())
    return f"{len(failures)} model(s) did not become available: {each}"


def _parse(message: Any, payload: bytes) -> Any:
    try:
        return message.FromString(payload)
    except Exception:  # protobuf's DecodeError, which differs between its implementations
        raise ServingError(Code.INTERNAL, f"The request is no {message.DESCRIPTOR.full_name}") from None


def spec_of(spec: Any) -> tuple[str, int | None, str]:
    """Model, version and label that a ModelSpec asks for. Raises ServingError."""
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    if spec.HasField("version"):
        return spec.name, spec.version.value, ""
    return spec.name, None, spec.version_label


def _fill_spec(spec: Any, version: Version, signature: str) -> None:
    """The ModelSpec of a reply: the version always, the default signature's name where none was asked for."""
    spec.name = version.model
    spec.version.value = version.number
    spec.signature_name = signature or DEFAULT_SIGNATURE


class _Counted:
    """A ``with`` block around a request: gives what its ModelSpec asks for, and counts how the block ended."""

    def __init__(self, request: Any, api: str) -> None:
        self._request = request
        self._api = api
        self._began = time.perf_counter()

    def __enter__(self) -> tuple[str, int | None, str]:
        try:
            if not self._request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            return spec_of(self._request.model_spec)
        except ServingError as error:
            self.__exit__(type(error), error)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *trace: object) -> None:
        name = self._request.model_spec.name
        if error is None:
            metrics.REQUEST_COUNT.add(name, "OK")
            metrics.REQUEST_LATENCY.observe((time.perf_counter() - self._began) * 1e6, name, self._api, "GRPC")
        else:
            code = error.code if isinstance(error, ServingError) else Code.INTERNAL
            metrics.REQUEST_COUNT.add(name, code.name)


def _left(deadline: float | None) -> int:
    """Milliseconds until a deadline, 0 for none."""
    if deadline is None:
        return 0
    left = int((deadline - time.monotonic()) * 1000)
    if left <= 0:
        raise ServingError(Code.DEADLINE_EXCEEDED, "The deadline has passed")
    return left

"""The gRPC services: `tensorflow.serving.PredictionService` and `tensorflow.serving.ModelService`.

Sources: get_model_metadata_impl.cc in tensorflow_serving/servables/tensorflow, and
get_model_status_impl.cc and model_service_impl.cc in tensorflow_serving/model_servers.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.core.servable_harness import Version
from serving.core.server_core import ServerCore
from serving.errors import ServingError, invalid_argument
from serving.model_servers.monitoring import OK, Monitoring
from serving.servables.classify_and_regress import classify, multi_inference, regress
from serving.servables.predict import Run, predict
from serving.servables.servable import DEFAULT_SIGNATURE, Servable
from serving.servables.tensors import Array

log = logging.getLogger(__name__)

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
METADATA_FIELD = "signature_def"
# Reloads wait for models to load; this many may do so without holding up anybody else.
RELOAD_THREADS = 4

Answer = Callable[[Any, Any], Any]
Compute = Callable[[Servable, Run, Any], Any]


class PredictionService:
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(
        self,
        core: ServerCore,
        monitoring: Monitoring,
        *,
        as_content: bool = False,
        check_method: bool = False,
    ) -> None:
        """Answer with what the core serves.

        Args:
            core: has the versions.
            monitoring: is told of every request.
            as_content: whether tensors are sent as `tensor_content`.
            check_method: whether signatures that were exported for another method are refused.
        """
        self._core = core
        self._monitoring = monitoring
        self._predict = functools.partial(predict, as_content=as_content, check_method=check_method)
        self._classify = functools.partial(classify, check_method=check_method)
        self._regress = functools.partial(regress, check_method=check_method)
        self._multi_inference = functools.partial(multi_inference, check_method=check_method)

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the service as gRPC takes it."""
        methods = {
            "Predict": _method(
                predict_pb2.PredictRequest, self._inference("Predict", self._predict)
            ),
            "Classify": _method(
                classification_pb2.ClassificationRequest,
                self._inference("Classify", self._classify),
            ),
            "Regress": _method(
                regression_pb2.RegressionRequest, self._inference("Regress", self._regress)
            ),
            "MultiInference": _method(inference_pb2.MultiInferenceRequest, self._infer),
            "GetModelMetadata": _method(
                get_model_metadata_pb2.GetModelMetadataRequest, self._metadata
            ),
        }
        return grpc.method_handlers_generic_handler(PREDICTION_SERVICE, methods)

    def _inference(self, api: str, compute: Compute) -> Answer:
        def answer(request: Any, context: Any) -> Any:
            spec = _model_spec(request)
            with self._measured(api, spec) as measured, self._core.use(spec) as version:
                measured.begin(version)
                response = compute(_servable(version), measured.run, request)
                _complete(response.model_spec, version)
                return response

        return answer

    def _infer(self, request: Any, context: Any) -> Any:
        # The version that the first task asks for answers all of them.
        spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        with self._measured("MultiInference", spec) as measured, self._core.use(spec) as version:
            measured.begin(version)
            response = self._multi_inference(_servable(version), measured.run, request)
            for result in response.results:
                _complete(result.model_spec, version)
            return response

    def _metadata(self, request: Any, context: Any) -> Any:
        spec = _model_spec(request)
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != METADATA_FIELD:
                raise invalid_argument(f"Metadata field {field} is not supported")
        with self._core.use(spec) as version:
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in _servable(version).signatures.items():
                signatures.signature_def[name].CopyFrom(signature.definition)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            _complete(response.model_spec, version)
            response.metadata[METADATA_FIELD].Pack(signatures)
            return response

    def _measured(self, api: str, spec: Any) -> _Measured:
        return _Measured(self._core, self._monitoring, api, spec)


class ModelService:
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(
        self, core: ServerCore, monitoring: Monitoring, reload_root: Path | None = None
    ) -> None:
        """Answer of what the core serves.

        Args:
            core: has the versions.
            monitoring: has the counters by which a caller may want to see what a reload did.
            reload_root: the directory below which a caller may point a model; None: anywhere.
        """
        self._core = core
        self._monitoring = monitoring
        self._reload_root = reload_root

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the service as gRPC takes it."""
        methods = {
            "GetModelStatus": _method(get_model_status_pb2.GetModelStatusRequest, self._status),
            "HandleReloadConfigRequest": _method(
                model_management_pb2.ReloadConfigRequest, self._reload, threads=RELOAD_THREADS
            ),
        }
        return grpc.method_handlers_generic_handler(MODEL_SERVICE, methods)

    def _status(self, request: Any, context: Any) -> Any:
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self._core.status(_model_spec(request)):
            status = response.model_version_status.add(
                version=version.number, state=int(version.state)
            )
            status.status.SetInParent()
            if version.error is not None:
                status.status.error_code = version.error.number
                status.status.error_message = version.error.message
        return response

    def _reload(self, request: Any, context: Any) -> Any:
        before = {name: self._monitoring.count(name) for name in request.metric_names}
        self._core.reload(
            request.config, self._reload_root, cancelled=lambda: not context.is_active()
        )
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name, count in before.items():
            increase = self._monitoring.count(name) - count
            response.metric.add(name=name, int64_value_increase=increase)
        return response


class _Measured:
    """Times a request and the runs of the graph in it, and tells the monitoring."""

    def __init__(self, core: ServerCore, monitoring: Monitoring, api: str, spec: Any) -> None:
        self._version: Version | None = None
        self._signature = ""
        self._core = core
        self._monitoring = monitoring
        self._api = api
        self._spec = spec

    def __enter__(self) -> _Measured:
        self._started = time.perf_counter()
        return self

    def begin(self, version: Version) -> None:
        """Take notice of the version that answers."""
        self._version = version
        name = self._spec.signature_name or DEFAULT_SIGNATURE
        # Names that are not ours would let a caller make time series without end.
        self._signature = name if name in _servable(version).signatures else ""

    def run(
        self, feeds: Sequence[str], fetches: Sequence[str], arrays: Sequence[Array]
    ) -> list[Array]:
        """Compute with the version's session."""
        version = self._version
        assert version is not None
        assert version.session is not None
        started = time.perf_counter()
        values = version.session.run(feeds, fetches, arrays)
        seconds = time.perf_counter() - started
        self._monitoring.run(self._api, version.model, str(version.number), seconds)
        return values

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        status = error.code.name if isinstance(error, ServingError) else OK
        if error is not None and not isinstance(error, ServingError):
            status = grpc.StatusCode.INTERNAL.name
        version = self._version
        known = version is not None or self._spec.name in self._core.model_names
        self._monitoring.request(
            self._api,
            self._spec.name if known else "",
            str(version.number) if version is not None else "",
            self._signature,
            status,
            time.perf_counter() - self._started,
        )


def _method(request_type: Any, answer: Answer, *, threads: int = 0) -> Any:
    """Parse, answer, serialize, and end the call with the status of what went wrong.

    The bytes are parsed here and not by gRPC, whose own error for garbage is another one than
    TensorFlow Serving's.

    Args:
        request_type: the message that is taken.
        answer: makes the message that is sent back.
        threads: number of threads of its own; 0: it shares the server's.
    """

    def behavior(data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            request = request_type.FromString(data)
        except DecodeError:
            return context.abort(grpc.StatusCode.INTERNAL, "")
        if not context.is_active():
            return b""  # it waited longer than its caller, so nobody needs the answer
        try:
            serialized: bytes = answer(request, context).SerializeToString()
            return serialized
        except ServingError as error:
            code, details = error.code, error.details
        except Exception:
            log.exception("answering a %s failed", request_type.DESCRIPTOR.name)
            code, details = grpc.StatusCode.INTERNAL, "internal error; the log has the details"
        return context.abort(code, details)

    if threads:
        vars(behavior)["experimental_thread_pool"] = ThreadPoolExecutor(threads)
    return grpc.unary_unary_rpc_method_handler(behavior)


def _model_spec(request: Any) -> Any:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    return request.model_spec


def _servable(version: Version) -> Servable:
    assert version.session is not None  # a version that is held has one
    return version.session.servable


def _complete(model_spec: Any, version: Version) -> None:
    model_spec.name = version.model
    model_spec.version.value = version.number

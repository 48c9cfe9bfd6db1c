"""The gRPC services: `tensorflow.serving.PredictionService` and `tensorflow.serving.ModelService`.

Sources: get_model_metadata_impl.cc in tensorflow_serving/servables/tensorflow, and
get_model_status_impl.cc and model_service_impl.cc in tensorflow_serving/model_servers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
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

from serving.core.server_core import ServerCore
from serving.errors import ServingError, invalid_argument
from serving.model_servers.monitoring import OK, Monitoring
from serving.model_servers.rpc import Handler, unary_method
from serving.servables.classify_and_regress import classify, multi_inference, regress
from serving.servables.predict import predict
from serving.servables.servable import DEFAULT_SIGNATURE, Servable
from serving.servables.session import Cancelled

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
METADATA_FIELD = "signature_def"
# Reloads wait for models to load and must not block other calls.
RELOAD_THREADS = 4

Infer = Callable[[Servable, Any, Cancelled], Any]


class PredictionService:
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(self, core: ServerCore, monitoring: Monitoring) -> None:
        self._core = core
        self._monitoring = monitoring

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the service's methods for a gRPC server."""
        methods = {
            "Predict": unary_method(
                predict_pb2.PredictRequest, self._make_handler("Predict", predict)
            ),
            "Classify": unary_method(
                classification_pb2.ClassificationRequest, self._make_handler("Classify", classify)
            ),
            "Regress": unary_method(
                regression_pb2.RegressionRequest, self._make_handler("Regress", regress)
            ),
            "MultiInference": unary_method(
                inference_pb2.MultiInferenceRequest,
                self._make_handler("MultiInference", multi_inference, get_spec=_first_spec),
            ),
            "GetModelMetadata": unary_method(
                get_model_metadata_pb2.GetModelMetadataRequest, self._get_model_metadata
            ),
        }
        return grpc.method_handlers_generic_handler(PREDICTION_SERVICE, methods)

    def _make_handler(
        self, api: str, infer: Infer, get_spec: Callable[[Any], Any] | None = None
    ) -> Handler:
        get_spec = get_spec or _model_spec

        def handle(request: Any, cancelled: Cancelled) -> Any:
            started = time.perf_counter()
            spec = get_spec(request)
            servable, status = None, grpc.StatusCode.INTERNAL.name
            try:
                with self._core.servable_handle(spec) as servable:
                    response = infer(servable, request, cancelled)
                status = OK
                return response
            except ServingError as error:
                status = error.code.name
                raise
            finally:
                self._record(api, spec, servable, status, time.perf_counter() - started)

        return handle

    def _record(
        self, api: str, spec: Any, servable: Servable | None, status: str, seconds: float
    ) -> None:
        # Recording unknown names would let callers create any number of time series.
        if servable is None:
            name = spec.name if spec.name in self._core.model_names else ""
            self._monitoring.record_request(api, name, "", "", status, seconds)
            return
        signature = spec.signature_name or DEFAULT_SIGNATURE
        if signature not in servable.signatures:
            signature = ""
        self._monitoring.record_request(
            api, servable.name, str(servable.version), signature, status, seconds
        )

    def _get_model_metadata(self, request: Any, cancelled: Cancelled) -> Any:
        spec = _model_spec(request)
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != METADATA_FIELD:
                raise invalid_argument(f"Metadata field {field} is not supported")
        with self._core.servable_handle(spec) as servable:
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature.definition)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            servable.write_spec(response.model_spec, "")
            response.metadata[METADATA_FIELD].Pack(signatures)
            return response


class ModelService:
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(
        self, core: ServerCore, monitoring: Monitoring, reload_root: Path | None = None
    ) -> None:
        """Serve the status and reloads of a core.

        Args:
            core: the server core.
            monitoring: the counters whose increase a reload can return.
            reload_root: the directory that must contain a reload's base paths; None: anywhere.
        """
        self._core = core
        self._monitoring = monitoring
        self._reload_root = reload_root

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the service's methods for a gRPC server."""
        methods = {
            "GetModelStatus": unary_method(
                get_model_status_pb2.GetModelStatusRequest, self._get_model_status
            ),
            "HandleReloadConfigRequest": unary_method(
                model_management_pb2.ReloadConfigRequest, self._reload, threads=RELOAD_THREADS
            ),
        }
        return grpc.method_handlers_generic_handler(MODEL_SERVICE, methods)

    def _get_model_status(self, request: Any, cancelled: Cancelled) -> Any:
        response = get_model_status_pb2.GetModelStatusResponse()
        for harness in self._core.status(_model_spec(request)):
            status = response.model_version_status.add(
                version=harness.version, state=int(harness.state)
            )
            status.status.SetInParent()
            if harness.error is not None:
                status.status.error_code = harness.error.number
                status.status.error_message = harness.error.message
        return response

    def _reload(self, request: Any, cancelled: Cancelled) -> Any:
        before = {name: self._monitoring.count(name) for name in request.metric_names}
        self._core.reload(request.config, self._reload_root, cancelled)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name, count in before.items():
            increase = self._monitoring.count(name) - count
            response.metric.add(name=name, int64_value_increase=increase)
        return response


def _model_spec(request: Any) -> Any:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    return request.model_spec


def _first_spec(request: Any) -> Any:
    # The first task selects the version for all tasks.
    return request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()

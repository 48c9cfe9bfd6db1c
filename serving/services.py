"""The gRPC services, with TensorFlow Serving's messages, status codes and order of checks.

Sources: tensorflow_serving/servables/tensorflow/predict_util.cc (Predict),
get_model_metadata_impl.cc, and model_servers/get_model_status_impl.cc.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import tensors
from serving.errors import ServingError, invalid_argument
from serving.manager import Manager
from serving.servable import Servable

DEFAULT_SIGNATURE = "serving_default"
METADATA_FIELD = "signature_def"

Reply = TypeVar("Reply")
Method = Callable[[Any, Any, Any], Awaitable[Reply]]


def _aborts(method: Method[Reply]) -> Method[Reply]:
    """Let a method end its call with the status of the ServingError it raises."""

    @functools.wraps(method)
    async def wrapper(self: Any, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            if not request.HasField("model_spec"):
                raise invalid_argument("Missing ModelSpec")
            return await method(self, request, context)
        except ServingError as error:
            await context.abort(error.code, error.details)

    return wrapper


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """`tensorflow.serving.PredictionService`: Predict and GetModelMetadata."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        # TensorFlow lets go of the interpreter while a graph runs.
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="predict")

    @_aborts
    async def Predict(self, request: Any, context: Any) -> Any:
        """Run a signature of a model on the inputs given."""
        with self._manager.version(request.model_spec) as version:
            assert version.servable is not None  # an available version has one
            call = self._pool.submit(_predict, version.servable, version.number, request)
            try:
                return await asyncio.wrap_future(call)
            except asyncio.CancelledError:
                # The caller has gone; the version must still be held until its thread is done.
                while not call.cancel() and not call.done():
                    await asyncio.sleep(0.01)
                raise

    @_aborts
    async def GetModelMetadata(self, request: Any, context: Any) -> Any:
        """Return the signatures of a model."""
        if not request.model_spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != METADATA_FIELD:
                raise invalid_argument(f"Metadata field {field} is not supported")
        with self._manager.version(request.model_spec) as version:
            assert version.servable is not None
            signatures = get_model_metadata_pb2.SignatureDefMap(
                signature_def=version.servable.signatures
            )
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = version.number
            response.metadata[METADATA_FIELD].Pack(signatures)
            return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """`tensorflow.serving.ModelService`: GetModelStatus."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    @_aborts
    async def GetModelStatus(self, request: Any, context: Any) -> Any:
        """Return the state of a model's versions."""
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self._manager.status(request.model_spec):
            status = response.model_version_status.add(
                version=version.number, state=int(version.state)
            )
            status.status.SetInParent()
            if version.error is not None:
                status.status.error_code = version.error.number
                status.status.error_message = version.error.message
        return response


def _predict(servable: Servable, version: int, request: Any) -> Any:
    """Answer a PredictRequest with a loaded version."""
    signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signature(signature_name)
    inputs = _decode_inputs(request.inputs, signature)
    outputs = _filtered_outputs(request.output_filter, signature)
    _check_dtypes(request.inputs, signature)
    values = servable.run(signature_name, inputs, outputs)

    response = predict_pb2.PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = version
    response.model_spec.signature_name = signature_name
    for name, value in values.items():
        response.outputs[name].CopyFrom(tensors.encode(value, signature.outputs[name].dtype))
    return response


def _decode_inputs(inputs: Any, signature: Any) -> dict[str, tensors.Array]:
    sent, wanted = set(inputs), set(signature.inputs)
    if len(sent) != len(wanted):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(wanted)} "
            f"len({_names(sent)}) != len({_names(wanted)}). "
            f"Sent extra: {_names(sent - wanted)}. "
            f"Missing but required: {_names(wanted - sent)}."
        )
    decoded = {}
    for name in sorted(inputs):
        if name not in wanted:
            raise invalid_argument(
                f"input tensor alias not found in signature: {name}. "
                f"Inputs expected to be in the set {_names(wanted)}."
            )
        try:
            decoded[name] = tensors.decode(inputs[name])
        except ValueError:
            raise invalid_argument(f"tensor parsing error: {name}") from None
    return decoded


def _filtered_outputs(output_filter: Any, signature: Any) -> list[str]:
    seen: set[str] = set()
    for name in output_filter:
        if name not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_names(signature.outputs)}."
            )
        if name in seen:
            raise invalid_argument(f"duplicate output tensor alias: {name}")
        seen.add(name)
    return sorted(seen or signature.outputs)


def _check_dtypes(inputs: Any, signature: Any) -> None:
    """Reject what numpy would convert but TensorFlow Serving's session would not."""
    for index, name in enumerate(sorted(inputs)):
        expected, sent = signature.inputs[name].dtype, inputs[name].dtype
        if sent != expected:
            raise invalid_argument(
                f"Expects arg[{index}] to be {tf.DType(expected).name} "
                f"but {tf.DType(sent).name} is provided (input {name})"
            )


def _names(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"

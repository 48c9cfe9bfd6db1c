"""A caller that uses only TensorFlow Serving's stubs and TensorFlow's own tensors."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since Python 3.11

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
_STATES = get_model_status_pb2.ModelVersionStatus.State


class Caller:
    """Calls a model server over one channel."""

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        options = [*UNLIMITED, *options]
        if credentials is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            self.channel = grpc.secure_channel(address, credentials, options)
        self.prediction: Any = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model: Any = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.channel.close()

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        timeout: float = 30,
        wait_for_ready: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the PredictResponse; `kwargs` go to `predict_request`."""
        request = predict_request(model, inputs, **kwargs)
        return self.prediction.Predict(request, timeout=timeout, wait_for_ready=wait_for_ready)

    def predict_x(
        self, x: Sequence[float] = (1.0,), model: str = "m", **kwargs: Any
    ) -> tuple[Any, int]:
        """Predict with a model that takes `x`; return `y` and the version that answered."""
        inputs = {"x": tf.constant(x, tf.float32)}
        response = self.predict(model, inputs, **kwargs)
        return y_and_version(response)

    def submit_x(self, x: Sequence[float] = (1.0,), model: str = "m") -> Any:
        """Start a call and return its future when the server has received the call.

        That is when a later call over the same connection has been answered.
        """
        health: Any = health_pb2_grpc.HealthStub(self.channel)
        check = functools.partial(health.Check, health_pb2.HealthCheckRequest(), timeout=30)
        check()
        request = predict_request(model, {"x": tf.constant(x, tf.float32)})
        call = self.prediction.Predict.future(request, timeout=30)
        check()
        return call

    def statuses(self, model: str = "m") -> dict[int, Any]:
        """Return the status of each version by number; empty for an unknown model."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            response = self.model.GetModelStatus(request, timeout=30)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return {}
        return {status.version: status for status in response.model_version_status}

    def states(self, model: str = "m") -> dict[int, str]:
        """Return the name of each version's state, by number."""
        statuses = self.statuses(model)
        return {number: _STATES.Name(status.state) for number, status in statuses.items()}

    def is_available(self, version: int, model: str = "m") -> bool:
        return self.states(model).get(version) == "AVAILABLE"

    def has_ended(self, version: int, model: str = "m") -> bool:
        return self.states(model).get(version) == "END"

    def reload(self, config: str, timeout: float = 30, metric_names: Sequence[str] = ()) -> Any:
        """Reload a configuration in text format and return the response."""
        request = model_management_pb2.ReloadConfigRequest(metric_names=metric_names)
        text_format.Parse(config, request.config)
        return self.model.HandleReloadConfigRequest(request, timeout=timeout)


def y_and_version(response: Any) -> tuple[Any, int]:
    return tf.make_ndarray(response.outputs["y"]).tolist(), response.model_spec.version.value


def predict_request(
    model: str,
    inputs: Mapping[str, Any],
    signature: str = "",
    version: int | None = None,
    label: str | None = None,
    outputs: Sequence[str] = (),
) -> Any:
    """Return a PredictRequest; inputs are TensorProtos or values that TensorFlow converts."""
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def models_config(*entries: str) -> str:
    """Return a ModelServerConfig of TensorFlow models in text format."""
    listed = "".join(f'config {{ model_platform: "tensorflow" {entry} }}\n' for entry in entries)
    return f"model_config_list {{\n{listed}}}\n"


def model_config(base_path: Path, fields: str = "") -> str:
    """Return the config entry of a model named after its directory."""
    return f'name: "{base_path.name}" base_path: "{base_path}" {fields}'


@contextmanager
def raises_rpc_error(code: str, details: str = "") -> Iterator[None]:
    """Expect an RPC error with this code whose details contain `details`."""
    with pytest.raises(grpc.RpcError) as error:
        yield
    status: Any = error.value
    assert status.code().name == code, status.details()
    assert details in status.details()

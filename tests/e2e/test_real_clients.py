"""Third-party clients of TensorFlow Serving work unchanged over gRPC and HTTP."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import ovmsclient
import pytest
import tensorflow as tf
from ovmsclient.tfs_compat.base.errors import InvalidInputError, ModelNotFoundError
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.support import tables

MODEL = "breast_cancer"
# OpenVINO's clients send 0 for "the latest", which TensorFlow Serving takes as a version.
VERSION = 1
TABLE = tables.breast_cancer()
COLUMNS = {
    name: TABLE.features[:3, index].astype(np.float32) for index, name in enumerate(TABLE.columns)
}


@pytest.fixture(params=["grpc", "http"])
def openvino(request: pytest.FixtureRequest, model_server: str, client_url: str) -> Any:
    """OpenVINO's gRPC client at the model server, and its HTTP client at ours."""
    if request.param == "grpc":
        return ovmsclient.make_grpc_client(model_server)
    return ovmsclient.make_http_client(client_url.removeprefix("http://"))


def probabilities(predicted: Any) -> Any:
    """Return the probabilities from named outputs (gRPC) or from rows (HTTP)."""
    if isinstance(predicted, dict):
        return predicted["probability"]
    return [row["probability"] for row in predicted]


def test_openvino_predicts(openvino: Any, model_server: str) -> None:
    predicted = openvino.predict(COLUMNS, MODEL, VERSION)
    np.testing.assert_allclose(
        probabilities(predicted), predict_like_the_course(model_server), rtol=1e-4, atol=1e-9
    )


def test_openvino_reads_the_status(openvino: Any) -> None:
    status = openvino.get_model_status(MODEL, VERSION)
    assert status[VERSION]["state"] == "AVAILABLE"


def test_openvino_reads_the_metadata(openvino: Any) -> None:
    metadata = openvino.get_model_metadata(MODEL, VERSION)
    if "inputs" not in metadata:  # over HTTP it returns the entire response
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        metadata = signatures["serving_default"]
    assert set(metadata["inputs"]) == set(TABLE.columns)


@pytest.mark.parametrize(
    ("inputs", "model", "version", "error"),
    [
        ({"unknown": np.zeros(2)}, MODEL, VERSION, InvalidInputError),
        (COLUMNS, "nobody", VERSION, ModelNotFoundError),
        (COLUMNS, MODEL, 9, ModelNotFoundError),
    ],
)
def test_openvino_raises_its_own_errors(
    openvino: Any, inputs: Any, model: str, version: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        openvino.predict(inputs, model, version)


def predict_like_the_course(model_server: str) -> Any:
    """Predict as the course's chapter does, with its stub and TensorFlow's tensors."""
    with grpc.insecure_channel(model_server) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = MODEL
        request.model_spec.signature_name = "dense"
        request.inputs["features"].CopyFrom(
            tf.make_tensor_proto(TABLE.features[:3].astype(np.float32), shape=[3, 30])
        )
        result = stub.Predict(request, 10.0)
    return tf.make_ndarray(result.outputs["probability"])

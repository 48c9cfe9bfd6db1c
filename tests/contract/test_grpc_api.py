"""The gRPC API, used as by clients of TensorFlow Serving."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.support.tables import breast_cancer

TABLE = breast_cancer()


@pytest.fixture(scope="module")
def channel(model_server: str) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(model_server, options=options) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def make_request(signature: str = "", **inputs: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "breast_cancer"
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return request


def columns(rows: Any) -> dict[str, Any]:
    return {name: rows[:, i].astype(np.float32) for i, name in enumerate(TABLE.columns)}


def test_course_client_code_gets_predictions(stub: Any) -> None:
    rows = TABLE.features[:3].astype(np.float32)
    response = stub.Predict(make_request("dense", features=rows), timeout=5)
    # Clients may read typed fields instead of calling tf.make_ndarray.
    assert len(response.outputs["probability"].float_val) == 3
    assert tf.make_ndarray(response.outputs["label"]).tolist() == [b"malignant"] * 3
    assert response.model_spec.name == "breast_cancer"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "dense"


def test_default_signature_takes_columns_by_name(stub: Any) -> None:
    rows = TABLE.features[:3]
    by_column = stub.Predict(make_request(**columns(rows)), timeout=5)
    dense = stub.Predict(make_request("dense", features=rows.astype(np.float32)), timeout=5)
    assert by_column.model_spec.signature_name == "serving_default"
    assert by_column.outputs == dense.outputs


def test_only_requested_outputs_are_returned(stub: Any) -> None:
    request = make_request("dense", features=TABLE.features[:1].astype(np.float32))
    request.output_filter.append("logit")
    assert list(stub.Predict(request, timeout=5).outputs) == ["logit"]


ONE_ROW = TABLE.features[:1].astype(np.float32)


def without_name() -> Any:
    request = make_request("dense", features=ONE_ROW)
    request.model_spec.name = ""
    return request


def without_spec() -> Any:
    request = make_request("dense", features=ONE_ROW)
    request.ClearField("model_spec")
    return request


def with_version(version: int) -> Any:
    request = make_request("dense", features=ONE_ROW)
    request.model_spec.version.value = version
    return request


def with_unknown_model() -> Any:
    request = make_request("dense", features=ONE_ROW)
    request.model_spec.name = "nosuch"
    return request


def with_label(label: str) -> Any:
    request = make_request("dense", features=ONE_ROW)
    request.model_spec.version_label = label
    return request


def with_filter(*names: str) -> Any:
    request = make_request("dense", features=ONE_ROW)
    request.output_filter.extend(names)
    return request


def with_malformed_tensor() -> Any:
    request = make_request("dense", features=ONE_ROW)
    request.inputs["features"].tensor_content += b"x"
    return request


@pytest.mark.parametrize(
    ("invalid_request", "code", "details"),
    [
        (without_spec(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (without_name(), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (with_unknown_model(), "NOT_FOUND", "Servable not found for request: Latest(nosuch)"),
        (
            with_version(9),
            "NOT_FOUND",
            "Servable not found for request: Specific(breast_cancer, 9)",
        ),
        (with_label("x"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (
            make_request("nosuch", features=ONE_ROW),
            "FAILED_PRECONDITION",
            'Serving signature key "nosuch" not found.',
        ),
        (
            make_request("dense"),
            "INVALID_ARGUMENT",
            "input size does not match signature: 0!=1 len({}) != len({features}). "
            "Sent extra: {}. Missing but required: {features}.",
        ),
        (
            make_request("dense", rows=ONE_ROW),
            "INVALID_ARGUMENT",
            "Signature input alias: features(feed name: dense_features:0) not found in request and "
            "no default value provided. Inputs expected to be in the request {rows}, or default "
            "input alias set: ",
        ),
        (with_malformed_tensor(), "INVALID_ARGUMENT", "tensor parsing error: features"),
        (
            with_filter("nosuch"),
            "INVALID_ARGUMENT",
            "output tensor alias not found in signature: nosuch "
            "Outputs expected to be in the set {label,logit,probability}.",
        ),
        (
            with_filter("logit", "logit"),
            "INVALID_ARGUMENT",
            "duplicate output tensor alias: logit",
        ),
        (
            make_request("dense", features=ONE_ROW.astype(np.float64)),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float32 but float64 is provided (input features)",
        ),
        (make_request("dense", features=ONE_ROW[:, :7]), "INVALID_ARGUMENT", "Incompatible shapes"),
        (make_request("dense", features=ONE_ROW[0]), "INVALID_ARGUMENT", ""),
    ],
    ids=str,
)
def test_failed_requests_get_tensorflow_servings_status(
    stub: Any, invalid_request: Any, code: str, details: str
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(invalid_request, timeout=5)
    assert error.value.code().name == code
    assert (error.value.details() or "").startswith(details)


def test_long_error_message_is_truncated(stub: Any) -> None:
    request = make_request("dense", features=ONE_ROW)
    request.model_spec.name = "x" * 100_000
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(request, timeout=5)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert (error.value.details() or "").endswith("...TRUNCATED")


def test_metadata_lists_the_signatures(stub: Any) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "breast_cancer"
    response = stub.GetModelMetadata(request, timeout=5)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert response.model_spec.version.value == 1
    assert set(signatures.signature_def) >= {
        "serving_default", "dense", "explain", "describe", "classification", "regression",
    }  # fmt: skip
    assert set(signatures.signature_def["serving_default"].inputs) == set(TABLE.columns)
    method = signatures.signature_def["classification"].method_name
    assert method == "tensorflow/serving/classify"


@pytest.mark.parametrize("field", [[], ["nosuch"]])
def test_missing_or_unknown_metadata_field_is_rejected(stub: Any, field: list[str]) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=field)
    request.model_spec.name = "breast_cancer"
    with pytest.raises(grpc.RpcError) as error:
        stub.GetModelMetadata(request, timeout=5)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_status_lists_every_version(channel: grpc.Channel) -> None:
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    spec = model_pb2.ModelSpec(name="breast_cancer")
    response = stub.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(model_spec=spec))
    (status,) = response.model_version_status
    assert (status.version, status.state) == (1, 30)
    spec.version.value = 4
    with pytest.raises(grpc.RpcError) as error:
        stub.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(model_spec=spec))
    assert error.value.details() == "Could not find version 4 of model breast_cancer"


def test_100_megabyte_message_is_accepted(stub: Any) -> None:
    rows = np.tile(ONE_ROW, (800_000, 1))
    assert rows.nbytes == 96_000_000
    response = stub.Predict(make_request("dense", features=rows), timeout=60)
    assert response.outputs["logit"].tensor_shape.dim[0].size == 800_000


def test_concurrent_callers_get_their_own_rows(model_server: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with grpc.insecure_channel(model_server) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        expected = tf.make_ndarray(
            stub.Predict(
                make_request("dense", features=TABLE.features.astype(np.float32)), timeout=30
            ).outputs["logit"]
        )

        def predict(row: int) -> float:
            rows = TABLE.features[row : row + 1].astype(np.float32)
            response = stub.Predict(make_request("dense", features=rows), timeout=30)
            return float(response.outputs["logit"].float_val[0])

        with ThreadPoolExecutor(16) as pool:
            logits = list(pool.map(predict, range(len(TABLE.labels))))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)

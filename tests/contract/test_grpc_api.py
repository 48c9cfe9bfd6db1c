"""The gRPC API as clients that know only TensorFlow Serving use it."""

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


def request(signature: str = "", **inputs: Any) -> Any:
    made = predict_pb2.PredictRequest()
    made.model_spec.name = "breast_cancer"
    made.model_spec.signature_name = signature
    for name, values in inputs.items():
        made.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return made


def columns(rows: Any) -> dict[str, Any]:
    return {n: rows[:, i].astype(np.float32) for i, n in enumerate(TABLE.columns)}


def test_course_client_code_gets_predictions(stub: Any) -> None:
    rows = TABLE.features[:3].astype(np.float32)
    result = stub.Predict(request("dense", features=rows), timeout=5)
    # Clients read typed fields as well as tf.make_ndarray.
    assert len(result.outputs["probability"].float_val) == 3
    assert tf.make_ndarray(result.outputs["label"]).tolist() == [b"malignant"] * 3
    assert result.model_spec.name == "breast_cancer"
    assert result.model_spec.version.value == 1
    assert result.model_spec.signature_name == "dense"


def test_default_signature_takes_columns_by_name(stub: Any) -> None:
    rows = TABLE.features[:3]
    one = stub.Predict(request(**columns(rows)), timeout=5)
    other = stub.Predict(request("dense", features=rows.astype(np.float32)), timeout=5)
    assert one.model_spec.signature_name == "serving_default"
    assert one.outputs == other.outputs


def test_only_requested_outputs_are_returned(stub: Any) -> None:
    asked = request("dense", features=TABLE.features[:1].astype(np.float32))
    asked.output_filter.append("logit")
    assert list(stub.Predict(asked, timeout=5).outputs) == ["logit"]


ONE_ROW = TABLE.features[:1].astype(np.float32)


def without_a_name() -> Any:
    made = request("dense", features=ONE_ROW)
    made.model_spec.name = ""
    return made


def without_a_spec() -> Any:
    made = request("dense", features=ONE_ROW)
    made.ClearField("model_spec")
    return made


def with_version(version: int) -> Any:
    made = request("dense", features=ONE_ROW)
    made.model_spec.version.value = version
    return made


def of_another_model() -> Any:
    made = request("dense", features=ONE_ROW)
    made.model_spec.name = "nosuch"
    return made


def with_label(label: str) -> Any:
    made = request("dense", features=ONE_ROW)
    made.model_spec.version_label = label
    return made


def with_filter(*names: str) -> Any:
    made = request("dense", features=ONE_ROW)
    made.output_filter.extend(names)
    return made


def with_torn_tensor() -> Any:
    made = request("dense", features=ONE_ROW)
    made.inputs["features"].tensor_content += b"x"
    return made


@pytest.mark.parametrize(
    ("asked", "code", "details"),
    [
        (without_a_spec(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (without_a_name(), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (of_another_model(), "NOT_FOUND", "Servable not found for request: Latest(nosuch)"),
        (
            with_version(9),
            "NOT_FOUND",
            "Servable not found for request: Specific(breast_cancer, 9)",
        ),
        (with_label("x"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (
            request("nosuch", features=ONE_ROW),
            "FAILED_PRECONDITION",
            'Serving signature key "nosuch" not found.',
        ),
        (
            request("dense"),
            "INVALID_ARGUMENT",
            "input size does not match signature: 0!=1 len({}) != len({features}). "
            "Sent extra: {}. Missing but required: {features}.",
        ),
        (
            request("dense", rows=ONE_ROW),
            "INVALID_ARGUMENT",
            "Signature input alias: features(feed name: dense_features:0) not found in request and "
            "no default value provided. Inputs expected to be in the request {rows}, or default "
            "input alias set: ",
        ),
        (with_torn_tensor(), "INVALID_ARGUMENT", "tensor parsing error: features"),
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
            request("dense", features=ONE_ROW.astype(np.float64)),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float32 but float64 is provided (input features)",
        ),
        (request("dense", features=ONE_ROW[:, :7]), "INVALID_ARGUMENT", "Incompatible shapes"),
        (request("dense", features=ONE_ROW[0]), "INVALID_ARGUMENT", ""),
    ],
    ids=str,
)
def test_failed_requests_get_tensorflow_servings_status(
    stub: Any, asked: Any, code: str, details: str
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(asked, timeout=5)
    assert error.value.code().name == code
    assert (error.value.details() or "").startswith(details)


def test_long_error_message_is_truncated(stub: Any) -> None:
    asked = request("dense", features=ONE_ROW)
    asked.model_spec.name = "x" * 100_000
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(asked, timeout=5)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert (error.value.details() or "").endswith("...TRUNCATED")


def test_metadata_lists_the_signatures(stub: Any) -> None:
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "breast_cancer"
    response = stub.GetModelMetadata(asked, timeout=5)
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
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=field)
    asked.model_spec.name = "breast_cancer"
    with pytest.raises(grpc.RpcError) as error:
        stub.GetModelMetadata(asked, timeout=5)
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
    response = stub.Predict(request("dense", features=rows), timeout=60)
    assert response.outputs["logit"].tensor_shape.dim[0].size == 800_000


def test_concurrent_callers_get_their_own_rows(model_server: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with grpc.insecure_channel(model_server) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        expected = tf.make_ndarray(
            stub.Predict(
                request("dense", features=TABLE.features.astype(np.float32)), timeout=30
            ).outputs["logit"]
        )

        def ask(row: int) -> float:
            rows = TABLE.features[row : row + 1].astype(np.float32)
            response = stub.Predict(request("dense", features=rows), timeout=30)
            return float(response.outputs["logit"].float_val[0])

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(len(TABLE.labels))))
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-4)

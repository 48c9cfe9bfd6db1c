from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from client import ClientError, ModelServer
from client.errors import ServerError
from client.model_server import Target
from tests.tables import breast_cancer

TABLE = breast_cancer()


@pytest.fixture
def server(model_server: str) -> Iterator[ModelServer]:
    with ModelServer(model_server) as server:
        yield server


def test_arrays_go_in_and_arrays_come_out(server: ModelServer) -> None:
    reply = server.predict(
        "breast_cancer", {"features": TABLE.features[:2]}, signature_name="dense"
    )
    assert reply.version == 1
    assert reply.outputs["probability"].dtype == np.float32
    assert reply.outputs["probability"].shape == (2,)
    assert reply.outputs["label"].tolist() == [b"malignant", b"malignant"]


def test_lists_and_other_number_types_are_taken(server: ModelServer) -> None:
    row = [round(value) for value in TABLE.features[0]]
    inputs = {name: [value] for name, value in zip(TABLE.columns, row, strict=True)}
    one = server.predict("breast_cancer", inputs)
    other = server.predict("breast_cancer", {"features": [row]}, signature_name="dense")
    np.testing.assert_allclose(one.outputs["logit"], other.outputs["logit"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"features": [["a"] * 30]}, "input features: expected float32, got str"),
        ({"features": [[1j] * 30]}, "input features: expected float32, got complex128"),
        ({"rows": [[1.0] * 30]}, "input tensor alias not found in signature: rows"),
        ({}, "Missing but required: {features}"),
    ],
)
def test_inputs_that_do_not_fit_are_typed_errors(
    server: ModelServer, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClientError) as error:
        server.predict("breast_cancer", inputs, signature_name="dense")
    assert message in error.value.message
    assert error.value.status == 400


def test_an_unknown_signature_is_the_server_s_to_refuse(server: ModelServer) -> None:
    with pytest.raises(ServerError, match='Serving signature key "x" not found'):
        server.predict("breast_cancer", {"features": [[1.0] * 30]}, signature_name="x")


def test_the_schema_is_what_the_model_says_of_itself(server: ModelServer) -> None:
    schema = server.schema("breast_cancer")
    assert schema.version == 1
    assert str(schema.signatures["dense"].inputs["features"]) == "float32 [any, 30]"
    description = schema.description
    assert description is not None
    assert tuple(column.name for column in description.columns) == TABLE.columns
    assert schema.column_order("serving_default") == TABLE.columns
    assert schema.column_order("dense") is None
    assert description.class_names == ("malignant", "benign")
    assert description.threshold == 0.5
    assert description.metrics["accuracy"] > 0.9
    radius = description.columns[0]
    assert radius.minimum < radius.class_means[1] < radius.mean < radius.class_means[0]


def test_a_version_that_is_not_there(server: ModelServer) -> None:
    with pytest.raises(ServerError) as error:
        server.schema(Target("breast_cancer", 5))
    assert error.value.status == 404


def test_calls_are_observed(model_server: str) -> None:
    seen: list[tuple[str, str]] = []
    with ModelServer(
        model_server, observe=lambda rpc, code, seconds: seen.append((rpc, code.name))
    ) as server:
        server.status("breast_cancer")
        with pytest.raises(ClientError):
            server.status("nosuch")
    assert seen == [("GetModelStatus", "OK"), ("GetModelStatus", "NOT_FOUND")]

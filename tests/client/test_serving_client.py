from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tensorflow_serving.apis import get_model_metadata_pb2

from client import AsyncServingClient, ClientError, ServingClient
from client.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServerError,
    UnavailableError,
)
from client.serving.client import Target
from client.serving.flows import CallFlows
from client.serving.protos import SignatureDefMap
from client.serving.schema import Signature
from client.serving.tensors import from_proto
from tests.client.schemas import spec
from tests.conftest import Starter
from tests.support import mixed, processes
from tests.support.link import Link
from tests.support.tables import breast_cancer

TABLE = breast_cancer()


@pytest.fixture
def client(model_server: str) -> Iterator[ServingClient]:
    with ServingClient(model_server) as client:
        yield client


def test_predict_accepts_and_returns_arrays(client: ServingClient) -> None:
    prediction = client.predict(
        "breast_cancer", {"features": TABLE.features[:2]}, signature_name="dense"
    )
    assert prediction.version == 1
    assert prediction.outputs["probability"].dtype == np.float32
    assert prediction.outputs["probability"].shape == (2,)
    assert prediction.outputs["label"].tolist() == ["malignant", "malignant"]


def test_lists_and_other_number_types_are_accepted(client: ServingClient) -> None:
    row = [round(value) for value in TABLE.features[0]]
    inputs = {name: [value] for name, value in zip(TABLE.columns, row, strict=True)}
    one = client.predict("breast_cancer", inputs)
    other = client.predict("breast_cancer", {"features": [row]}, signature_name="dense")
    np.testing.assert_allclose(one.outputs["logit"], other.outputs["logit"])


def request_input(dtype: str, values: Any) -> Any:
    """Return the input of a request, as the server would read it."""
    steps = CallFlows().run(
        Target("m"), Signature({"x": spec(dtype, None)}, {}), {"x": values}, "serving_default"
    )
    return from_proto(next(steps)[1].inputs["x"])


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("STRING", [b"ab\0", b""]),
        ("UINT8", [0, 255]),
        ("UINT64", [2**64 - 1]),
        ("FLOAT", [float("inf"), 1.5]),
        ("COMPLEX64", [1.5, 2j]),
    ],
)
def test_values_are_sent_unchanged(dtype: str, values: list[Any]) -> None:
    assert request_input(dtype, values).tolist() == values


@pytest.mark.parametrize(
    ("dtype", "values", "message"),
    [
        ("INT32", [1, 2**40 + 5], "input x: expected int32, got 1099511627781"),
        ("UINT8", [-1], "input x: expected uint8, got -1"),
        ("INT64", [2**63], "input x: expected int64, got 9223372036854775808"),
        ("INT32", [1.5], "input x: expected int32, got float64 values"),
        ("FLOAT", [1e300], "input x: expected float32, got 1e+300"),
        ("FLOAT", [[1], [2, 3]], "input x: setting an array element with a sequence"),
        ("STRING", [["a"], ["b", "c"]], "input x: expected strings, got ['a']"),
        ("STRING", ["\udcff"], "input x: 'utf-8' codec can't encode character '\\udcff'"),
    ],
)
def test_values_that_do_not_fit_are_rejected(dtype: str, values: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        request_input(dtype, values)
    assert error.value.message.startswith(message)


def test_inputs_of_an_explicit_signature_must_be_named() -> None:
    with ServingClient() as client, pytest.raises(InvalidArgumentError, match="got ndarray"):
        client.predict("m", np.ones(2), signature=Signature({"x": spec("FLOAT", None)}, {}))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"features": [["a"] * 30]}, "input features: expected float32, got str"),
        ({"features": [[1j] * 30]}, "input features: expected float32, got complex128"),
        ({"rows": [[1.0] * 30]}, "Signature input alias: features(feed name: "),
        ({}, "Missing but required: {features}"),
    ],
)
def test_unsuitable_inputs_raise_client_errors(
    client: ServingClient, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClientError) as error:
        client.predict("breast_cancer", inputs, signature_name="dense")
    assert message in error.value.message
    assert error.value.status == 400


def test_unknown_signature_is_rejected_by_the_server(client: ServingClient) -> None:
    with pytest.raises(ServerError, match='Serving signature key "x" not found'):
        client.predict("breast_cancer", {"features": [[1.0] * 30]}, signature_name="x")


def test_schema_equals_the_description_of_the_model(client: ServingClient) -> None:
    schema = client.schema("breast_cancer")
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


def test_schema_of_a_missing_version_raises_a_404(client: ServingClient) -> None:
    with pytest.raises(ServerError) as error:
        client.schema(Target("breast_cancer", 5))
    assert error.value.status == 404


def test_calls_are_observed(model_server: str) -> None:
    calls: list[tuple[str, str]] = []
    with ServingClient(
        model_server, observe=lambda rpc, code, seconds: calls.append((rpc, code.name))
    ) as client:
        client.status("breast_cancer")
        with pytest.raises(ClientError):
            client.status("nosuch")
    assert calls == [("GetModelStatus", "OK"), ("GetModelStatus", "NOT_FOUND")]


COLUMNS = dict(zip(TABLE.columns, TABLE.features[:3].T, strict=True))


@pytest.mark.parametrize("columns", [list(TABLE.columns), sorted(TABLE.columns)])
@pytest.mark.parametrize("signature_name", ["serving_default", "dense"])
def test_columns_of_a_frame_are_matched_by_name(
    client: ServingClient, signature_name: str, columns: list[str]
) -> None:
    rows = {"features": TABLE.features[:3]}
    expected = client.predict("breast_cancer", rows, signature_name="dense").outputs["logit"]
    frame = pl.DataFrame({name: COLUMNS[name] for name in columns})
    prediction = client.predict("breast_cancer", frame, signature_name=signature_name)
    np.testing.assert_allclose(prediction.outputs["logit"], expected)


def test_single_array_is_sent_as_the_matrix_of_the_table(client: ServingClient) -> None:
    rows = TABLE.features[:3]
    one = client.predict("breast_cancer", rows).outputs["logit"]
    other = client.predict("breast_cancer", rows.tolist(), signature_name="dense").outputs["logit"]
    np.testing.assert_array_equal(one, other)
    with pytest.raises(InvalidArgumentError, match="explain has several inputs"):
        client.predict("breast_cancer", rows, signature_name="explain")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean_radius": None}, 'column "mean_radius" is missing; the columns are mean_radius, '),
        ({"radius": [1.0] * 3}, 'unknown column "radius"; the columns are mean_radius, '),
        ({"mean_radius": ["a"] * 3}, "input mean_radius: expected float32, got 'a'"),
    ],
)
def test_errors_of_a_frame_name_the_column(
    client: ServingClient, change: dict[str, Any], message: str
) -> None:
    columns = {name: v for name, v in {**COLUMNS, **change}.items() if v is not None}
    with pytest.raises(InvalidArgumentError) as error:
        client.predict("breast_cancer", pl.DataFrame(columns))
    assert message in error.value.message


def test_only_requested_outputs_are_returned(client: ServingClient) -> None:
    prediction = client.predict("breast_cancer", TABLE.features[:2], output_filter=["logit"])
    assert list(prediction.outputs) == ["logit"]


def test_each_failure_raises_its_own_error_type(model_server: str) -> None:
    link = Link(model_server)
    with ServingClient(link.address) as client:
        with pytest.raises(NotFoundError):
            client.predict("nosuch", [1.0])
        with pytest.raises(InvalidArgumentError):
            client.predict("breast_cancer", {"rows": [[1.0]]}, signature_name="dense")
        link.hold()
        with pytest.raises(DeadlineExceededError):
            client.predict("breast_cancer", TABLE.features, timeout=0.1)
        link.close()
        with pytest.raises(UnavailableError):
            client.predict("breast_cancer", TABLE.features)


def test_calls_of_a_closed_client_are_cancelled() -> None:
    calls: list[str] = []
    client = ServingClient(observe=lambda rpc, code, seconds: calls.append(code.name))
    client.close()
    with pytest.raises(UnavailableError, match=r"the connection to .* was closed"):
        client.status("m")
    assert calls == ["CANCELLED"]


def test_calls_over_a_closed_connection_raise_unavailable(model_server: str) -> None:
    rows = TABLE.features[:1]

    async def predict_and_close() -> None:
        link = Link(model_server)
        async with AsyncServingClient(link.address) as client:
            (server,) = client.pool.servers
            assert (await client.predict("breast_cancer", rows, server=server)).version == 1
            link.hold()
            in_flight = asyncio.create_task(client.predict("breast_cancer", rows, server=server))
            await asyncio.sleep(0.2)
            await server.close()
            with pytest.raises(UnavailableError, match=r"the connection to .* was closed"):
                await in_flight
            with pytest.raises(UnavailableError, match=r"the connection to .* was closed"):
                await client.predict("breast_cancer", rows, server=server)
        link.close()

    asyncio.run(predict_and_close())


def test_version_unloaded_while_its_description_is_read_raises_not_found(
    client: ServingClient,
) -> None:
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(client.schema("breast_cancer").definition)
    flows = CallFlows()
    for _ in range(2):  # the failure is not cached
        steps = flows.schema(Target("breast_cancer"))
        next(steps)
        step = steps.send(response)
        for _ in range(2):  # another server behind the same address may have it
            assert step[1].model_spec.signature_name == "describe"
            step = steps.throw(NotFoundError("Servable not found"))
        with pytest.raises(NotFoundError):
            steps.throw(NotFoundError("Servable not found"))


def test_description_is_requested_again_after_an_overload() -> None:
    definition = SignatureDefMap()
    definition.signature_def["describe"].inputs["query"].dtype = 3
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(definition)
    flows = CallFlows()
    for _ in range(2):
        steps = flows.schema(Target("m"))
        next(steps)
        assert steps.send(response)[1].model_spec.signature_name == "describe"
        with pytest.raises(ResourceExhaustedError):
            steps.throw(ResourceExhaustedError("Server Threadpool Exhausted"))


def test_async_client_returns_the_same_as_the_sync_client(
    model_server: str, client: ServingClient
) -> None:
    async def compare() -> None:
        async with AsyncServingClient(model_server) as async_client:
            rows = TABLE.features[:4]
            one, two = await asyncio.gather(
                async_client.predict("breast_cancer", rows),
                async_client.predict("breast_cancer", rows[:1]),
            )
            expected = client.predict("breast_cancer", rows).outputs["logit"]
            np.testing.assert_allclose(one.outputs["logit"], expected, rtol=1e-5)
            np.testing.assert_allclose(two.outputs["logit"], expected[:1], rtol=1e-5)
            assert (await async_client.schema("breast_cancer")).version == 1
            assert [status.version for status in await async_client.status("breast_cancer")] == [1]
            with pytest.raises(NotFoundError, match="Could not find any versions of model nosuch"):
                await async_client.status("nosuch")
            with pytest.raises(InvalidArgumentError, match="expected float32, got"):
                await async_client.predict("breast_cancer", [["a"] * 30])

    asyncio.run(compare())


def test_schema_is_fetched_once_and_again_after_a_change(tmp_path: Path, starter: Starter) -> None:
    mixed.publish(tmp_path / "m", 1, mixed.COLUMNS[:1])
    running = starter.model_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    processes.wait_for(lambda: processes.is_serving(running.address), "the model is loaded")
    calls: list[str] = []
    with ServingClient(running.address, observe=lambda rpc, *_: calls.append(rpc)) as client:
        old = pl.DataFrame({"Age (years)": [40.0]})
        for _ in range(3):
            assert client.predict("m", old).version == 1
        assert calls == ["GetModelMetadata", "Predict", "Predict", "Predict", "Predict"]
        mixed.publish(tmp_path / "m", 2, mixed.COLUMNS[:2])
        new = old.with_columns(income=None).cast(pl.Float64)

        def is_new() -> bool:
            try:
                return client.predict("m", new).version == 2
            except InvalidArgumentError:
                return False

        processes.wait_for(is_new, "the new version is served")
        with pytest.raises(InvalidArgumentError, match='column "income" is missing'):
            client.predict("m", old)


def test_missing_values_and_numbers_in_text_columns_are_converted(
    tmp_path: Path, starter: Starter
) -> None:
    mixed.publish(tmp_path / "m")
    running = starter.model_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    processes.wait_for(lambda: processes.is_serving(running.address), "the model is loaded")
    frame = pl.DataFrame(
        {
            "Age (years)": [40, 40],
            "income": [350.0, None],
            "city": ["Basel", " Zug"],
            "district": [42, None],
            "garden": [True, None],
            "rooms": [2, 3],
            "balcony": [True, False],
        }
    )
    with ServingClient(running.address) as client:
        contributions = client.predict("m", frame, signature_name="explain").outputs["contribution"]
        missing = mixed.MISSING
        expected = [[0.4, 3.5, 1, 1, 1, 1, 1], [0.4, missing, 2, missing, missing, 0, 0]]
        np.testing.assert_allclose(contributions, expected, rtol=1e-6)
        with pytest.raises(InvalidArgumentError, match="input city: expected strings, got None"):
            client.predict("m", frame.with_columns(city=pl.lit(None, pl.String)))

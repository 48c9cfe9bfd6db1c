"""Encoding of outputs as JSON, for every number of rows, type and shape."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow_serving.apis import classification_pb2, regression_pb2

from client.codecs.json_outputs import write_columns, write_rows
from client.codecs.tfs_rest import examples, predict
from client.errors import ClientError
from client.serving.tensors import Array

NUMBERS = ["f4", "f8", "f2", "i1", "i8", "u8", "u2", "?"]
NAMES = ["label", "x_bytes", 'a "name"', "é", "y"]


@st.composite
def output_maps(draw: Callable[..., Any]) -> dict[str, Array]:
    """Draw outputs with the same number of rows."""
    count = draw(st.sampled_from([1, 2, 12]))
    outputs = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)):
        shape = (count, *draw(st.sampled_from([(), (1,), (3,), (0,), (2, 3)])))
        if draw(st.booleans()):
            size = int(np.prod(shape))
            text = st.text(max_size=4).map(lambda t: t.encode("utf-8", "replace"))
            either = st.one_of(text, st.binary(max_size=3))
            values = draw(st.lists(either, min_size=size, max_size=size))
            outputs[name] = np.array([*values, None], object)[:-1].reshape(shape)
        else:
            array = draw(arrays.arrays(draw(st.sampled_from(NUMBERS)), shape))
            outputs[name] = array if draw(st.booleans()) else np.asfortranarray(array)
    return outputs


def json_form(name: str, value: Any) -> Any:
    """Return the JSON form of a value."""
    if isinstance(value, np.ndarray):
        return [json_form(name, inner) for inner in value]
    if isinstance(value, bytes):
        as_b64 = {"b64": base64.b64encode(value).decode()}
        try:
            return as_b64 if name.endswith("_bytes") else value.decode()
        except UnicodeDecodeError:
            return as_b64
    return value.item() if np.isfinite(value) else None


def is_equal(actual: Any, expected: Any, dtype: np.dtype[Any]) -> bool:
    """Return whether a value equals the expected one; floats are compared in their own type."""
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(
            is_equal(a, e, dtype) for a, e in zip(actual, expected, strict=True)
        )
    if isinstance(expected, float):
        return type(actual) is float and bool(dtype.type(actual) == expected)
    return type(actual) is type(expected) and bool(actual == expected)


@given(output_maps())
@settings(max_examples=300, deadline=None)
def test_rows_and_columns_contain_every_value(outputs: dict[str, Array]) -> None:
    columns = json.loads(write_columns(outputs))["outputs"]
    rows = json.loads(write_rows(outputs, b',"version":3'))
    assert rows.pop("version") == 3
    (predictions,) = rows.values()
    for name, array in outputs.items():
        expected = json_form(name, array)
        in_rows = [row[name] for row in predictions] if len(outputs) > 1 else predictions
        assert is_equal(in_rows, expected, array.dtype), name
        assert is_equal(columns[name] if len(outputs) > 1 else columns, expected, array.dtype), name


def test_floats_have_the_digits_of_their_type_and_stay_floats() -> None:
    values = np.array([2, 0.1, 1e20], np.float32)
    assert write_columns({"y": values}) == b'{"outputs":[2.0,0.1,1e+20]}'
    assert write_rows({"y": values[:1], "z": values[1:2]}) == (
        b'{"predictions":[{"y":2.0,"z":0.1}]}'
    )


def test_zero_rows_are_an_empty_list() -> None:
    assert write_rows({"y": np.zeros(0), "z": np.zeros((0, 2))}) == b'{"predictions":[]}'


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"y": np.zeros(2), "x": np.zeros(())}, "Tensor name: x has no shape information "),
        (
            {"y": np.zeros(2), "x": np.zeros(3)},
            "Tensor name: y has inconsistent batch size: 2 expecting: 3",
        ),
        ({"y": np.zeros(1, "c8")}, "Failed to write JSON value for tensor type: complex64"),
    ],
)
def test_outputs_without_rows_are_rejected_as_by_tensorflow_serving(
    outputs: dict[str, Array], message: str
) -> None:
    with pytest.raises(ClientError) as error:
        predict.write(outputs, row_form=True)
    assert (error.value.message, error.value.status) == (message, 400)


def test_classifications_are_label_score_pairs_and_regressions_are_numbers() -> None:
    classification = classification_pb2.ClassificationResponse()
    classes = classification.result.classifications.add().classes
    classes.add(label="benign", score=0.1)
    classes.add(label='"é"', score=float("nan"))
    assert orjson.loads(examples.write_classification(classification)) == {
        "results": [[["benign", 0.1], ['"é"', None]]]
    }
    regression = regression_pb2.RegressionResponse()
    regression.result.regressions.add(value=0.1)
    regression.result.regressions.add(value=2)
    assert examples.write_regression(regression) == b'{"results":[0.1,2.0]}'


def test_empty_results_are_rejected() -> None:
    with pytest.raises(ClientError, match="Cannot convert empty ClassificationResults to JSON"):
        examples.write_classification(classification_pb2.ClassificationResponse())
    with pytest.raises(ClientError, match="Cannot convert empty RegressionResults to JSON"):
        examples.write_regression(regression_pb2.RegressionResponse())

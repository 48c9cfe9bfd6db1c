"""Outputs as JSON: the same values, whatever their number, type and shape."""

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
def outputs(draw: Callable[..., Any]) -> dict[str, Array]:
    """Some outputs with the same number of rows."""
    count = draw(st.sampled_from([1, 2, 12]))
    made = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)):
        shape = (count, *draw(st.sampled_from([(), (1,), (3,), (0,), (2, 3)])))
        if draw(st.booleans()):
            size = int(np.prod(shape))
            text = st.text(max_size=4).map(lambda t: t.encode("utf-8", "replace"))
            either = st.one_of(text, st.binary(max_size=3))
            values = draw(st.lists(either, min_size=size, max_size=size))
            made[name] = np.array([*values, None], object)[:-1].reshape(shape)
        else:
            array = draw(arrays.arrays(draw(st.sampled_from(NUMBERS)), shape))
            made[name] = array if draw(st.booleans()) else np.asfortranarray(array)
    return made


def plain(name: str, value: Any) -> Any:
    """Write a value as JSON, slowly."""
    if isinstance(value, np.ndarray):
        return [plain(name, inner) for inner in value]
    if isinstance(value, bytes):
        as_b64 = {"b64": base64.b64encode(value).decode()}
        try:
            return as_b64 if name.endswith("_bytes") else value.decode()
        except UnicodeDecodeError:
            return as_b64
    return value.item() if np.isfinite(value) else None


def same(got: Any, want: Any, dtype: np.dtype[Any]) -> bool:
    """Whether a value is the expected one; floats are compared in their own type."""
    if isinstance(want, list):
        return len(got) == len(want) and all(
            same(g, w, dtype) for g, w in zip(got, want, strict=True)
        )
    if isinstance(want, float):
        return type(got) is float and bool(dtype.type(got) == want)
    return type(got) is type(want) and bool(got == want)


@given(outputs())
@settings(max_examples=300, deadline=None)
def test_every_value_is_told_in_its_place(made: dict[str, Array]) -> None:
    columns = json.loads(write_columns(made))["outputs"]
    rows = json.loads(write_rows(made, b',"version":3'))
    assert rows.pop("version") == 3
    (predictions,) = rows.values()
    for name, array in made.items():
        want = plain(name, array)
        in_rows = [row[name] for row in predictions] if len(made) > 1 else predictions
        assert same(in_rows, want, array.dtype), name
        assert same(columns[name] if len(made) > 1 else columns, want, array.dtype), name


def test_a_float_has_the_digits_of_its_type_and_stays_a_float() -> None:
    values = np.array([2, 0.1, 1e20], np.float32)
    assert write_columns({"y": values}) == b'{"outputs":[2.0,0.1,1e+20]}'
    assert write_rows({"y": values[:1], "z": values[1:2]}) == (
        b'{"predictions":[{"y":2.0,"z":0.1}]}'
    )


def test_no_rows_are_an_empty_list() -> None:
    assert write_rows({"y": np.zeros(0), "z": np.zeros((0, 2))}) == b'{"predictions":[]}'


@pytest.mark.parametrize(
    ("made", "message"),
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
def test_what_has_no_row_form_is_refused_in_the_original_s_words(
    made: dict[str, Array], message: str
) -> None:
    with pytest.raises(ClientError) as error:
        predict.write(made, row_form=True)
    assert (error.value.message, error.value.status) == (message, 400)


def test_classes_have_labels_and_scores_and_regressions_are_numbers() -> None:
    classified = classification_pb2.ClassificationResponse()
    classes = classified.result.classifications.add().classes
    classes.add(label="benign", score=0.1)
    classes.add(label='"é"', score=float("nan"))
    assert orjson.loads(examples.write_classification(classified)) == {
        "results": [[["benign", 0.1], ['"é"', None]]]
    }
    regressed = regression_pb2.RegressionResponse()
    regressed.result.regressions.add(value=0.1)
    regressed.result.regressions.add(value=2)
    assert examples.write_regression(regressed) == b'{"results":[0.1,2.0]}'


def test_results_that_are_none_are_refused() -> None:
    with pytest.raises(ClientError, match="Cannot convert empty ClassificationResults to JSON"):
        examples.write_classification(classification_pb2.ClassificationResponse())
    with pytest.raises(ClientError, match="Cannot convert empty RegressionResults to JSON"):
        examples.write_regression(regression_pb2.RegressionResponse())

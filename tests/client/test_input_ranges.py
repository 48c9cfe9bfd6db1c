"""Numbers outside their range in training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import ClientError
from client.codecs import Call
from client.inference.input_ranges import OUT_OF_RANGE, UNSEEN, count, find, refuse
from client.serving.schema import Schema
from tests.client import schemas

# Columns a, b and c, each from 0 to 2 in training.
SCHEMA = schemas.numeric("a", "b", "c")
NUMBERS = st.floats(-3, 5, width=32) | st.sampled_from([0.0, 2.0, np.nan, np.inf, -np.inf])
MISSING = schemas.with_description(
    SCHEMA, *(schemas.column(name, missing=name == "b") for name in ("a", "b", "c"))
)


def count_outside(call: Call, schema: Schema) -> dict[str, int]:
    return dict(count(find(call, schema), OUT_OF_RANGE))


def refuse_outside(call: Call, schema: Schema, rows_before: int = 0) -> None:
    refuse(find(call, schema), OUT_OF_RANGE, UNSEEN, rows_before=rows_before)


def dense(rows: Any) -> Call:
    return Call("dense", {"features": np.asarray(rows, np.float32).reshape(-1, 3)})


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS)))
def test_numbers_below_the_minimum_or_above_the_maximum_are_out_of_range(
    rows: list[tuple[float, ...]],
) -> None:
    columns = zip("abc", zip(*rows, strict=True), strict=False)
    # Only column b may have missing values.
    expected = {
        name: sum(not (0 <= x <= 2) and not (name == "b" and np.isnan(x)) for x in values)
        for name, values in columns
    }
    by_name = {name: np.array([row[i] for row in rows], np.float32) for i, name in enumerate("abc")}
    for call in (dense(rows), Call("serving_default", by_name)):
        assert count_outside(call, MISSING) == {name: n for name, n in expected.items() if n}


def test_limits_are_rounded_to_the_precision_of_the_input() -> None:
    limit = 0.1  # slightly more as float32
    assert SCHEMA.description is not None
    columns = tuple(replace(c, maximum=limit) for c in SCHEMA.description.columns)
    schema = schemas.with_description(SCHEMA, *columns)
    assert count_outside(dense([[limit] * 3]), schema) == {}
    assert count_outside(dense([[np.nextafter(np.float32(limit), np.float32(1)), 0, 0]]), schema)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8])
def test_numbers_of_any_dtype_are_compared_without_overflow(dtype: type[np.generic]) -> None:
    assert SCHEMA.description is not None
    first, *others = SCHEMA.description.columns
    for maximum, expected in ((2.5, 1), (1e300, 0)):  # most dtypes cannot hold the second
        schema = schemas.with_description(SCHEMA, replace(first, maximum=maximum), *others)
        call = Call("serving_default", {"a": np.array([0, 2, 3], dtype)})
        assert sum(count_outside(call, schema).values()) == expected


def test_non_numeric_and_undescribed_inputs_are_ignored() -> None:
    mixed = schemas.mixed()
    inputs: dict[str, Any] = {
        "size": np.array([3.0], np.float32),
        "income": np.array([np.nan], np.float32),
        "city": np.array([b"Paris"], object),
        "rooms": np.array([99]),
        "balcony": np.array([True]),
    }
    assert count_outside(Call("serving_default", inputs), mixed) == {"size": 1}
    unknown = {"x": np.array([99.0], np.float32)}
    assert count_outside(Call("serving_default", unknown), schemas.schema()) == {}
    assert count_outside(Call("nosuch", unknown), SCHEMA) == {}
    # The model server reports unexpected shapes.
    for shape in ((), (2,), (2, 2), (2, 3, 3)):
        other = {"features": np.full(shape, 99, np.float32)}
        assert count_outside(Call("dense", other), SCHEMA) == {}


def test_error_names_the_first_number_out_of_range() -> None:
    refuse_outside(dense([[0, 1, 2]]), SCHEMA)
    with pytest.raises(ClientError) as error:
        refuse_outside(dense([[0, 1, 2], [0, -0.5, 9]]), SCHEMA)
    assert error.value.status == 400
    assert error.value.message == (
        'row 2, column "b": expected a number from 0.0 to 2.0, as in training, got -0.5'
    )
    with pytest.raises(ClientError, match="row 12, "):
        refuse_outside(dense([[0, 1, 2], [0, -0.5, 9]]), SCHEMA, rows_before=10)

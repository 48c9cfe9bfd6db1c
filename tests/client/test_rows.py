from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from client.codecs import Call
from client.codecs.json import rows as own_dialect
from client.errors import ClientError
from client.serving.schema import Schema, Signature
from client.serving.tensors import Array
from tests.client.schemas import any_rank, column, schema, spec, with_description

TABLE = schema(("age", "height"), age=spec("FLOAT", None), height=spec("DOUBLE", None))
ONE = schema(x=spec("FLOAT", None))
MATRIX = schema(x=spec("FLOAT", None, 2))
TEXT = schema(x=spec("STRING", None))
SMALL = schema(x=spec("INT8", None))
FLAGS = schema(x=spec("BOOL", None))
NUMERIC = schema(("age", "height"), age=spec("FLOAT", None), height=spec("FLOAT", None))
DENSE = replace(
    NUMERIC,
    signatures={
        **NUMERIC.signatures,
        "dense": Signature(
            {"features": spec("FLOAT", None, 2)}, NUMERIC.signatures["serving_default"].outputs
        ),
    },
)
ANY = schema(x=any_rank("INT64"))


def category(*vocabulary: str, missing: bool = False) -> Schema:
    return with_description(TEXT, column("x", *vocabulary, missing=missing))


SEEN_MISSING = with_description(DENSE, column("age"), column("height", missing=True))

DEEP: Any = 1
for _ in range(65):
    DEEP = [DEEP]


def read(body: Any, model: Schema) -> Call:
    return own_dialect.read(orjson.dumps(body), model).call


def write(outputs: Mapping[str, Array], *, row_form: bool) -> Any:
    return orjson.loads(own_dialect.write(outputs, row_form=row_form))


def values(model: Schema, body: Any) -> dict[str, Any]:
    return {name: array.tolist() for name, array in read(body, model).inputs.items()}


@pytest.mark.parametrize(
    ("model", "body", "expected"),
    [
        (TABLE, {"instances": [{"age": 1, "height": 2.5}]}, {"age": [1], "height": [2.5]}),
        (TABLE, {"instances": [[1, 2.5], [3, 4]]}, {"age": [1, 3], "height": [2.5, 4]}),
        (TABLE, {"inputs": {"height": [2, 4], "age": [1, 3]}}, {"age": [1, 3], "height": [2, 4]}),
        (ONE, {"instances": [1, 2]}, {"x": [1, 2]}),
        (ONE, {"instances": [{"x": 1}]}, {"x": [1]}),
        (ONE, {"inputs": [1, 2]}, {"x": [1, 2]}),
        (ONE, {"inputs": []}, {"x": []}),
        (MATRIX, {"instances": [[1, 2], [3, 4]]}, {"x": [[1, 2], [3, 4]]}),
        (MATRIX, {"inputs": {"x": [[1, 2]]}}, {"x": [[1, 2]]}),
        (TEXT, {"instances": ["é", {"b64": "/wA="}]}, {"x": ["é".encode(), b"\xff\x00"]}),
        (SMALL, {"instances": [-128, 127]}, {"x": [-128, 127]}),
        (FLAGS, {"instances": [True, False]}, {"x": [True, False]}),
        (ANY, {"inputs": 2**62}, {"x": 2**62}),
        (ANY, {"inputs": [[[1]]]}, {"x": [[[1]]]}),
        (ONE, {"instances": [1], "signature_name": "serving_default"}, {"x": [1]}),
        (ONE, {"instances": [1], "signature_name": ""}, {"x": [1]}),
    ],
)
def test_instances_and_inputs_become_arrays(
    model: Schema, body: Any, expected: dict[str, Any]
) -> None:
    assert values(model, body) == expected


def test_arrays_have_the_dtypes_of_the_signature() -> None:
    inputs = read({"instances": [[1, 2]]}, TABLE).inputs
    assert {name: array.dtype.name for name, array in inputs.items()} == {
        "age": "float32",
        "height": "float64",
    }


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (ONE, [1], "the body is a list of 1; expected {"),
        (ONE, "x", 'the body is the string "x"'),
        (ONE, {}, "the body has neither"),
        (ONE, {"instances": [1], "inputs": [1]}, "the body has both"),
        (ONE, {"instances": [1], "extra": 1}, 'unknown key "extra"'),
        (ONE, {"instances": [1], "signature_name": 3}, "signature_name: expected a string, got 3"),
        (ONE, {"instances": [1], "signature_name": "z"}, 'has no "z"; it has serving_default'),
        (ONE, {"instances": {"x": 1}}, "instances: expected a list of rows, got an object"),
        (ONE, {"instances": []}, "instances: expected at least one row"),
        (ONE, {"instances": ["1"]}, 'instances[0]: expected a number, got the string "1"'),
        (ONE, {"instances": [1, None]}, "instances[1]: expected a number, got null"),
        (ONE, {"instances": [1, True]}, "instances[1]: expected a number, got true"),
        (ONE, {"instances": [[1]]}, "instances[0]: expected a number, got a list of 1"),
        (TABLE, {"instances": [{"age": 1}]}, 'instances[0]: column "height" (float64) is missing'),
        (TABLE, {"instances": [{}]}, 'column "age" (float32) is missing, and 1 more'),
        (
            TABLE,
            {"instances": [{"age": 1, "height": 2}, {"age": 1, "height": 2, "size": 3}]},
            'instances[1]: unknown column "size"; the columns are age, height',
        ),
        (
            TABLE,
            {"instances": [{"age": 1, "height": 2}, {"age": "x", "height": 2}]},
            'instances[1].age: expected a number, got the string "x"',
        ),
        (TABLE, {"instances": [[1]]}, "instances[0]: expected 2 values in the order age, height"),
        (TABLE, {"instances": [[1, 2], 3]}, "instances[1]: expected an object or a list of 2"),
        (TABLE, {"instances": [{"age": 1, "height": 2}, [1, 2]]}, "instances[1]: expected an obj"),
        (TABLE, {"inputs": [1, 2]}, "inputs: expected an object with age, height, got a list of 2"),
        (TABLE, {"inputs": {"age": [1]}}, 'inputs: column "height" (float64) is missing'),
        (TABLE, {"inputs": {"size": [1]}}, 'inputs: unknown column "size"'),
        (
            TABLE,
            {"inputs": {"age": [1, 2], "height": [1]}},
            "inputs.height: expected 2 values like inputs.age, got 1",
        ),
        (TABLE, {"inputs": {"age": [1, "x"], "height": [1, 2]}}, "inputs.age[1]: expected a numb"),
        (MATRIX, {"instances": [[1, 2], [3]]}, "instances[1]: expected a list of 2 values like"),
        (MATRIX, {"instances": [[1, 2], 3]}, "instances[1]: expected a list of 2 values like"),
        (MATRIX, {"instances": [[1, 2, 3]]}, "expected float32 [any, 2], got shape [1, 3]"),
        (MATRIX, {"instances": [[1, 2], [3, "y"]]}, "instances[1][1]: expected a number, got the"),
        (TEXT, {"instances": ["a", 5]}, "instances[1]: expected a string or"),
        (TEXT, {"instances": [{"b64": "?"}]}, "instances[0]: expected a string or"),
        (SMALL, {"instances": [1, 128]}, "instances[1]: expected an integer from -128 to 127"),
        (SMALL, {"instances": [1.0]}, "instances[0]: expected an integer, got 1.0"),
        (FLAGS, {"instances": [1]}, "instances[0]: expected true or false, got 1"),
        (
            ONE,
            {"instances": [1, -1e39]},
            "instances[1]: expected at most ±3.4028235e+38, got -1e+39",
        ),
        (ANY, {"inputs": DEEP}, "inputs: expected at most 64 nested lists"),
    ],
)
def test_errors_name_the_field_the_value_and_the_expectation(
    model: Schema, body: Any, message: str
) -> None:
    with pytest.raises(ClientError) as error:
        read(body, model)
    assert message in error.value.message
    assert error.value.status == 400


@pytest.mark.parametrize(
    "instances", [[[1, 2], [3, 4]], [{"height": 2, "age": 1}, {"age": 3, "height": 4}]]
)
def test_numeric_rows_become_one_matrix_if_a_signature_accepts_it(instances: Any) -> None:
    request = read({"instances": instances}, DENSE)
    assert request.signature_name == "dense"
    assert request.inputs["features"].tolist() == [[1, 2], [3, 4]]
    assert read({"instances": instances}, NUMERIC).signature_name == "serving_default"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, "x"], 'instances[0].height: expected a number, got the string "x"'),
        ({"age": [1], "height": 2}, "instances[0].age: expected a number, got a list of 1"),
        ([1], "instances[0]: expected 2 values in the order age, height, got 1"),
        ({"age": 1}, 'instances[0]: column "height" (float32) is missing'),
        (5, "instances[0]: expected an object or a list of 2 values"),
    ],
)
def test_errors_in_a_matrix_name_the_column(row: Any, message: str) -> None:
    with pytest.raises(ClientError) as error:
        read({"instances": [row]}, DENSE)
    assert message in error.value.message


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1, 2], [3, None]]},
        {"instances": [{"height": 2, "age": 1}, {"age": 3, "height": None}]},
        {"instances": [{"height": 2, "age": 1}, {"age": 3}]},
        {"instances": [[1, 2], [3, None]], "signature_name": "dense"},
        {"inputs": [[1, 2], [3, None]], "signature_name": "dense"},
    ],
)
def test_null_is_a_missing_number_in_a_matrix(body: Any) -> None:
    request = read(body, SEEN_MISSING)
    assert request.signature_name == "dense"
    features = request.inputs["features"]
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, [[1, 2], [3, np.nan]])


def test_null_is_a_missing_number_among_plain_values() -> None:
    inputs = {"features": spec("FLOAT", None, 1)}
    dense = Signature(inputs, NUMERIC.signatures["serving_default"].outputs)
    ages = schema(("age",), age=spec("FLOAT", None))
    ages = replace(ages, signatures={**ages.signatures, "dense": dense})
    body = {"instances": [1.5, None]}
    request = read(body, with_description(ages, column("age", missing=True)))
    np.testing.assert_array_equal(request.inputs["features"], [[1.5], [np.nan]])
    with pytest.raises(ClientError, match=r"instances\[1\].age: expected a number, got null"):
        read(body, ages)


NO_MISSING = "; training saw no missing values in this column"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"instances": [[1, 2], [None, 2]]},
            f"instances[1].age: expected a number, got null{NO_MISSING}",
        ),
        (
            {"inputs": {"age": [1, None], "height": [1, None]}},
            f"inputs.age[1]: expected a number, got null{NO_MISSING}",
        ),
        (
            {"inputs": [[1, None], [None, 2]], "signature_name": "dense"},
            f"inputs[1][0]: expected a number, got null{NO_MISSING}",
        ),
        ({"instances": [{"height": 1}]}, 'instances[0]: column "age" (float32) is missing'),
        (
            {"instances": [[1, None], [1, 3e39]]},
            "instances[1].height: expected at most ±3.4028235e",
        ),
        (
            {"instances": [[1, None], [1, "x"]]},
            "instances[1].height: expected a number, got the st",
        ),
    ],
)
def test_null_is_rejected_in_columns_without_missing_values(body: Any, message: str) -> None:
    with pytest.raises(ClientError) as error:
        read(body, SEEN_MISSING)
    assert message in error.value.message


@pytest.mark.parametrize(
    ("model", "instances", "expected"),
    [
        (category("7", "42"), [42, 8, "7", "x"], [b"42", b"8", b"7", b"x"]),
        (category("true", "false"), [True, False, "true"], [b"true", b"false", b"true"]),
        (category("7", "true", "x"), [7, True], [b"7", b"true"]),
        (category("7", missing=True), [None, 7, ""], [b"", b"7", b""]),
    ],
)
def test_categories_may_be_sent_with_their_type_in_training(
    model: Schema, instances: list[Any], expected: list[bytes]
) -> None:
    assert values(model, {"instances": instances}) == {"x": expected}


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (category("7", "42"), 7.5),
        (category("7", "42"), True),
        (category("a", "b"), 7),
        (category("007", "42"), 7),
        (category("7", "x"), 8),
        (with_description(TEXT, column("x")), 7),
        (category("a", "b"), True),
        (TEXT, 7),
        (TEXT, None),
        (category("7", missing=True), ["7"]),
    ],
)
def test_values_that_match_no_category_are_rejected(model: Schema, value: Any) -> None:
    with pytest.raises(
        ClientError, match=r'instances\[0\]: expected a string or {"b64": "..."}, got'
    ):
        read({"instances": [value]}, model)


def test_model_without_a_description_has_no_column_order() -> None:
    undescribed = schema(a=spec("FLOAT", None), b=spec("FLOAT", None))
    with pytest.raises(ClientError, match=r"instances\[0\]: expected an object with a, b"):
        read({"instances": [[1, 2]]}, undescribed)


def test_dtypes_without_a_json_form_are_not_implemented() -> None:
    with pytest.raises(ClientError, match="complex64 have no JSON form") as error:
        read({"instances": [1]}, schema(x=spec("COMPLEX64", None)))
    assert error.value.status == 501


def test_one_output_is_plain_and_several_are_objects() -> None:
    one, two = np.array([1.5, 2.5], np.float32), np.array([b"a", b"b"], object)
    assert write({"y": one}, row_form=True) == {"predictions": [1.5, 2.5]}
    assert write({"y": one, "z": two}, row_form=True) == {
        "predictions": [{"y": 1.5, "z": "a"}, {"y": 2.5, "z": "b"}]
    }
    assert write({"y": one}, row_form=False) == {"outputs": [1.5, 2.5]}
    assert write({"y": one, "z": two}, row_form=False) == {
        "outputs": {"y": [1.5, 2.5], "z": ["a", "b"]}
    }


def test_scalar_output_is_a_plain_value() -> None:
    scalars = {"y": np.array(1.5, np.float32), "n": np.array(3)}
    assert write(scalars, row_form=False) == {"outputs": {"n": 3, "y": 1.5}}


def test_bytes_that_are_not_utf_8_and_outputs_named_bytes_become_base64() -> None:
    assert write({"y": np.array([b"\xff"], object)}, row_form=True) == {
        "predictions": [{"b64": "/w=="}]
    }
    assert write({"y_bytes": np.array([b"a"], object)}, row_form=True) == {
        "predictions": [{"b64": "YQ=="}]
    }


def test_outputs_of_unequal_length_have_no_rows() -> None:
    outputs = {"y": np.array([1.0]), "z": np.array([1.0, 2.0])}
    with pytest.raises(ClientError, match='send "inputs" instead'):
        write(outputs, row_form=True)
    assert set(write(outputs, row_form=False)["outputs"]) == {"y", "z"}


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"instances": [{"age": 1, "age": 2, "height": 3}]}', "age"),
        (b'{"inputs": {"age": [1], "height": [3], "height": [4]}}', "height"),
        (b'{"instances": [[1, 2]], "instances": [[3, 4]]}', "instances"),
    ],
)
def test_duplicate_keys_are_rejected(body: bytes, key: str) -> None:
    with pytest.raises(ClientError, match=f'duplicate key "{key}"'):
        own_dialect.read(body, TABLE)

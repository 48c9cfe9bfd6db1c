"""TensorFlow Serving's REST dialect, in cases that the recordings do not cover."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from client.codecs.tfs_rest import examples, predict
from client.errors import ClientError
from client.serving.protos import SignatureDefMap
from client.serving.schema import Schema
from tests.client.schemas import any_rank, column, schema, spec, with_description

ONE = schema(x=spec("FLOAT", None))
TWO = schema(a=spec("FLOAT", None), b=spec("FLOAT", None))
TABLE = with_description(TWO, column("b"), column("a", missing=True))
SINGLES = schema(x=spec("FLOAT", None, 1))
MATRIX = schema(x=spec("FLOAT", None, 2))
FIXED = schema(x=spec("FLOAT", 2, 2))
SCALAR = schema(x=spec("FLOAT"))
TEXT = schema(x=spec("STRING", None))
SMALL = schema(x=spec("INT8", None))
HALF = schema(x=spec("HALF", None))
ANY = schema(x=any_rank("FLOAT"))
NOTHING = schema()

DEEP = "[" * 65 + "1" + "]" * 65


def as_bytes(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def read(body: Any, model: Schema) -> dict[str, Any]:
    call = predict.read(as_bytes(body), model).call
    return {name: array.tolist() for name, array in call.inputs.items()}


def error_message(body: Any, model: Schema) -> str:
    with pytest.raises(ClientError) as error:
        predict.read(as_bytes(body), model)
    assert error.value.status == 400
    orjson.dumps(error.value.message)  # it can be encoded
    return error.value.message


@pytest.mark.parametrize(
    ("model", "body", "expected"),
    [
        (ONE, '{"instances": [Inf, -Inf, Infinity, -Infinity]}', [np.inf, -np.inf] * 2),
        (ONE, '{"instances": [1e39, -1e39, 1e-50]}', [np.inf, -np.inf, 0]),
        (ONE, '{"instances": [18446744073709551615, 99999999999999999999]}', [2.0**64, 1e20]),
        (MATRIX, '{"instances": [[1, NaN], [2, 3]]}', [[1, np.nan], [2, 3]]),
        (ONE, '{"instances": [1]}\0 and so on', [1]),
        (ONE, '{"instances": [1]} {"instances": [2]}', [1]),
        (ONE, b'\xef\xbb\xbf{"instances": [1]}', [1]),
        (ONE, '{"inputs": {"x": [1], "x": ["two"]}}', [1]),
        (ONE, '{"instances": [{"x": 1, "x": 2}, {"x": 3}]}', [1, 3]),
        (ONE, '{"instances": [{"\\u0078": 1}], "instances": 5}', [1]),
        (ONE, '{"signature_name": "", "signature_name": 5, "instances": [1]}', [1]),
        (TEXT, b'{"instances": ["\xff\xfe", "\\u00e6"]}', [b"\xff\xfe", "æ".encode()]),
        (TEXT, '{"instances": [{"b64": "AAE"}, {"b64": "AA.."}]}', [b"\x00\x01", b"\x00"]),
        (TEXT, '{"instances": [{"b64": "\\tA A\\n= ="}]}', [b"\x00"]),
        (SMALL, '{"instances": [128, -2147483648]}', [-128, 0]),
        (SINGLES, '{"instances": [1.0, 2.0, 5.0]}', [1, 2, 5]),
        (SCALAR, '{"instances": [1, 2]}', [1, 2]),
        (FIXED, '{"inputs": []}', []),
        (ANY, '{"inputs": [[[1], [2]]]}', [[[1], [2]]]),
    ],
)
def test_bodies_that_tensorflow_serving_accepts_are_accepted(
    model: Schema, body: Any, expected: Any
) -> None:
    array = predict.read(as_bytes(body), model).call.inputs["x"]
    np.testing.assert_array_equal(array, np.array(expected, array.dtype))


ELEMENT = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (NOTHING, '{"inputs": 5}', "Failed to get input map for signature: DEFAULT"),
        (ONE, '{"signature_name": "z"}', 'Serving signature name: "z" not found in signature def'),
        (ONE, '{"instances": [1, [2]]}', ELEMENT.format(1) + "Expecting shape [] but got: [1]"),
        (MATRIX, '{"instances": [[1, 2], [3]]}', "Expecting tensor size: 2 but got: 1"),
        (TWO, '{"instances": [{"b64": "AA=="}]}', "instances is a plain list, but expecting list"),
        (TWO, '{"instances": [{"c": 1, "a": "x"}]}', "does not have named input: c"),
        (
            ANY,
            '{"inputs": [[1, 2], [3]]}',
            "at unexpected size: 1 at level: 1 expected size: 2",
        ),
        (TEXT, '{"inputs": [{"b64": "A"}]}', "Unable to base64 decode"),
        (TEXT, '{"inputs": [{"b64": "AA="}]}', "Unable to base64 decode"),
        (ANY, f'{{"inputs": {DEEP}}}', "tensor parsing error: x"),
        (ONE, '{"instances": [[1]]}', 'input "x": expected float32 [any], got shape [1, 1]'),
        (MATRIX, '{"inputs": [1, 2]}', 'input "x": expected float32 [any, 2], got shape [2]'),
        (FIXED, '{"instances": [[1, 2]]}', 'input "x": expected float32 [2, 2], got shape [1, 2]'),
    ],
)
def test_error_messages_match_those_of_tensorflow_serving(
    model: Schema, body: Any, message: str
) -> None:
    assert message in error_message(body, model)


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (ONE, "", "the body is empty; expected"),
        (ONE, "  ", "the body is empty; expected"),
        (ONE, '{"instances": [1e400]}', "the body is not JSON: number out of range: 1e400"),
        (ONE, "\ufeff{" + '"instances": [}', "the body is not JSON: Expecting value"),
        (TEXT, b'{"instances": ["\xff", \xff]}', "the body is not JSON: Expecting value"),
        (TEXT, '{"instances": ["\\udc80", NaN]}', "lone surrogate in a string"),
        (ONE, "Infinity", "the body is inf; expected"),
        (ONE, "[1]", "the body is a list of 1; expected"),
        (ONE, '{"instances": [1], "inputs": 1}', 'the body has both "instances" and "inputs"'),
        (ONE, '{"instances": []}', "instances: expected a list of at least one row, got an empty"),
        (ONE, '{"instances": {"x": 1}}', "expected a list of at least one row, got an object"),
        (ONE, '{"instances": [{"x": 1}, 2]}', "instances[1]: expected an object like instances[0]"),
        (ONE, '{"instances": [2, {"x": 1}]}', "instances[1]: expected a value or a list, got an"),
        (ONE, '{"instances": ["2"]}', 'instances[0]: expected float, got the string "2"'),
        (ONE, '{"inputs": ["2"]}', 'inputs.x: expected float, got the string "2"'),
        (ANY, '{"inputs": [[1], 2]}', "inputs.x: expected a list of 1, got 2"),
        (SMALL, '{"inputs": [2.0]}', "inputs.x: expected int8, got 2.0"),
        (TWO, '{"instances": [{"a": "x", "c": 1}]}', "instances[0].a: expected float, got the str"),
        (TWO, '{"instances": [{"a": 1, "a": 2, "b": "x"}]}', "instances[0].b: expected float"),
        (TWO, '{"instances": [{"a": 1, "b": 2}, {"b": 1}]}', 'instances[1]: "a" is missing; expec'),
        (HALF, '{"instances": [1]}', "instances[0]: values of half have no JSON form"),
        (HALF, '{"inputs": {"x": [{"a": 1}]}}', "inputs.x: expected half, got an object"),
        (ONE, '{"more": ' + "[" * 90_000 + "]" * 90_000 + "}", "nested too deeply"),
    ],
)
def test_errors_name_the_field_and_the_value(model: Schema, body: Any, message: str) -> None:
    actual = error_message(body, model)
    assert message in actual
    assert len(actual) < 300


@pytest.mark.parametrize("form", ['{"inputs": %s}', '{"instances": [%s]}'])
def test_deeply_nested_lists_are_rejected(form: str) -> None:
    for depth in range(700, 1000):
        message = error_message(form % ("[" * depth + '"a"' + "]" * depth), ANY)
        assert message.startswith(("tensor parsing error: x", "the body is not JSON: lists"))


def test_long_values_are_truncated_in_errors() -> None:
    assert len(error_message({"inputs": ["x" * 10**6]}, ONE)) < 300
    assert len(error_message({"instances": [{"n" * 10**6: 1}]}, ONE)) < 400


def test_body_is_checked_without_a_schema() -> None:
    predict.check_body(b'{"instances": 1}')
    with pytest.raises(ClientError, match="the body is not JSON"):
        predict.check_body(b"{")
    with pytest.raises(ClientError, match="signature_name: expected a string, got 1"):
        predict.check_body(b'{"signature_name": 1}')


def test_init_signature_of_tensorflow_has_no_inputs() -> None:
    definition = SignatureDefMap()
    definition.signature_def["__init"].SetInParent()
    model = replace(ONE, definition=definition)
    body = {"signature_name": "__init", "instances": [1]}
    assert error_message(body, model) == "Failed to get input map for signature: __init"


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1, 2], [3, None]]},
        {"instances": [{"b": 1, "a": 2}, {"b": 3}]},
        {"inputs": {"a": [2, None], "b": [1, 3]}},
    ],
)
def test_null_and_row_lists_of_our_own_dialect_are_accepted(body: Any) -> None:
    inputs = read(body, TABLE)
    np.testing.assert_array_equal(inputs["a"], [2, np.nan])
    np.testing.assert_array_equal(inputs["b"], [1, 3])


def test_tables_reject_invalid_requests_like_any_model() -> None:
    assert "instances is a plain list" in error_message({"instances": [[1, 2, 3]]}, TABLE)
    assert 'instances[0]: "b" is missing; expected ' in error_message(
        {"instances": [{"a": 1}]}, TABLE
    )


def test_first_duplicate_key_wins_for_tables_too() -> None:
    row = '{"instances": [{"b": 1, "a": 5, "b": 7}, {"b": 2, "a": 6}]}'
    assert read(row, TABLE) == {"a": [5, 6], "b": [1, 2]}
    with_null = row.replace("6", "null")
    assert "expected float, got null" in error_message(with_null, TABLE)


def test_body_with_null_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = []
    loads = orjson.loads

    def counting_loads(body: bytes) -> Any:
        bodies.append(body)
        return loads(body)

    monkeypatch.setattr(orjson, "loads", counting_loads)
    read({"instances": [{"b": 1, "a": None}]}, TABLE)
    assert len(bodies) == 1


def test_half_a_million_values_with_nan_are_read() -> None:
    body = b'{"instances": [NaN' + b", 1.5" * 500_000 + b"]}"
    assert predict.read(body, ONE).call.inputs["x"].shape == (500_001,)


def features(example: Any) -> dict[str, list[Any]]:
    return {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in example.features.feature.items()
    }


def test_features_become_lists_of_their_kind() -> None:
    body = """{"signature_name": "s", "examples": [
        {"i": 1, "is": [true, -2], "f": 1.5, "fs": [NaN, 1e39], "t": "é", "b": [{"b64": "/w=="}]},
        {"i": 1, "i": 2.5, "none": []}
    ]}"""
    name, proto = examples.read(body.encode())
    assert name == "s"
    first, second = proto.example_list.examples
    actual = features(first)
    np.testing.assert_array_equal(actual.pop("fs"), [np.nan, np.inf])
    assert actual == {"i": [1], "is": [1, -2], "f": [1.5], "t": ["é".encode()], "b": [b"\xff"]}
    assert second.features.feature["i"].float_list.value == [2.5]
    assert second.features.feature["none"].WhichOneof("kind") is None


def test_context_is_sent_beside_the_examples() -> None:
    _, proto = examples.read(b'{"context": {"x": 1}, "examples": [{}, {"y": 2}]}')
    assert proto.WhichOneof("kind") == "example_list_with_context"
    assert features(proto.example_list_with_context.context) == {"x": [1]}
    assert len(proto.example_list_with_context.examples) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"examples": 5}', "examples: expected a list of objects, got 5"),
        ('{"examples": []}', "examples: expected a list of objects, got an empty list"),
        ("{}", '"examples" is missing'),
        ('{"context": 5, "examples": [{}]}', "Example must be JSON object but got JSON Number"),
        ('{"examples": [{"x": {"b64": "?"}}]}', "Unable to base64 decode"),
        (
            '{"examples": [{"x": {"a": 1}}]}',
            "x has element with unexpected JSON type: Object",
        ),
        (
            '{"examples": [{"x": [1, 2.5]}]}',
            "element type in feature: x expecting type: int64",
        ),
        (b'{"examples": [{"\xff": 1}]}', "is not UTF-8"),
    ],
)
def test_invalid_examples_are_rejected(body: Any, message: str) -> None:
    with pytest.raises(ClientError) as error:
        examples.read(as_bytes(body))
    assert message in error.value.message
    orjson.dumps(error.value.message)

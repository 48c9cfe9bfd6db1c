"""TensorFlow Serving's REST dialect beyond what the recordings hold."""

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
from tests.client.schemas import any_rank, column, describing, schema, spec

ONE = schema(x=spec("FLOAT", None))
TWO = schema(a=spec("FLOAT", None), b=spec("FLOAT", None))
TABLE = describing(TWO, column("b"), column("a", missing=True))
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


def read(body: Any, of: Schema) -> dict[str, Any]:
    call = predict.read(as_bytes(body), of).call
    return {name: array.tolist() for name, array in call.inputs.items()}


def refused(body: Any, of: Schema) -> str:
    with pytest.raises(ClientError) as error:
        predict.read(as_bytes(body), of)
    assert error.value.status == 400
    orjson.dumps(error.value.message)  # it can be told
    return error.value.message


@pytest.mark.parametrize(
    ("of", "body", "expected"),
    [
        (ONE, '{"instances": [Inf, -Inf, Infinity, -Infinity]}', [np.inf, -np.inf] * 2),
        (ONE, '{"instances": [1e39, -1e39, 1e-50]}', [np.inf, -np.inf, 0]),
        (ONE, '{"instances": [18446744073709551615, 99999999999999999999]}', [2.0**64, 1e20]),
        (MATRIX, '{"instances": [[1, NaN], [2, 3]]}', [[1, np.nan], [2, 3]]),
        (ONE, '{"instances": [1]}\0 and so on', [1]),
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
def test_what_the_original_reads_is_read(of: Schema, body: Any, expected: Any) -> None:
    got = predict.read(as_bytes(body), of).call.inputs["x"]
    np.testing.assert_array_equal(got, np.array(expected, got.dtype))


ELEMENT = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.mark.parametrize(
    ("of", "body", "message"),
    [
        (ONE, '{"instances": [1e400]}', "Number too big to be stored in double. at offset: 15"),
        (ONE, '\ufeff{"instances": [}', "JSON Parse error: Invalid value. at offset: 18"),
        (TEXT, b'{"instances": ["\xff", \xff]}', "JSON Parse error: Invalid value. at offset: 20"),
        (ONE, "Infinity", "JSON Value: Infinity Is not object"),
        (ONE, "[1]", "JSON Value: [\n    1\n] Is not object"),
        (ONE, '"\\u0001\\"\x7fé"', 'JSON Value: "\\u0001\\"\x7fé" Is not object'),
        (NOTHING, '{"inputs": 5}', "Failed to get input map for signature: DEFAULT"),
        (ONE, '{"signature_name": "z"}', 'Serving signature name: "z" not found in signature def'),
        (
            ONE,
            '{"instances": [1], "inputs": 1.0, "more": [1e21, 0.00001, 1e-7, {}, true]}',
            '"inputs": 1.0,\n    "more": [\n        1e21,\n        0.00001,\n        1e-7,\n'
            "        {},\n        true\n    ]\n} Not formatted correctly",
        ),
        (
            ONE,
            '{"instances": [NaN], "inputs": 1}',
            'JSON Value: {\n    "instances": [\n         Not formatted correctly',
        ),
        (ONE, '{"instances": [1, [2]]}', ELEMENT.format(1) + "Expecting shape [] but got: [1]"),
        (MATRIX, '{"instances": [[1, 2], [3]]}', "Expecting tensor size: 2 but got: 1"),
        (ONE, '{"instances": [{"x": 1}, 2]}', "Expecting object but got list at item 1 of input"),
        (ONE, '{"instances": [2, {"x": 1}]}', "Expecting value/list but got object at item 1 of"),
        (TWO, '{"instances": [{"b64": "AA=="}]}', "instances is a plain list, but expecting list"),
        (TWO, '{"instances": [{"a": "x", "c": 1}]}', "key: a of 'instances' list. Error: INVALID"),
        (TWO, '{"instances": [{"c": 1, "a": "x"}]}', "does not have named input: c"),
        (TWO, '{"instances": [{"a": 1, "a": 2, "b": "x"}]}', "0 key: b of 'instances' list."),
        (
            ANY,
            '{"inputs": [[1, 2], [3]]}',
            "at unexpected size: 1 at level: 1 expected size: 2",
        ),
        (TEXT, '{"inputs": [{"b64": "A"}]}', "Unable to base64 decode"),
        (TEXT, '{"inputs": [{"b64": "AA="}]}', "Unable to base64 decode"),
        (HALF, '{"instances": [1]}', "UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half"),
        (HALF, '{"inputs": {"x": [{"a": 1}]}}', "Type: Object is not of expected type: half"),
        (ANY, f'{{"inputs": {DEEP}}}', "tensor parsing error: x"),
        (ONE, '{"more": ' + "[" * 600 + "]" * 600 + "}", "more than 512 lists or objects"),
        (ONE, '{"instances": [[1]]}', 'input "x": expected float32 [any], got shape [1, 1]'),
        (MATRIX, '{"inputs": [1, 2]}', 'input "x": expected float32 [any, 2], got shape [2]'),
        (FIXED, '{"instances": [[1, 2]]}', 'input "x": expected float32 [2, 2], got shape [1, 2]'),
    ],
)
def test_what_the_original_refuses_is_refused_in_its_words(
    of: Schema, body: Any, message: str
) -> None:
    assert message in refused(body, of)


def test_numbers_that_are_no_json_at_the_end_of_a_number_are_quoted_as_the_original_does() -> None:
    instances = [2.5, 1e16, 0.1, 123456.789, 1.7976931348623157e308]
    told = [refused({"inputs": [value]}, SMALL).split()[2] for value in instances]
    assert told == ["2.5", "1e+16", "0.1", "123456.789", "1.7976931348623157e+308"]


def test_an_unknown_model_is_told_after_a_body_that_is_no_json() -> None:
    predict.check_body(b'{"instances": 1}')
    with pytest.raises(ClientError, match="JSON Parse error"):
        predict.check_body(b"{")
    with pytest.raises(ClientError, match="'signature_name' key must be a string value"):
        predict.check_body(b'{"signature_name": 1}')


def test_tensorflow_s_own_initialisation_is_a_signature_without_inputs() -> None:
    definition = SignatureDefMap()
    definition.signature_def["__init"].SetInParent()
    of = replace(ONE, definition=definition)
    body = {"signature_name": "__init", "instances": [1]}
    assert refused(body, of) == "Failed to get input map for signature: __init"


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1, 2], [3, None]]},
        {"instances": [{"b": 1, "a": 2}, {"b": 3}]},
        {"inputs": {"a": [2, None], "b": [1, 3]}},
    ],
)
def test_what_our_own_dialect_knows_of_a_table_is_read_too(body: Any) -> None:
    inputs = read(body, TABLE)
    np.testing.assert_array_equal(inputs["a"], [2, np.nan])
    np.testing.assert_array_equal(inputs["b"], [1, 3])


def test_a_wrong_request_to_a_table_is_still_refused_in_the_original_s_words() -> None:
    assert "instances is a plain list" in refused({"instances": [[1, 2, 3]]}, TABLE)
    assert "keys must be equal to: a,b" in refused({"instances": [{"a": 1}]}, TABLE)


def test_half_a_million_values_that_are_unusual_are_read() -> None:
    body = b'{"instances": [NaN' + b", 1.5" * 500_000 + b"]}"
    assert predict.read(body, ONE).call.inputs["x"].shape == (500_001,)


def features(of: Any) -> dict[str, list[Any]]:
    return {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in of.features.feature.items()
    }


def test_features_become_lists_of_their_kind() -> None:
    body = """{"signature_name": "s", "examples": [
        {"i": 1, "is": [true, -2], "f": 1.5, "fs": [NaN, 1e39], "t": "é", "b": [{"b64": "/w=="}]},
        {"i": 1, "i": 2.5, "none": []}
    ]}"""
    name, sent = examples.read(body.encode())
    assert name == "s"
    first, second = sent.example_list.examples
    got = features(first)
    np.testing.assert_array_equal(got.pop("fs"), [np.nan, np.inf])
    assert got == {"i": [1], "is": [1, -2], "f": [1.5], "t": ["é".encode()], "b": [b"\xff"]}
    assert second.features.feature["i"].float_list.value == [2.5]
    assert second.features.feature["none"].WhichOneof("kind") is None


def test_the_context_travels_beside_the_examples() -> None:
    _, sent = examples.read(b'{"context": {"x": 1}, "examples": [{}, {"y": 2}]}')
    assert sent.WhichOneof("kind") == "example_list_with_context"
    assert features(sent.example_list_with_context.context) == {"x": [1]}
    assert len(sent.example_list_with_context.examples) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"examples": 5}', "Expecting 'examples' value to be an list/array"),
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
        (b'{"examples": [{"\xff": 1}]}', "has a name that is not UTF-8"),
    ],
)
def test_examples_that_are_none_are_refused(body: Any, message: str) -> None:
    with pytest.raises(ClientError) as error:
        examples.read(as_bytes(body))
    assert message in error.value.message
    orjson.dumps(error.value.message)

"""Any body is decoded or rejected with a ClientError."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.codecs import JsonCall
from client.codecs.json import fast
from client.codecs.json import rows as own_dialect
from client.codecs.tfs_rest import examples, predict
from client.errors import ClientError
from client.serving.schema import Schema
from client.serving.tensors import DTYPES, to_proto
from tests.client.checking import check_refusal
from tests.client.schemas import any_rank, column, schema, spec, with_description

NAMES = ("x", "y_bytes", 'a "quoted" name')
SCHEMAS = [
    schema(x=spec("FLOAT", None)),
    schema(x=spec("DOUBLE", None, 2)),
    schema(x=any_rank("FLOAT")),
    schema(x=spec("STRING", None)),
    schema(x=spec("INT8", None)),
    schema(x=spec("UINT64")),
    schema(x=spec("HALF", None)),
    schema(x=any_rank("COMPLEX64")),
    schema(NAMES, **{name: spec("FLOAT", None) for name in NAMES}),
    with_description(
        schema(x=spec("FLOAT", None), y=spec("STRING", None), z=spec("BOOL", None)),
        column("z", "true", "false"),
        column("y", "a", "7", missing=True),
        column("x", missing=True),
    ),
]

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, -0.0, 2**31, 2**63, 2**64, 10**25, 1e39, 1e-320]),
)
texts = st.one_of(st.text(max_size=5), st.sampled_from(["b64", "AAE=", "x", "\ud800", "\x00"]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts, texts.map(lambda t: {"b64": t})),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from([*NAMES, "y", "z", "b64"]), texts), inner),
    ),
    max_leaves=12,
)
KEYS = ["instances", "inputs", "signature_name", "examples", "context", "more"]
documents = st.one_of(
    values,
    st.dictionaries(st.sampled_from(KEYS), values, max_size=3),
    st.fixed_dictionaries({"instances": st.lists(values, max_size=4)}),
    st.fixed_dictionaries({"inputs": values}),
    st.fixed_dictionaries({"examples": st.lists(values, max_size=3)}),
)


def to_json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def bodies(draw: Callable[..., Any]) -> bytes:
    """Draw JSON, possibly with bytes inserted, removed or repeated."""
    body = to_json(draw(documents))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 8)))
        replacement = draw(st.one_of(st.just(body[start:end] * 2), st.binary(max_size=3)))
        body = body[:start] + replacement + body[end:]
    return body


def outcome(read: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result or the ClientError; other errors propagate."""
    try:
        return read(*arguments)
    except ClientError as error:
        return error


def check_call(read: Callable[[bytes, Schema], JsonCall], body: bytes, model: Schema) -> None:
    result = outcome(read, body, model)
    if isinstance(result, ClientError):
        check_refusal(result)
        return
    call = result.call
    signature = model.signatures[call.signature_name]
    assert call.inputs.keys() == signature.inputs.keys()
    for name, array in call.inputs.items():
        dtype = signature.inputs[name].dtype
        assert array.dtype == DTYPES[dtype]
        to_proto(array, dtype)


@pytest.mark.parametrize("model", SCHEMAS, ids=range(len(SCHEMAS)))
@given(st.one_of(bodies(), st.binary(max_size=40)))
@settings(max_examples=300, deadline=None)
def test_predict_request_is_decoded_or_rejected(model: Schema, body: bytes) -> None:
    check_call(predict.read, body, model)
    check_call(own_dialect.read, body, model)


@given(st.one_of(bodies(), st.binary(max_size=40)))
@settings(max_examples=500, deadline=None)
def test_classify_request_is_decoded_or_rejected(body: bytes) -> None:
    result = outcome(examples.read, body)
    if isinstance(result, ClientError):
        check_refusal(result)
    else:
        result[1].SerializeToString()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
        b'{"instances": [' + b"9" * 5000 + b"]}",
        b'{"instances": [1e400, -1e400]}',
        b'{"instances": [' + b"1e5," * 200_000 + b"true]}",
        b'{"instances": [{"x": 1' + b', "x": 1' * 100_000 + b"}]}",
        b'{"instances": ["' + b'\\"[' * 500_000 + b'"]}',
        b'{"instances": ["' + b'\\"[' * 300_000,
        b'"' + b"[" * 1000 + b'"',
        b'{"instances": [Inf, "' + b'\\"' * 60_000,
        b'{"instances": ["\\ud800"]}',
        b'{"instances": ["\xed\xa0\x80"]}',
        b"\x00" * 1_000_000,
        b" " * 1_000_000,
        b"\xff" * 1_000_000,
    ],
    ids=lambda body: repr(body[:30]),
)
@pytest.mark.timeout(60)
def test_large_and_deep_requests_are_decoded_or_rejected(body: bytes) -> None:
    for model in SCHEMAS[::4]:
        check_call(predict.read, body, model)
        check_call(own_dialect.read, body, model)
    result = outcome(examples.read, body)
    if isinstance(result, ClientError):
        check_refusal(result)


LARGE = fast.LARGE_BYTES
PAIRS = schema(x=spec("FLOAT", None, 2))
SINGLE = schema(x=spec("FLOAT", None))
GRID = schema(x=spec("DOUBLE", None, 2, 2))
TWO_INPUTS = schema(x=spec("FLOAT", None), y=spec("FLOAT", None))
ZERO_BYTE = schema(**{"x": spec("FLOAT", None), "x\0y": spec("FLOAT", None)})


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (PAIRS, {"instances": [[1, [2]]] * LARGE}),
        (PAIRS, {"instances": [[1, 2, 3], [4]] * LARGE}),
        (PAIRS, {"instances": [[1, True]] * LARGE}),
        (PAIRS, {"instances": [[1, None]] * LARGE}),
        (PAIRS, {"instances": [[1, "2"]] * LARGE}),
        (PAIRS, {"instances": [1, 2] * LARGE}),
        (PAIRS, {"inputs": {"y": [[1, 2]] * LARGE}}),
        (SINGLE, {"instances": [[1]] * LARGE}),
        (SINGLE, {"instances": [1, True] * LARGE}),
        (SINGLE, {"instances": " " * LARGE}),
        (SINGLE, {"instances": [1e39] * LARGE}),
        (GRID, {"instances": [[[1, 2], [[3], 4]]] * LARGE}),
        (GRID, {"instances": [[[1, 2], [3, 4], [5, 6]], [[1, 2]]] * LARGE}),
        (GRID, [[[[1, 2], [3, 4]]] * LARGE]),
        (ZERO_BYTE, {"inputs": {"x": [1] * LARGE, "x\0y": [1] * (LARGE - 1)}}),
        (TWO_INPUTS, {"inputs": {"x": [1] * LARGE, "y": [1] * (LARGE - 1)}}),
    ],
)
def test_large_lists_of_unexpected_shape_or_type_take_the_slow_path(
    model: Schema, body: Any
) -> None:
    assert fast.read(to_json(body), model) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": []' + b" " * LARGE + b"}",
        b'{"instances": [1], "instances": [' + b"2," * LARGE + b"3]}",
        b'{"instances": [' + b"2," * LARGE + b'3], "signature_name": 5}',
        b'{"instances": [' + b"2," * LARGE + b'3], "signature_name": "other"}',
        b'{"instances": [' + b"2," * LARGE + b'3], "more": 5}',
        b'{"instances": [' + b"2," * LARGE + b"NaN]}",
    ],
)
def test_large_unusual_body_takes_the_slow_path(body: bytes) -> None:
    assert fast.read(body, SINGLE) is None


def test_column_name_with_a_zero_byte_is_not_truncated() -> None:
    columns = {"x": [1.0] * LARGE, "x\0y": [2.0] * LARGE}
    inputs = predict.read(to_json({"inputs": columns}), ZERO_BYTE).call.inputs
    assert {name: array[0] for name, array in inputs.items()} == {"x": 1, "x\0y": 2}


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
plain_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
leaves = {
    "FLOAT": st.one_of(floats, st.integers(-(2**24), 2**24)),
    "INT8": st.integers(-128, 127),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "UINT64": st.integers(0, 2**64 - 1),
    "BOOL": st.booleans(),
    "STRING": plain_texts,
}


@st.composite
def valid_requests(draw: Callable[..., Any]) -> tuple[bytes, Schema]:
    """Draw a valid request in any form, and its schema."""
    count = draw(st.sampled_from([1, 2, 40]))
    rows = draw(st.sampled_from([1, 3, 60]))
    names = draw(st.lists(plain_texts, min_size=count, max_size=count, unique=True))
    shared_dtype = draw(st.sampled_from([None, "FLOAT"]))
    specs, columns = {}, {}
    for name in names:
        dtype = shared_dtype or draw(st.sampled_from(sorted(leaves)))
        inner = draw(st.sampled_from([(), (2,), (1, 2)])) if shared_dtype is None else ()
        values: st.SearchStrategy[Any] = leaves[dtype]
        for length in reversed(inner):
            values = st.lists(values, min_size=length, max_size=length)
        sample = draw(st.lists(values, min_size=3, max_size=3))
        specs[name] = spec(dtype, None, *inner)
        columns[name] = [sample[row % 3] for row in range(rows)]
    model = schema(**specs)
    if count == 1 and draw(st.booleans()):
        (only,) = columns.values()
        return to_json({draw(st.sampled_from(["instances", "inputs"])): only}), model
    if draw(st.booleans()):
        return to_json({"signature_name": "serving_default", "inputs": columns}), model
    return to_json(
        {"instances": [{n: c[row] for n, c in columns.items()} for row in range(rows)]}
    ), model


@given(valid_requests())
@settings(max_examples=200, deadline=None)
def test_fast_path_decodes_valid_requests_like_the_slow_path(
    body_and_model: tuple[bytes, Schema],
) -> None:
    body, model = body_and_model
    fast_path = fast.read(body, model)
    slow_path = predict.read_strictly(body, model)
    assert fast_path is not None
    assert fast_path.row_form == slow_path.row_form
    for name, array in slow_path.call.inputs.items():
        fast_array = fast_path.call.inputs[name]
        assert fast_array.dtype == array.dtype
        np.testing.assert_array_equal(fast_array, array)
    own = own_dialect.read_document(orjson.loads(body), model)
    for name, array in own.call.inputs.items():
        np.testing.assert_array_equal(fast_path.call.inputs[name], array)

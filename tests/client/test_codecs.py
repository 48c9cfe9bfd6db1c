"""Batched requests are decoded and encoded as each would be alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.codecs import Codec, Payload
from client.codecs.batches import Call, byte_size, is_same_call
from client.codecs.json.codec import JsonPredictions
from client.codecs.oip.infer import OipInferences
from client.codecs.tfs_rest.codec import RestPredictions
from client.errors import ClientError
from client.serving.schema import Schema
from tests.client import schemas
from tests.client.bodies import INFER_SEEDS

NUMERIC, MIXED = schemas.numeric("a", "b", "c"), schemas.mixed()
CODECS: tuple[Codec, ...] = (JsonPredictions(), RestPredictions(), OipInferences())

NUMBERS = st.one_of(
    st.integers(-5, 5).map(str),
    st.floats(-3, 5, width=32).map(repr),
    st.sampled_from(["true", "null", '"1"', "1e400", "3e39", "NaN", "-0.0", "9" * 30, "[1]", "{}"]),
)
LISTS = st.lists(NUMBERS, min_size=2, max_size=4).map(lambda row: f"[{','.join(row)}]")
NAMES = st.sampled_from(["a", "b", "c", "c", "d", r"\u0061", "a\\n"])
OBJECTS = st.lists(st.tuples(NAMES, NUMBERS), min_size=2, max_size=4).map(
    lambda pairs: "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"
)
VALID_ROW = st.tuples(*[st.integers(-9, 9)] * 3).flatmap(
    lambda row: st.sampled_from(
        [str(list(row)), orjson.dumps(dict(zip("abc", row, strict=True))).decode()]
    )
)
ROWS = st.lists(st.one_of(VALID_ROW, VALID_ROW, VALID_ROW, LISTS, OBJECTS), min_size=0, max_size=3)
BODIES = st.one_of(
    ROWS.map(lambda rows: f'{{"instances":[{",".join(rows)}]}}'),
    st.lists(VALID_ROW, min_size=1, max_size=3).map(
        lambda rows: f'{{"instances":[{",".join(rows)}]}}'
    ),
    st.sampled_from(
        [
            # Valid only when joined with a neighbour, or as two documents.
            '{"instances":[[1,2,3]',
            ",[4,5,6]]}",
            '[1,2,3]]},{"instances":[[4,5,6]',
            '{"instances":[[1,2,3]]},{"instances":[[4,5,6]]}',
            '{"instances":[[1,2,3]]}]',
            '"',
            "",
            "[]",
            '{"instances":[[1,2,3]],"instances":[[4,5,6]]}',
            '{"instances":[{"a":1,"b":2,"c":3,"c":4}]}',
            '{"inputs":{"a":[1],"b":[2],"c":[3]}}',
            '{"inputs":{"a":[1,2],"b":[2,3],"c":[3,4]}}',
            '{"instances":[[1,2,3]],"signature_name":"dense"}',
            '{"instances":[[1,2,3]],"threshold":0.3}',
            '{"instances":[[1,2,3],[4,5]]}',
        ]
    ),
    st.sampled_from([seed.decode() for seed in INFER_SEEDS]),
).map(str.encode)


def decode_alone(codec: Codec, body: bytes, schema: Schema) -> Call | str:
    try:
        return codec.decode_one(Payload(body), schema).call
    except ClientError as error:
        return error.message


@settings(max_examples=300, deadline=None)
@given(
    bodies=st.lists(BODIES, min_size=1, max_size=12),
    codec=st.sampled_from(CODECS),
    schema=st.sampled_from([NUMERIC, NUMERIC, MIXED]),
)
def test_batched_requests_decode_as_they_do_alone(
    bodies: list[bytes], codec: Codec, schema: Schema
) -> None:
    decoding = codec.decode([Payload(body) for body in bodies], schema)
    results: dict[int, Call | str] = {i: e.message for i, e in decoding.errors.items()}
    for batch in decoding.batches:
        for index, member in enumerate(batch.members):
            assert member not in results
            part = batch.slice(index, index + 1) if batch.rows is not None else batch
            results[member] = part.call
    assert sorted(results) == list(range(len(bodies)))
    for member, body in enumerate(bodies):
        expected, actual = decode_alone(codec, body, schema), results[member]
        if isinstance(expected, str) or isinstance(actual, str):
            assert actual == expected, body
        else:
            assert is_same_call(actual, expected), body


def outputs(rows: int) -> dict[str, Any]:
    numbers = np.arange(rows, dtype=np.float32)
    return {
        "probability": numbers / 100,
        "label": np.array([b"yes %d" % n for n in range(rows)], object),
        "logit": -numbers,
    }


@pytest.mark.parametrize("codec", CODECS[:2])
def test_batched_responses_encode_as_they_do_alone(codec: Codec) -> None:
    bodies = [
        b'{"instances":[[1,2,3]]}',
        b'{"instances":[[1,2,3],[4,5,6],[7,8,9]]}',
        b'{"inputs":{"a":[1,2],"b":[2,3],"c":[3,4]}}',
        b'{"instances":[{"a":1,"b":2,"c":3}]}',
        b'{"instances":[[1,2,3]],"threshold":0.04}',
    ]
    payloads = [Payload(body) for body in bodies[: 5 if codec is CODECS[0] else 4]]
    schema = schemas.numeric("a", "b", "c")
    headers = (("X-Model-Version", "7"),)
    decoding = codec.decode(payloads, schema)
    assert not decoding.errors
    for batch in decoding.batches:
        assert batch.rows is not None
        batch_outputs = outputs(batch.total_rows)
        responses = codec.encode(batch, batch_outputs, schema, headers)
        for index, (start, stop) in enumerate(batch.bounds()):
            single_outputs = {name: array[start:stop] for name, array in batch_outputs.items()}
            (expected,) = codec.encode(
                batch.slice(index, index + 1), single_outputs, schema, headers
            )
            response = responses[index]
            assert orjson.loads(response.body) == orjson.loads(expected.body)
            assert (response.status, response.headers) == (200, headers)


def test_size_of_strings_includes_their_bytes_in_any_number_of_dimensions() -> None:
    for shape in ((), (1,), (1,) * 64):
        array = np.full(shape, b"abc", object)
        assert byte_size(array) == array.nbytes + 3

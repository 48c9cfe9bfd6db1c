"""Decoders return a result or an error for any bytes."""

from __future__ import annotations

import json
import os
import struct
import time
from contextlib import suppress
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import ClientError
from client.codecs.oip import codec as oip
from client.codecs.oip.tensors import datatype
from client.codecs.tables import (
    ARROW,
    CSV,
    NDJSON,
    NPY,
    media_type,
    negotiate,
)
from client.codecs.tables.arrow.flatbuffers import Table
from client.http import paths
from client.serving.schema import Schema, TensorSpec
from client.serving.tensors import STRING
from tests.client import schemas
from tests.client.bodies import INFER_SEEDS, TABLES, arrow
from tests.client.checking import check, check_refusal, check_table

NUMERIC, MIXED = schemas.numeric(), schemas.mixed()
EVERY_TYPE = schemas.every_type()
MODELS = (NUMERIC, MIXED, EVERY_TYPE, schemas.schema(x=TensorSpec(1, None)))
# FUZZ_EXAMPLES=20000 searches more; it takes a few minutes.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


def check_decode(decode: Any, *arguments: Any) -> None:
    """Check that decoding takes at most 2 s of CPU time, and that any error is the caller's."""
    start = time.thread_time()
    try:
        decode(*arguments)
    except ClientError as error:
        check_short_refusal(error)
    assert time.thread_time() - start < 2


def check_short_refusal(error: ClientError) -> None:
    check_refusal(error)
    assert len(error.message) < 5000


def mutations(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy of valid bodies with a few bytes replaced, inserted or removed."""

    def mutate(body: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
        for position, inserted, removed in edits:
            start = position % (len(body) + 1)
            body = body[:start] + inserted + body[start + removed :]
        return body

    replacement = st.one_of(
        st.binary(max_size=8),
        st.sampled_from([b"\xff" * 4, b"\xff" * 8, b"\0" * 4, b"\0" * 8, b"\x7f\xff\xff\xff"]),
        st.sampled_from([b'"', b",", b"\n", b"{", b"[", b"nan", b"1e999", b"null", b"9" * 25]),
        st.integers(0, 2**63).map(lambda n: struct.pack("<Q", n)),
    )
    edits = st.lists(st.tuples(st.integers(0, 2**16), replacement, st.integers(0, 12)), max_size=4)
    return st.builds(mutate, st.sampled_from(seeds), edits)


@pytest.mark.parametrize("content_type", TABLES)
def test_tables_of_any_bytes(content_type: str) -> None:
    @given(
        body=st.one_of(st.binary(max_size=300), mutations(TABLES[content_type])),
        size=st.integers(1, 400),
        schema=st.sampled_from(MODELS),
    )
    @fuzz
    def decode(body: bytes, size: int, schema: Schema) -> None:
        check_decode(check_table, content_type, body, size, schema)

    decode()


@pytest.mark.parametrize("content_type", TABLES)
def test_tables_with_any_single_byte_changed(content_type: str) -> None:
    for body in TABLES[content_type]:
        schema = next(model for model in MODELS if is_read(content_type, body, model))
        for index in range(len(body)):
            value = (0, 0xFF, body[index] ^ 4)[index % 3]
            mutated_body = body[:index] + bytes([value]) + body[index + 1 :]
            check_decode(check_table, content_type, mutated_body, 2**16, schema)


def is_read(content_type: str, body: bytes, schema: Schema) -> bool:
    with suppress(ClientError):
        check_table(content_type, body, 2**16, schema)
        return True
    return False


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**64), 2**64),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(["FP32", "BYTES", "INT64", "BOOL", "x", "s", "base64", 2**60, "YQ=="]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                ["name", "shape", "datatype", "data", "parameters", "binary_data_size", "id"]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)
NAMES = sorted({name for m in MODELS for s in m.signatures.values() for name in s.inputs})
TENSORS = st.fixed_dictionaries(
    {"name": st.sampled_from(NAMES)},
    optional={
        "shape": st.one_of(JSON, st.lists(st.sampled_from([0, 1, 2, 2**31, 2**62]), max_size=4)),
        "datatype": st.one_of(st.sampled_from(["FP32", "BYTES", "INT64", "FP16", "BOOL"]), JSON),
        "data": st.one_of(st.lists(st.integers(-5, 300), max_size=4), JSON),
        "parameters": st.one_of(
            JSON,
            st.fixed_dictionaries(
                {},
                optional={
                    "binary_data_size": st.sampled_from([0, 1, 4, 8, 2**60, -1, True]),
                    "content_type": st.just("base64"),
                },
            ),
        ),
    },
)
INFERS = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.one_of(st.lists(TENSORS, max_size=4), JSON),
        "outputs": st.one_of(st.lists(JSON, max_size=3), JSON),
        "parameters": st.one_of(
            JSON,
            st.fixed_dictionaries(
                {"signature_name": st.sampled_from(sorted(EVERY_TYPE.signatures))}
            ),
        ),
        "id": JSON,
    },
)


def infer(body: bytes, schema: Schema, header_length: str | None) -> None:
    check(oip.read(body, schema, header_length).call, schema)


@given(
    message=st.one_of(INFERS, JSON),
    data=st.binary(max_size=20),
    length=st.one_of(st.none(), st.just("right"), st.text(max_size=30)),
    schema=st.sampled_from(MODELS),
)
@fuzz
def test_infer_requests_of_any_form(
    message: Any, data: bytes, length: str | None, schema: Schema
) -> None:
    # Unlike orjson, json.dumps writes NaN and lone surrogates.
    header = json.dumps(message).encode()
    if length == "right":
        length = str(len(header))
    check_decode(infer, header + data, schema, length)


@given(
    body=st.one_of(st.binary(max_size=200), mutations(INFER_SEEDS)),
    schema=st.sampled_from(MODELS),
    length=st.one_of(st.none(), st.integers(0, 500).map(str)),
)
@fuzz
def test_infer_requests_of_any_bytes(body: bytes, schema: Schema, length: str | None) -> None:
    check_decode(infer, body, schema, length)


@given(
    data=st.binary(max_size=60), shape=st.lists(st.sampled_from([0, 1, 2, 3, 2**60]), max_size=3)
)
@fuzz
def test_tensors_of_any_bytes(data: bytes, shape: list[int]) -> None:
    for dtype in (1, STRING, 10, 9, 19, 14, 18):
        name = f"type {dtype}"
        tensor = {
            "name": "x",
            "shape": shape,
            "datatype": datatype(dtype),
            "parameters": {"binary_data_size": len(data)},
        }
        message = {"inputs": [tensor], "parameters": {"signature_name": name}}
        header = orjson.dumps(message)
        check_decode(infer, header + data, EVERY_TYPE, str(len(header)))


@given(
    path=st.one_of(
        st.text(),
        *(
            st.text(alphabet="v2/models%:vrsion0159ify").map(root.__add__)
            for root in ("/v1/models/", "/v2/models/")
        ),
    )
)
@fuzz
def test_any_path(path: str) -> None:
    model_path = paths.parse_v1(path) or paths.parse_v2(path)
    if model_path is not None:
        check_decode(model_path.target)


@given(header=st.one_of(st.text(), st.text(alphabet='*/;,q=.01atexcsv \t"')))
@fuzz
def test_any_header(header: str) -> None:
    check_decode(negotiate, header, CSV)
    check_decode(media_type, header)


def vtable_distance(table: Table) -> int:
    distance: int = struct.unpack_from("<i", table.data, table.offset)[0]
    return distance


def stream_with_row_count(rows: int) -> bytes:
    """Return an Arrow stream of one row whose batch claims another number of rows."""
    stream = bytearray(arrow(pa.table({name: [1.0] for name in "abc"})))
    batch = 8 + struct.unpack_from("<i", stream, 4)[0] + 8
    header = Table.root(bytes(stream[batch:])).table(2)
    vtable = header.offset - vtable_distance(header)
    row_count = header.offset + struct.unpack_from("<H", header.data, vtable + 4)[0]
    assert header.number(0, "<q") == 1
    struct.pack_into("<q", stream, batch + row_count, rows)
    return bytes(stream)


LONG_LINE = "expected at most 1048576 bytes in a line"


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        (CSV, b"a,b,c\n" + b"1," * 2**21, LONG_LINE),
        # Which of two limits is reached depends on csv.field_size_limit, which SciPy raises.
        (CSV, b'a,b,c\n"' + b"1\n" * 2**21, "line "),
        (CSV, b'"' * 2**21, LONG_LINE),
        (CSV, b"," * 2**21, LONG_LINE),
        (CSV, b"a,b,c\n" + b"9" * 2**20 + b",1,1", LONG_LINE),
        (CSV, b"a,b,c\n" + b"," * (2**20 - 1) + b"\n", "expected 3 cells"),
        (NDJSON, b"[" * 2**22, LONG_LINE),
        (NDJSON, b"[1" * 2**19 + b"\n", LONG_LINE),
        (NDJSON, b'{"a":' * 2**17 + b"\n", "depth limit exceeded"),
        (NDJSON, b"9" * (2**20 - 1) + b"\n", "number is infinity"),
        (NPY, b"\x93NUMPY\x03\x00\xff\xff\xff\xff" + b"(" * 2**20, "expected at most 10000 bytes"),
        (NPY, b"\x93NUMPY\x01\x00\x10\x27" + b" " * 10_000, "not in numpy.save's format"),
        (NPY, b"\x93NUMPY\x01\x00\x10\x27{" + b"'descr' : " * 1000, "not in numpy.save's format"),
        (ARROW, b"\xff\xff\xff\xff\xff\xff\xff\x00" + b"\0" * 2**20, "not an Arrow IPC stream"),
        (ARROW, stream_with_row_count(2**60), "a message that cannot be read"),
        (ARROW, stream_with_row_count(-1), "a message that cannot be read"),
        (ARROW, stream_with_row_count(2), "a message that cannot be read"),
        (ARROW, stream_with_row_count(100), "a message that cannot be read"),
    ],
    ids=range(18),
)
def test_false_sizes_deep_nesting_and_unbounded_values_are_rejected(
    content_type: str, body: bytes, message: str
) -> None:
    for schema in MODELS:
        with pytest.raises(ClientError) as error:
            check_table(content_type, body, 2**16, schema)
        check_short_refusal(error.value)
        # The other models have other columns.
        assert message in error.value.message or schema is not NUMERIC

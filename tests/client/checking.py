"""Checks of decoded calls and of errors."""

from __future__ import annotations

import orjson

from client.codecs import Call
from client.codecs.tables import TableLayout, TableOptions, TableRows, table_reader
from client.errors import ClientError
from client.serving.schema import Schema
from client.serving.tensors import DTYPES


def check(call: Call, schema: Schema, *, any_shape: bool = False) -> None:
    """Check that decoded inputs fit the signature in dtype and rank."""
    inputs = schema.signatures[call.signature_name].inputs
    assert call.inputs.keys() == inputs.keys()
    for name, array in call.inputs.items():
        assert array.dtype == DTYPES[inputs[name].dtype]
        shape = inputs[name].shape
        assert any_shape or shape is None or len(shape) == array.ndim
        if array.dtype == object:
            assert all(type(value) is bytes for value in array.reshape(-1))


def check_refusal(error: ClientError) -> None:
    """Check that an error is a 4xx or 501 whose message can be encoded."""
    assert 400 <= error.status < 500 or error.status == 501, error.message
    orjson.dumps(error.message)


def check_table(content_type: str, body: bytes, size: int, schema: Schema) -> None:
    """Read a table in chunks of `size` bytes, and check every call."""
    reader = table_reader(content_type, TableLayout.from_schema(schema), TableOptions())
    for start in range(0, len(body), size):
        for rows in reader.feed(body[start : start + size]):
            check_rows(rows, schema)
    for rows in reader.finish():
        check_rows(rows, schema)


def check_rows(rows: TableRows, schema: Schema) -> None:
    assert rows.call is not None
    check(rows.call, schema)

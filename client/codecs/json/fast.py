"""Fast path for well-formed requests in row form and column form.

Malformed and unusual requests take the slow path of their dialect, `client.codecs.tfs_rest` or
`client.codecs.json.rows`, which decodes the common requests identically.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from client.codecs.batches import Batch, Call
from client.codecs.input_layout import Layout, find_layout
from client.codecs.json.calls import JsonCall
from client.codecs.json.flat import flat_array
from client.serving.protos import DataType
from client.serving.schema import DEFAULT_SIGNATURE, Schema, TensorSpec
from client.serving.tensors import DTYPES, Array

# Above this size, numpy counts quotes faster.
LARGE_BYTES = 5000

_NUMBERS = frozenset((int, float))
_LETTERS = {DataType.Value("DT_FLOAT"): "f", DataType.Value("DT_DOUBLE"): "d"}


def read_batch(bodies: Sequence[bytes], schema: Schema) -> tuple[Batch | None, list[int]]:
    """Read small requests for rows of numbers, `{"instances": [row, ...]}`, in one pass.

    Bodies are parsed separately: in joined text, invalid JSON could shift the rows of others.

    Returns:
        The batch, and the indexes of the bodies that are not in it.
    """
    layout = find_layout(schema, DEFAULT_SIGNATURE)
    if layout is None or layout.matrix_dtype is None or len(layout.names) < 2:
        return None, list(range(len(bodies)))
    width, pick = len(layout.names), layout.pick
    row_quotes = 2 * width
    values: list[Any] = []
    members: list[int] = []
    rows: list[int] = []
    others: list[int] = []
    for index, body in enumerate(bodies):
        try:
            document = orjson.loads(body) if len(body) <= LARGE_BYTES else {}
            instances = document["instances"]
            first, count = instances[0], len(instances)
            if len(document) != 1 or type(instances) is not list or b"\\" in body:
                others.append(index)
                continue
            if type(first) is dict:
                # Additional quotes belong to a duplicate key.
                is_plain = body.count(b'"') == 2 + row_quotes * count
                if count == 1:
                    is_plain = is_plain and len(first) == width
                    row_values: Sequence[Any] = pick(first)
                else:
                    is_plain = is_plain and set(map(len, instances)) == {width}
                    row_values = list(chain.from_iterable(map(pick, instances)))
            else:
                is_plain = layout.is_ordered and body.count(b'"') == 2
                is_plain = is_plain and set(map(type, instances)) == {list}
                is_plain = is_plain and set(map(len, instances)) == {width}
                row_values = first if count == 1 else list(chain.from_iterable(instances))
        except (KeyError, IndexError, TypeError, orjson.JSONDecodeError):
            is_plain = False
        if not is_plain:
            others.append(index)
            continue
        values += row_values
        members.append(index)
        rows.append(count)
    matrix = _pack(values, layout.matrix_dtype) if members else None
    if matrix is None:
        return None, list(range(len(bodies)))
    call = layout.call(matrix.reshape(-1, width))
    decoded = [JsonCall(call, row_form=True)] * len(members)
    return Batch(call, members, rows, decoded), others


def _pack(values: list[Any], dtype: int) -> Array | None:
    """Return numbers as an array, None if a value is not a number or is too large."""
    if not _NUMBERS.issuperset(map(type, values)):
        return None
    try:
        return np.frombuffer(
            struct.pack(f"={len(values)}{_LETTERS[dtype]}", *values), DTYPES[dtype]
        )
    except (struct.error, OverflowError):
        return None


def read(body: bytes, schema: Schema) -> JsonCall | None:
    """Read the body of a predict request.

    Args:
        body: JSON.
        schema: schema of the requested version.

    Returns:
        The call; None if the body is malformed or unusual.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return read_parsed(document, body, schema)


def read_parsed(document: Any, body: bytes, schema: Schema) -> JsonCall | None:
    """Read a body that has already been parsed; see `read`."""
    if type(document) is not dict:
        return None
    has_name = "signature_name" in document
    name = document["signature_name"] if has_name else DEFAULT_SIGNATURE
    layout = find_layout(schema, name or DEFAULT_SIGNATURE) if type(name) is str else None
    if layout is None or len(document) != 1 + has_name:
        return None
    strings = 1 + 2 * has_name
    rows, columns = document.get("instances"), document.get("inputs")
    try:
        if type(rows) is list and rows:
            if type(rows[0]) is dict:
                strings += len(rows) * len(layout.names)
            call = _read_rows(rows, layout, _has_no_booleans(body))
        elif type(columns) is dict:
            strings += len(columns)
            call = _read_columns(columns, layout)
        elif type(columns) is list and len(layout.names) == 1:
            call = _call(layout, [columns])
        else:
            return None
    except (KeyError, TypeError):
        return None
    if call is None:
        return None
    if layout.has_strings:
        strings += sum(a.size for a in call.call.inputs.values() if a.dtype.hasobject)
    # Additional quotes belong to a duplicate key.
    return call if _count_quotes(body) == 2 * strings else None


def _read_rows(rows: list[Any], layout: Layout, no_booleans: bool) -> JsonCall | None:
    width = len(layout.names)
    if type(rows[0]) is dict:
        if set(map(len, rows)) != {width}:
            return None
        row_values: Sequence[Any] = list(map(layout.pick, rows))
    elif width == 1:
        return _call(layout, [rows], row_form=True, no_booleans=no_booleans)
    elif layout.is_ordered and set(map(type, rows)) == {list} and set(map(len, rows)) == {width}:
        row_values = rows
    else:
        return None
    if layout.matrix_dtype is None:
        return _call(layout, list(map(list, zip(*row_values, strict=True))), row_form=True)
    flat = flat_array(
        list(chain.from_iterable(row_values)), layout.matrix_dtype, no_booleans=no_booleans
    )
    return None if flat is None else JsonCall(layout.call(flat.reshape(-1, width)), row_form=True)


def _read_columns(columns: dict[str, Any], layout: Layout) -> JsonCall | None:
    if len(columns) != len(layout.names):
        return None
    values = layout.pick(columns)
    if set(map(type, values)) != {list}:
        return None
    if layout.matrix_dtype is None:
        specs = zip(values, layout.specs, strict=True)
        lengths = {len(column) for column, spec in specs if spec.shape == (None,)}
        return _call(layout, values) if len(lengths) <= 1 else None
    if len(set(map(len, values))) != 1:
        return None
    flat = flat_array(list(chain.from_iterable(values)), layout.matrix_dtype)
    if flat is None:
        return None
    return JsonCall(layout.call(flat.reshape(len(values), -1).T), row_form=False)


def _call(
    layout: Layout,
    columns: Sequence[list[Any]],
    *,
    row_form: bool = False,
    no_booleans: bool = False,
) -> JsonCall | None:
    inputs = {}
    for name, spec, values in zip(layout.names, layout.specs, columns, strict=True):
        array = _array(values, spec, no_booleans)
        if array is None:
            return None
        inputs[name] = array
    return JsonCall(Call(layout.signature_name, inputs), row_form)


def _array(values: list[Any], spec: TensorSpec, no_booleans: bool) -> Array | None:
    """Return nested lists as an array, None if they do not fit the spec."""
    if not spec.shape:
        return None
    shape = [len(values)]
    for _ in spec.shape[1:]:
        lengths = set(map(len, values))
        if set(map(type, values)) != {list} or len(lengths) != 1:
            return None
        shape.append(lengths.pop())
        values = list(chain.from_iterable(values))
    if not spec.accepts(shape):
        return None
    flat = flat_array(values, spec.dtype, no_booleans=no_booleans)
    return None if flat is None else flat.reshape(shape)


def has_duplicate_keys(document: Any, body: bytes) -> bool:
    """Return whether an object in a body has a duplicate key; orjson keeps the last."""
    strings, level = 0, [document]
    while level:
        children: list[Any] = []
        for value in level:
            if type(value) is dict:
                strings += len(value)
                children.extend(value.values())
            elif type(value) is list:
                children.extend(value)
            elif type(value) is str:
                strings += 1
        level = children
    return _count_quotes(body) != 2 * strings


def _has_no_booleans(body: bytes) -> bool:
    """Return whether the lists hold no booleans; False if unsure."""
    start = body.find(b"[")
    return body.find(b"t", start) < 0 and body.find(b"f", start) < 0


def _count_quotes(body: bytes) -> int:
    if len(body) > LARGE_BYTES:
        count = int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord('"')))
    else:
        count = body.count(b'"')
    if b"\\" not in body:
        return count
    return count - body.replace(b"\\\\", b"").count(b'\\"')

"""Responses as an Arrow IPC stream: a batch for each call, a column for each output.

Strings are `string`, or `binary` if they are not UTF-8 or their output's name ends in `_bytes`;
several values per row are a fixed-size list. Copied columns are integers, floats or booleans if all
values of the first batch are, and strings otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import nanoarrow
import numpy as np
import orjson
from nanoarrow.ipc import StreamWriter

from client.codecs.json.flat import byte_array
from client.codecs.tables.options import ERROR, TableOptions
from client.codecs.tables.rows import TableRows
from client.codecs.tables.values import prepare_outputs
from client.errors import ClientError
from client.serving.tensors import Array

_TYPES = {
    np.dtype(dtype): factory
    for dtype, factory in (
        (np.int8, nanoarrow.int8),
        (np.int16, nanoarrow.int16),
        (np.int32, nanoarrow.int32),
        (np.int64, nanoarrow.int64),
        (np.uint8, nanoarrow.uint8),
        (np.uint16, nanoarrow.uint16),
        (np.uint32, nanoarrow.uint32),
        (np.uint64, nanoarrow.uint64),
        (np.float16, nanoarrow.float16),
        (np.float32, nanoarrow.float32),
        (np.float64, nanoarrow.float64),
        (np.bool_, nanoarrow.bool_),
    )
}
# Column dtype by the types of its JSON values.
_JSON_DTYPES = (({bool}, np.bool_), ({int}, np.int64), ({int, float}, np.float64))


class ArrowWriter:
    """Writes a stream, with the schema before the first batch."""

    can_report_errors = False

    def __init__(self, options: TableOptions) -> None:
        self._options = options
        self._sink = io.BytesIO()
        self._writer = StreamWriter.from_writable(self._sink)
        self._schema: Any = None
        self._dtypes: dict[str, Any] = {}

    def write(self, rows: TableRows, outputs: Mapping[str, Array]) -> bytes:
        """Return the batch for some rows, after the schema if they are the first.

        Raises:
            ClientError: the outputs do not have a value for each row, or have no Arrow type.
        """
        columns = {
            name: self._encode_column(name, values) for name, values in rows.copied_columns.items()
        }
        for name, array in prepare_outputs(outputs).items():
            columns[name] = _expand_to_rows(array, rows)
        if self._options.errors_in_rows:
            messages = [rows.errors.get(i) for i in range(rows.count)]
            columns[ERROR] = _strings(messages)
        if self._schema is None:
            in_rows = self._options.errors_in_rows
            fields = {
                name: _type(name, array, nullable=in_rows or name not in outputs)
                for name, (array, _) in columns.items()
            }
            self._schema = nanoarrow.struct(fields, nullable=False)
        children = [
            _build_column(name, array, self._schema.field(i), valid)
            for i, (name, (array, valid)) in enumerate(columns.items())
        ]
        batch = nanoarrow.c_array_from_buffers(
            self._schema, rows.count, [None], null_count=0, children=children
        )
        self._writer.write_array(batch)
        return self._take_bytes()

    def end(self) -> bytes:
        """Return the end-of-stream marker."""
        self._writer.close()
        return self._take_bytes()

    def _encode_column(self, name: str, values: Sequence[Any]) -> tuple[Array, Array | None]:
        """Return a copied column, and which values are valid."""
        types = {type(value) for value in values if value is not None}
        if name not in self._dtypes:
            self._dtypes[name] = next((d for ts, d in _JSON_DTYPES if types and types <= ts), None)
        dtype = self._dtypes[name]
        if dtype is None:
            return _strings(values)
        valid = np.array([value is not None for value in values])
        try:
            if not types <= next(ts for ts, d in _JSON_DTYPES if d is dtype):
                raise ValueError
            return np.array([0 if v is None else v for v in values], dtype), valid
        except (OverflowError, ValueError):
            raise ClientError(
                f'column "{name}": the first rows were {np.dtype(dtype).name}, these are not; '
                "request another type with Accept"
            ) from None

    def _take_bytes(self) -> bytes:
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return data


def _strings(values: Sequence[Any]) -> tuple[Array, Array | None]:
    texts = [v if type(v) is str else orjson.dumps(v).decode() for v in values]
    valid = np.array([value is not None for value in values])
    return byte_array([text.encode() for text in texts]), valid


def _expand_to_rows(array: Array, rows: TableRows) -> tuple[Array, Array | None]:
    """Return an output with a value for each row, and which rows have a prediction."""
    if not rows.errors:
        return array, None
    valid = np.ones(rows.count, np.bool_)
    valid[list(rows.errors)] = False
    blank = b"" if array.dtype == np.object_ else 0
    expanded = np.full((rows.count, *array.shape[1:]), blank, array.dtype)
    expanded[valid] = array
    return expanded, valid


def _type(name: str, array: Array, *, nullable: bool) -> Any:
    if array.ndim > 2 or (array.dtype != np.object_ and array.dtype not in _TYPES):
        raise ClientError(
            f"output {name}: {array.dtype.name} {list(array.shape)} cannot be written as Arrow; "
            "request other outputs or another type",
            406,
        )
    value_nullable = nullable and array.ndim == 1
    if array.dtype != np.object_:
        value_type = _TYPES[array.dtype](nullable=value_nullable)
    elif name.endswith("_bytes") or not _is_text(array):
        value_type = nanoarrow.binary(nullable=value_nullable)
    else:
        value_type = nanoarrow.string(nullable=value_nullable)
    if array.ndim == 1:
        return value_type
    return nanoarrow.fixed_size_list(value_type, array.shape[1], nullable)


def _is_text(array: Array) -> bool:
    try:
        for value in set(array.reshape(-1).tolist()):
            value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _build_column(name: str, array: Array, schema: Any, valid: Array | None) -> Any:
    bitmap, nulls = None, 0
    if valid is not None and not valid.all():
        bitmap, nulls = np.packbits(valid, bitorder="little"), int((~valid).sum())
    if array.ndim == 2:
        values = _build_column(name, array.reshape(-1), schema.value_type, None)
        return nanoarrow.c_array_from_buffers(
            schema, len(array), [bitmap], null_count=nulls, children=[values]
        )
    if array.dtype != np.object_:
        is_bool = array.dtype.kind == "b"
        data = np.packbits(array, bitorder="little") if is_bool else np.ascontiguousarray(array)
        return nanoarrow.c_array_from_buffers(schema, len(array), [bitmap, data], null_count=nulls)
    if schema.type == nanoarrow.Type.STRING and not _is_text(array):
        raise ClientError(f"output {name}: the first rows were text, these are not", 501)
    values = array.tolist()
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=ends[1:])
    return nanoarrow.c_array_from_buffers(
        schema, len(values), [bitmap, ends, b"".join(values)], null_count=nulls
    )

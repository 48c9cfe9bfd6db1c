"""Tables as an Arrow IPC stream, `application/vnd.apache.arrow.stream`.

Columns are matched by name. Numbers are cast to the model's floats, integers to its integers if
they fit; dates and timestamps become days; strings may be dictionary-encoded, or views as in
polars. Null is a missing value, and so is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from client.codecs.json_outputs import decode_string
from client.codecs.tables.arrow.columns import Buffers, Values, read_columns
from client.codecs.tables.arrow.flatbuffers import MalformedError
from client.codecs.tables.arrow.messages import BATCH, DICTIONARY, SCHEMA, Message, Messages
from client.codecs.tables.arrow.schema import Field, read_schema
from client.codecs.tables.casting import cast
from client.codecs.tables.cells import read_column
from client.codecs.tables.layout import ROWS_PER_CALL, Header, RowLocator, TableColumn, TableLayout
from client.codecs.tables.options import TableOptions
from client.codecs.tables.rows import Inputs, TableRows, read_rows
from client.errors import ClientError
from client.serving.columns.date import format_days
from client.serving.tensors import STRING, Array

# Limit for all dictionaries together; each word remains a Python object until the stream ends.
MAX_WORDS = 2**20
# Limit for the strings of one call, and for those of all dictionaries together. Rows may share
# bytes of the body, but each is decoded and sent.
MAX_TEXT_BYTES = 64 * 2**20


class ArrowReader:
    """Reads a stream incrementally, one record batch at a time."""

    def __init__(self, layout: TableLayout, options: TableOptions) -> None:
        self.layout = layout
        self._options = options
        self._messages = Messages()
        self._fields: Sequence[Field] = ()
        self._header = Header(0, ())
        self._dictionaries: dict[int, Values] = {}
        self._dictionary_bytes: dict[int, int] = {}
        self._rows = 0

    @property
    def ignored_columns(self) -> tuple[str, ...]:
        """Names of unused columns."""
        return self._header.ignored_columns

    def feed(self, chunk: bytes) -> Iterator[TableRows]:
        """Add bytes, and yield the rows of complete batches.

        Raises:
            ClientError: a batch cannot be read.
        """
        try:
            for message in self._messages.feed(chunk):
                yield from self._read_message(message)
        except MalformedError:
            raise ClientError("the Arrow stream has a message that cannot be read") from None

    def finish(self) -> Iterator[TableRows]:
        """Yield nothing: every batch has been read.

        Raises:
            ClientError: the stream ends within a message, or has no rows.
        """
        self._messages.finish()
        if not self._rows:
            raise ClientError("expected at least one row, got none")
        yield from ()

    def _read_message(self, message: Message) -> Iterator[TableRows]:
        if (message.kind == SCHEMA) == bool(self._fields):
            raise ClientError("the Arrow stream must begin with a schema, and have only that one")
        if message.kind == SCHEMA:
            fields = read_schema(message.header)
            self._header = self.layout.find_columns([field.name for field in fields], self._options)
            self._fields = fields
        elif message.kind == DICTIONARY:
            self._read_dictionary(message)
        elif message.kind == BATCH:
            rows, columns = read_columns(message.header, message.body, self._fields)
            for start in range(0, rows, ROWS_PER_CALL):
                stop = min(start + ROWS_PER_CALL, rows)
                yield self._table_rows(columns, start, stop)
            self._rows += rows
        else:
            raise ClientError(f"the Arrow stream has a message of kind {message.kind}")

    def _read_dictionary(self, message: Message) -> None:
        number = message.header.number(0, "<q")
        field = next((f.words for f in self._fields if f.dictionary == number), None)
        if field is None:
            raise MalformedError
        if message.header.number(2, "<B"):
            raise ClientError("the Arrow stream has a delta dictionary; write whole dictionaries")
        rows, (column,) = read_columns(message.header.table(1), message.body, [field])
        other_words = sum(
            len(values) for n, (values, _) in self._dictionaries.items() if n != number
        )
        self._dictionary_bytes[number] = column.text_bytes(0, rows, {})
        if rows + other_words > MAX_WORDS or sum(self._dictionary_bytes.values()) > MAX_TEXT_BYTES:
            raise ClientError(
                f"the Arrow stream's dictionaries: expected at most {MAX_WORDS} words and "
                f"{MAX_TEXT_BYTES} bytes; write plain strings",
                413,
            )
        self._dictionaries[number] = column.read(0, rows, {})

    def _table_rows(self, columns: Sequence[Buffers], start: int, stop: int) -> TableRows:
        first, layout = self._rows + start + 1, self.layout
        header, dictionaries = self._header, self._dictionaries
        used = {*header.indexes, *(index for _, index in header.copied_columns)}
        size = sum(columns[index].text_bytes(start, stop, dictionaries) for index in used)
        if size > MAX_TEXT_BYTES:
            raise ClientError(
                f"rows {first} to {first + stop - start - 1}: expected at most {MAX_TEXT_BYTES} "
                f"bytes of strings, got {size}; write the table in smaller batches",
                413,
            )
        input_columns = [
            (column, columns[index].field, columns[index].read(start, stop, dictionaries))
            for column, index in zip(layout.columns, header.indexes, strict=True)
        ]

        def read(begin: int, end: int) -> Inputs:
            def locate(index: int) -> str:
                return f"row {first + begin + index}"

            return {
                column.name: _to_input(_slice(values, begin, end), field, column, locate)
                for column, field, values in input_columns
            }

        in_rows = self._options.errors_in_rows
        inputs, errors = read_rows(read, stop - start, errors_in_rows=in_rows)
        copied = {
            name: _to_response(columns[index].read(start, stop, dictionaries), columns[index].field)
            for name, index in header.copied_columns
        }
        call = None if inputs is None else layout.call(inputs)
        return TableRows(call, stop - start, copied, errors)


def _slice(column_values: Values, start: int, stop: int) -> Values:
    values, valid = column_values
    return values[start:stop], None if valid is None else valid[start:stop]


def _to_response(column_values: Values, field: Field) -> Sequence[Any]:
    """Return a copied column as JSON values."""
    values, valid = column_values
    if values.dtype == np.object_:
        json_values = _convert(values, decode_string)
    elif (field.values or field).per_day:
        json_values = _convert(values, format_days)
    else:
        option = orjson.OPT_SERIALIZE_NUMPY
        json_values = orjson.loads(orjson.dumps(np.ascontiguousarray(values), option=option))
    if valid is None:
        return json_values
    return [
        v if is_valid else None for v, is_valid in zip(json_values, valid.tolist(), strict=True)
    ]


def _to_input(
    column_values: Values, field: Field, column: TableColumn, locate: RowLocator
) -> Array:
    """Return a column as an array of the input's dtype."""
    values, valid = column_values
    if valid is not None and valid.all():
        valid = None
    if (field.values or field).per_day and not column.is_date:
        raise ClientError(f'column "{column.name}": expected {column.spec}, got dates')
    is_text = values.dtype == np.object_
    if is_text and column.column is not None and values.ndim == 1:
        texts = [value.decode(errors="replace") for value in values.tolist()]
        # Models that take no missing values predate reading strings like cells: leave their
        # strings unchanged.
        if column.takes_missing and (column.spec.dtype == STRING or column.is_date):
            texts = texts if valid is None else np.where(valid, texts, "").tolist()
            return read_column(texts, column, locate)
    array = _cast(values, valid, column)
    if array is None or not _fits(array, column.spec.shape):
        return column.read_values(_to_json_values(values, valid), locate)
    if array.ndim == 1:
        column.check_finite(array, locate)
    return array


def _cast(values: Array, valid: Array | None, column: TableColumn) -> Array | None:
    """Return values as the input's dtype; None if some do not fit."""
    is_text, takes_text = values.dtype == np.object_, column.spec.dtype == STRING
    takes_missing = column.takes_missing and values.ndim == 1
    if is_text != takes_text or (valid is not None and not takes_missing):
        return None
    if is_text:
        return values if valid is None else np.where(valid, values, b"")
    array = cast(values, column.spec.dtype)
    if array is None or valid is None:
        return array
    return np.where(valid, array, array.dtype.type(np.nan)) if array.dtype.kind == "f" else None


def _fits(array: Array, shape: tuple[int | None, ...] | None) -> bool:
    return shape is None or (
        len(shape) == array.ndim
        and all(n in (None, length) for n, length in zip(shape[1:], array.shape[1:], strict=True))
    )


def _to_json_values(values: Array, valid: Array | None) -> list[object]:
    """Return values as JSON values, to be checked one by one."""
    json_values = _convert(values, decode_string) if values.dtype == np.object_ else values.tolist()
    if valid is None:
        return json_values
    return [
        v if is_valid else None for v, is_valid in zip(json_values, valid.tolist(), strict=True)
    ]


def _convert(values: Array, convert: Callable[[Any], Any]) -> list[Any]:
    """Convert each value; return a list, or a list of rows for a matrix."""
    flat = [convert(value) for value in values.reshape(-1).tolist()]
    if values.ndim == 1:
        return flat
    width = values.shape[1]
    return [flat[start : start + width] for start in range(0, len(flat), width)]

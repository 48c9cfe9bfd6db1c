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
from client.codecs.tables.arrow.flatbuffers import BrokenError
from client.codecs.tables.arrow.messages import BATCH, DICTIONARY, SCHEMA, Message, Messages
from client.codecs.tables.arrow.schema import Field, read_schema
from client.codecs.tables.casting import cast
from client.codecs.tables.cells import read_column
from client.codecs.tables.layout import ROWS_PER_CALL, Header, RowPlace, TableColumn, TableLayout
from client.codecs.tables.options import TableOptions
from client.codecs.tables.rows import Inputs, TableRows, read_rows
from client.errors import ClientError
from client.serving.columns.date import text_of
from client.serving.tensors import STRING, Array

# Limit for all dictionaries together; each word is a Python object until the stream ends.
MAX_WORDS = 2**20
# Limit for the strings of one call, and for those of all dictionaries together. Rows may share
# bytes of the body, but each is decoded and sent.
MAX_TEXT_BYTES = 64 * 2**20


class ArrowReader:
    """Reads a stream in pieces, one record batch at a time."""

    def __init__(self, layout: TableLayout, options: TableOptions) -> None:
        self.layout = layout
        self._options = options
        self._messages = Messages()
        self._fields: Sequence[Field] = ()
        self._header = Header(0, ())
        self._words: dict[int, Values] = {}
        self._word_bytes: dict[int, int] = {}
        self._rows = 0

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of unused columns."""
        return self._header.ignored

    def feed(self, chunk: bytes) -> Iterator[TableRows]:
        """Add bytes, and yield the rows of complete batches.

        Raises:
            ClientError: a batch cannot be read.
        """
        try:
            for message in self._messages.feed(chunk):
                yield from self._take(message)
        except BrokenError:
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

    def _take(self, message: Message) -> Iterator[TableRows]:
        if (message.kind == SCHEMA) == bool(self._fields):
            raise ClientError("the Arrow stream must begin with a schema, and have only that one")
        if message.kind == SCHEMA:
            fields = read_schema(message.header)
            self._header = self.layout.header([field.name for field in fields], self._options)
            self._fields = fields
        elif message.kind == DICTIONARY:
            self._take_dictionary(message)
        elif message.kind == BATCH:
            rows, columns = read_columns(message.header, message.body, self._fields)
            for start in range(0, rows, ROWS_PER_CALL):
                stop = min(start + ROWS_PER_CALL, rows)
                yield self._table_rows(columns, start, stop)
            self._rows += rows
        else:
            raise ClientError(f"the Arrow stream has a message of kind {message.kind}")

    def _take_dictionary(self, message: Message) -> None:
        number = message.header.number(0, "<q")
        words = next((f.words for f in self._fields if f.dictionary == number), None)
        if words is None:
            raise BrokenError
        if message.header.number(2, "<B"):
            raise ClientError("the Arrow stream has a delta dictionary; write whole dictionaries")
        rows, (column,) = read_columns(message.header.table(1), message.body, [words])
        others = sum(len(w[0]) for n, w in self._words.items() if n != number)
        self._word_bytes[number] = column.text_bytes(0, rows, {})
        if rows + others > MAX_WORDS or sum(self._word_bytes.values()) > MAX_TEXT_BYTES:
            raise ClientError(
                f"the Arrow stream's dictionaries: expected at most {MAX_WORDS} words and "
                f"{MAX_TEXT_BYTES} bytes; write plain strings",
                413,
            )
        self._words[number] = column.read(0, rows, {})

    def _table_rows(self, columns: Sequence[Buffers], start: int, stop: int) -> TableRows:
        first, layout = self._rows + start + 1, self.layout
        header, words = self._header, self._words
        used = {*header.places, *(place for _, place in header.kept)}
        size = sum(columns[place].text_bytes(start, stop, words) for place in used)
        if size > MAX_TEXT_BYTES:
            raise ClientError(
                f"rows {first} to {first + stop - start - 1}: expected at most {MAX_TEXT_BYTES} "
                f"bytes of strings, got {size}; write the table in smaller batches",
                413,
            )
        found = [
            (column, columns[place].field, columns[place].read(start, stop, words))
            for column, place in zip(layout.columns, header.places, strict=True)
        ]

        def read(begin: int, end: int) -> Inputs:
            def place(index: int) -> str:
                return f"row {first + begin + index}"

            return {
                column.name: _as_input(_slice(values, begin, end), field, column, place)
                for column, field, values in found
            }

        in_rows = self._options.errors_in_rows
        inputs, errors = read_rows(read, stop - start, errors_in_rows=in_rows)
        kept = {
            name: _kept(columns[place].read(start, stop, words), columns[place].field)
            for name, place in header.kept
        }
        call = None if inputs is None else layout.call(inputs)
        return TableRows(call, stop - start, kept, errors)


def _slice(read: Values, start: int, stop: int) -> Values:
    values, valid = read
    return values[start:stop], None if valid is None else valid[start:stop]


def _kept(read: Values, field: Field) -> Sequence[Any]:
    """Return a column's values as JSON values."""
    values, valid = read
    if values.dtype == np.object_:
        listed = _listed(values, decode_string)
    elif (field.values or field).per_day:
        listed = _listed(values, text_of)
    else:
        option = orjson.OPT_SERIALIZE_NUMPY
        listed = orjson.loads(orjson.dumps(np.ascontiguousarray(values), option=option))
    if valid is None:
        return listed
    return [v if there else None for v, there in zip(listed, valid.tolist(), strict=True)]


def _as_input(read: Values, field: Field, column: TableColumn, place: RowPlace) -> Array:
    """Return a column in the input's dtype."""
    values, valid = read
    if valid is not None and valid.all():
        valid = None
    if (field.values or field).per_day and not column.is_date:
        raise ClientError(f'column "{column.name}": expected {column.spec}, got dates')
    is_text = values.dtype == np.object_
    if is_text and column.column is not None and values.ndim == 1:
        texts = [value.decode(errors="replace") for value in values.tolist()]
        # Models that take no missing values date from before strings here were read like cells:
        # keep their strings as they are.
        if column.takes_missing and (column.spec.dtype == STRING or column.is_date):
            texts = texts if valid is None else np.where(valid, texts, "").tolist()
            return read_column(texts, column, place)
    array = _cast(values, valid, column)
    if array is None or not _fits(array, column.spec.shape):
        return column.read_values(_json_values(values, valid), place)
    if array.ndim == 1:
        column.check_finite(array, place)
    return array


def _cast(values: Array, valid: Array | None, column: TableColumn) -> Array | None:
    """Return values as the input's dtype; None if some do not fit."""
    is_text, of_text = values.dtype == np.object_, column.spec.dtype == STRING
    takes_gaps = column.takes_missing and values.ndim == 1
    if is_text != of_text or (valid is not None and not takes_gaps):
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
        and all(n in (None, have) for n, have in zip(shape[1:], array.shape[1:], strict=True))
    )


def _json_values(values: Array, valid: Array | None) -> list[object]:
    """Return values as JSON values, to be read one by one."""
    listed = _listed(values, decode_string) if values.dtype == np.object_ else values.tolist()
    if valid is None:
        return listed
    return [v if there else None for v, there in zip(listed, valid.tolist(), strict=True)]


def _listed(values: Array, convert: Callable[[Any], Any]) -> list[Any]:
    """Return the JSON value of each value, in a list for each row of a matrix."""
    flat = [convert(value) for value in values.reshape(-1).tolist()]
    if values.ndim == 1:
        return flat
    width = values.shape[1]
    return [flat[start : start + width] for start in range(0, len(flat), width)]

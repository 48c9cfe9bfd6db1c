"""Tables of Arrow's IPC stream, `application/vnd.apache.arrow.stream`.

Columns are found by name, in whatever order. Numbers are cast to the floats that the model takes,
and integers to integers that hold them; strings may be dictionary-encoded, or views as polars has
them. Null is a missing value, as NaN is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from client.codecs import Call
from client.codecs.tables.arrow.columns import Column, Values, read_columns
from client.codecs.tables.arrow.flatbuffers import BrokenError
from client.codecs.tables.arrow.messages import BATCH, DICTIONARY, SCHEMA, Message, Messages
from client.codecs.tables.arrow.schema import Field, read_schema
from client.codecs.tables.casting import cast
from client.codecs.tables.layout import ROWS_PER_CALL, Place, TableColumn, TableLayout
from client.errors import ClientError
from client.serving.tensors import STRING, Array

# Words of all dictionaries together; each is an object while the stream lasts.
MOST_WORDS = 2**20


class ArrowReader:
    """Reads a stream in pieces, a batch of rows at a time."""

    def __init__(self, layout: TableLayout) -> None:
        self.layout = layout
        self._messages = Messages()
        self._fields: Sequence[Field] = ()
        self._words: dict[int, Values] = {}
        self._rows = 0

    def feed(self, chunk: bytes) -> Iterator[Call]:
        """Take the next bytes, and give the calls for the batches that are whole.

        Raises:
            ClientError: it names the row and the column.
        """
        try:
            for message in self._messages.feed(chunk):
                yield from self._take(message)
        except BrokenError:
            raise ClientError("the Arrow stream has a message that cannot be read") from None

    def finish(self) -> Iterator[Call]:
        """Give the calls for what is left: none.

        Raises:
            ClientError: the stream ends within a message, or there was no row at all.
        """
        self._messages.finish()
        if not self._rows:
            raise ClientError("expected at least one row, got none")
        yield from ()

    def _take(self, message: Message) -> Iterator[Call]:
        if (message.kind == SCHEMA) == bool(self._fields):
            raise ClientError("the Arrow stream has no schema at its beginning, or another one")
        if message.kind == SCHEMA:
            fields = read_schema(message.header)
            self.layout.check_header([field.name for field in fields], "")
            self._fields = fields
        elif message.kind == DICTIONARY:
            self._take_dictionary(message)
        elif message.kind == BATCH:
            rows, columns = read_columns(message.header, message.body, self._fields)
            yield from self._calls(rows, {column.field.name: column for column in columns})
        else:
            raise ClientError(f"the Arrow stream has a message of kind {message.kind}")

    def _take_dictionary(self, message: Message) -> None:
        number = message.header.number(0, "<q")
        words = next((f.words for f in self._fields if f.dictionary == number), None)
        if words is None:
            raise BrokenError
        if message.header.number(2, "<B"):
            raise ClientError("the Arrow stream continues a dictionary; write whole ones")
        rows, (column,) = read_columns(message.header.table(1), message.body, [words])
        others = sum(len(w[0]) for n, w in self._words.items() if n != number)
        if rows + others > MOST_WORDS:
            raise ClientError(
                f"the Arrow stream's dictionaries: expected at most {MOST_WORDS} words; "
                "write plain strings",
                413,
            )
        self._words[number] = column.read(0, rows, {})

    def _calls(self, rows: int, columns: dict[str, Column]) -> Iterator[Call]:
        for start in range(0, rows, ROWS_PER_CALL):
            stop = min(start + ROWS_PER_CALL, rows)
            place = _place(self._rows + start + 1)
            yield self.layout.call(
                {
                    column.name: _as_input(
                        columns[column.name].read(start, stop, self._words), column, place
                    )
                    for column in self.layout.columns
                }
            )
        self._rows += rows


def _place(first: int) -> Place:
    return lambda index: f"row {first + index}"


def _as_input(read: Values, column: TableColumn, place: Place) -> Array:
    """Return a column as the model takes it."""
    values, valid = read
    if valid is not None and valid.all():
        valid = None
    array = _cast(values, valid, column)
    if array is None or not _fits(array, column.spec.shape):
        return column.read_values(_json_values(values, valid), place)
    if array.ndim == 1:
        column.check_finite(array, place)
    return array


def _cast(values: Array, valid: Array | None, column: TableColumn) -> Array | None:
    """Return values as the input's dtype; None if they have to be looked at one by one."""
    is_text, of_text = values.dtype == np.object_, column.spec.dtype == STRING
    takes_gaps = column.may_be_missing and values.ndim == 1
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
    """Return values as JSON has them, for reading them one by one."""
    listed = [v.decode(errors="replace") if type(v) is bytes else v for v in values.tolist()]
    if valid is None:
        return listed
    return [v if there else None for v, there in zip(listed, valid.tolist(), strict=True)]

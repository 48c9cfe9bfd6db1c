"""Newline-delimited JSON, `application/x-ndjson`: a row on each line.

A row is an object with a value for each column, or a list of values in the order of the training
table, or a plain value for the only input. null is a missing value, and so is an absent key if
training had missing values in that column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import orjson

from client.codecs.json.arrays import is_b64, kind_of
from client.codecs.json.flat import flat_array
from client.codecs.json.rows import check_keys
from client.codecs.tables.cells import read_column
from client.codecs.tables.layout import ROWS_PER_CALL, Header, RowPlace, TableColumn, TableLayout
from client.codecs.tables.lines import LineBlocks, check_text
from client.codecs.tables.options import TableOptions
from client.codecs.tables.rows import Inputs, TableRows, read_rows
from client.errors import ClientError
from client.serving.tensors import STRING, Array, dtype_name


class NdjsonReader:
    """Reads lines of JSON in pieces; empty lines are skipped."""

    def __init__(self, layout: TableLayout, options: TableOptions) -> None:
        self.layout = layout
        self._options = options
        self._lines = LineBlocks()
        self._rows: JsonRows | None = None

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of unused columns."""
        return self._rows.header.ignored if self._rows else ()

    def feed(self, chunk: bytes) -> Iterator[TableRows]:
        """Add bytes, and yield the rows of complete lines.

        Raises:
            ClientError: a line cannot be read.
        """
        for block in self._lines.feed(chunk):
            yield from self._read(block)

    def finish(self) -> Iterator[TableRows]:
        """Yield the remaining rows.

        Raises:
            ClientError: as in `feed`, or the table has no rows.
        """
        yield from self._read(self._lines.rest())
        if self._rows is None:
            raise ClientError("expected at least one row, got none")

    def _read(self, block: bytes) -> Iterator[TableRows]:
        if not block.strip():
            return
        first = self._lines.line - block.count(b"\n")
        lines = block.split(b"\n")
        numbers = [number for number, line in enumerate(lines, first) if line.strip()]
        for start in range(0, len(numbers), ROWS_PER_CALL):
            some = numbers[start : start + ROWS_PER_CALL]
            yield self._predictable([lines[number - first] for number in some], some)

    def _predictable(self, lines: Sequence[bytes], numbers: Sequence[int]) -> TableRows:
        in_rows = self._options.errors_in_rows
        parsed = [_parsed(*pair, as_error=in_rows) for pair in zip(lines, numbers, strict=True)]
        if self._rows is None:
            check_text(lines[0])
            good = next((row for row in parsed if not isinstance(row, ClientError)), None)
            self._rows = JsonRows(self.layout, self._options, good, f"line {numbers[0]}: ")
        return self._rows.read(parsed, lambda index: f"line {numbers[index]}")


class JsonRows:
    """Reads JSON rows: objects, lists in the column order, or plain values.

    Attributes:
        header: the columns of the first row.
    """

    def __init__(self, layout: TableLayout, options: TableOptions, first: Any, place: str) -> None:
        """Create a reader for rows like the first.

        Args:
            layout: the columns that a row must have.
            options: the caller's options.
            first: the first row.
            place: position of the first row, for messages.
        """
        self._layout = layout
        self._options = options
        if isinstance(first, dict) and not is_b64(first):
            self.header = layout.some_columns(list(first), options, place)
        elif options.passes_columns:
            raise ClientError(f"{place}expected an object: columns are passed through by name")
        else:
            self.header = Header(0, ())
        names = set(layout.names)
        kept = {name for name, _ in self.header.kept}
        # Keys that are not inputs.
        self._extra = (kept | set(self.header.ignored)) - names

    def read(self, rows: Sequence[Any], place: RowPlace) -> TableRows:
        """Return the call for some rows, and their copied columns.

        Args:
            rows: at least one; rows that could not be parsed are replaced by their error.
            place: returns the position of a row, for messages.

        Raises:
            ClientError: a row cannot be read.
        """

        def read(start: int, stop: int) -> Inputs:
            return self._inputs(rows[start:stop], lambda index: place(start + index))

        inputs, errors = read_rows(read, len(rows), errors_in_rows=self._options.errors_in_rows)
        kept = {
            name: [row.get(name) if type(row) is dict else None for row in rows]
            for name, _ in self.header.kept
        }
        call = None if inputs is None else self._layout.call(inputs)
        return TableRows(call, len(rows), kept, errors)

    def _inputs(self, rows: Sequence[Any], place: RowPlace) -> Inputs:
        layout, columns = self._layout, self._layout.columns
        error = next((row for row in rows if isinstance(row, ClientError)), None)
        if error is not None:
            raise error
        if self._extra:
            rows = [
                {k: v for k, v in row.items() if k not in self._extra} if type(row) is dict else row
                for row in rows
            ]
        if isinstance(rows[0], dict) and not is_b64(rows[0]):
            values = _values_by_name(rows, columns, place)
        elif len(columns) == 1 and layout.matrix is None:
            values = [rows]
        else:
            values = _values_in_order(rows, layout, place)
        return {
            column.name: _read_column(list(of_column), column, place)
            for column, of_column in zip(columns, values, strict=True)
        }


def _parsed(line: bytes, number: int, *, as_error: bool) -> Any:
    try:
        row = orjson.loads(line)
        if type(row) is dict:
            check_keys(row, line)
        return row
    except orjson.JSONDecodeError as error:
        # orjson counts each line as line 1; drop its position.
        reason = f"not JSON: {str(error).partition(': line 1 ')[0]}"
    except ClientError as error:
        reason = error.message
    found = ClientError(f"line {number}: {reason}")
    if as_error:
        return found
    raise found


def _read_column(values: list[Any], column: TableColumn, place: RowPlace) -> Array:
    if column.spec.shape == (None,):
        # Models that take no missing values are from before strings were read like cells: leave
        # their strings unchanged.
        if column.spec.dtype == STRING and column.takes_missing:
            if set(map(type, values)) <= {str, type(None)}:
                return read_column([value or "" for value in values], column, place)
        else:
            array = flat_array(values, column.spec.dtype)
            if array is not None:
                return array
    return column.read_values(values, place)


def _values_by_name(
    rows: Sequence[Any], columns: Sequence[TableColumn], place: RowPlace
) -> list[Sequence[Any]]:
    names = [column.name for column in columns]
    if all(type(row) is dict and len(row) == len(names) for row in rows):
        try:
            if len(names) == 1:
                return [[row[names[0]] for row in rows]]
            return list(zip(*map(itemgetter(*names), rows), strict=True))
        except KeyError:
            pass  # reported below
    whole = [_whole(row, columns, place(index)) for index, row in enumerate(rows)]
    return [[row[name] for row in whole] for name in names]


def _whole(row: Any, columns: Sequence[TableColumn], place: str) -> dict[str, Any]:
    """Return a row with null for absent keys that may be missing."""
    if type(row) is not dict:
        raise ClientError(f"{place}: expected an object like the first row, got {kind_of(row)}")
    wanted = {column.name: column for column in columns}
    unknown = next((name for name in row if name not in wanted), None)
    if unknown is not None:
        raise ClientError(
            f'{place}: unknown column "{unknown[:100]}"; the columns are {", ".join(wanted)}'
        )
    absent = [column for column in columns if column.name not in row]
    for column in absent:
        if column.column is None or not column.column.missing:
            raise ClientError(
                f'{place}: column "{column.name}" ({dtype_name(column.spec.dtype)}) is missing'
            )
    return {**row, **{column.name: None for column in absent}}


def _values_in_order(
    rows: Sequence[Any], layout: TableLayout, place: RowPlace
) -> list[Sequence[Any]]:
    count, names = len(layout.columns), ", ".join(layout.names)
    if not layout.is_ordered:
        raise ClientError(
            f"{place(0)}: expected an object with {names}, got {kind_of(rows[0])}; "
            "the model does not describe the order of its inputs"
        )
    for index, row in enumerate(rows):
        if type(row) is not list:
            raise ClientError(
                f"{place(index)}: expected an object or a list of {count} values in the "
                f"order {names}, got {kind_of(row)}"
            )
        if len(row) != count:
            raise ClientError(
                f"{place(index)}: expected {count} values in the order {names}, got {len(row)}"
            )
    return list(zip(*rows, strict=True))

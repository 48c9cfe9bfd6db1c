"""Newline-delimited JSON, `application/x-ndjson`: a row on each line.

A row is an object with a value for each column, a list of values in the column order of the
training table, or a plain value for the only input. Null is a missing value, and so is an absent
key if training had missing values in that column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import orjson

from client.codecs.json.arrays import describe, is_b64
from client.codecs.json.flat import flat_array
from client.codecs.json.rows import check_keys
from client.codecs.tables.cells import read_column
from client.codecs.tables.layout import ROWS_PER_CALL, Header, RowLocator, TableColumn, TableLayout
from client.codecs.tables.lines import LineBlocks, check_text
from client.codecs.tables.options import TableOptions
from client.codecs.tables.rows import Inputs, TableRows, read_rows
from client.errors import ClientError
from client.serving.tensors import STRING, Array, dtype_name


class NdjsonReader:
    """Reads lines of JSON incrementally, skipping empty lines."""

    def __init__(self, layout: TableLayout, options: TableOptions) -> None:
        self.layout = layout
        self._options = options
        self._lines = LineBlocks()
        self._rows: JsonRows | None = None

    @property
    def ignored_columns(self) -> tuple[str, ...]:
        """Names of unused columns."""
        return self._rows.header.ignored_columns if self._rows else ()

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
        yield from self._read(self._lines.flush())
        if self._rows is None:
            raise ClientError("expected at least one row, got none")

    def _read(self, block: bytes) -> Iterator[TableRows]:
        if not block.strip():
            return
        first = self._lines.line - block.count(b"\n")
        lines = block.split(b"\n")
        numbers = [number for number, line in enumerate(lines, first) if line.strip()]
        for start in range(0, len(numbers), ROWS_PER_CALL):
            chunk = numbers[start : start + ROWS_PER_CALL]
            yield self._table_rows([lines[number - first] for number in chunk], chunk)

    def _table_rows(self, lines: Sequence[bytes], numbers: Sequence[int]) -> TableRows:
        in_rows = self._options.errors_in_rows
        rows = [_parse_line(*pair, as_error=in_rows) for pair in zip(lines, numbers, strict=True)]
        if self._rows is None:
            check_text(lines[0])
            first = next((row for row in rows if not isinstance(row, ClientError)), None)
            self._rows = JsonRows(self.layout, self._options, first, f"line {numbers[0]}: ")
        return self._rows.read(rows, lambda index: f"line {numbers[index]}")


class JsonRows:
    """Reads JSON rows: objects, lists in the column order, or plain values.

    Attributes:
        header: the columns of the first row.
    """

    def __init__(self, layout: TableLayout, options: TableOptions, first: Any, prefix: str) -> None:
        """Create a reader for rows like the first.

        Args:
            layout: the columns that a row must have.
            options: the caller's options.
            first: the first row.
            prefix: position of the first row, for messages.
        """
        self._layout = layout
        self._options = options
        if isinstance(first, dict) and not is_b64(first):
            self.header = layout.find_some_columns(list(first), options, prefix)
        elif options.passes_columns:
            raise ClientError(f"{prefix}expected an object: columns are passed through by name")
        else:
            self.header = Header(0, ())
        names = set(layout.names)
        copied = {name for name, _ in self.header.copied_columns}
        self._extra_keys = (copied | set(self.header.ignored_columns)) - names

    def read(self, rows: Sequence[Any], locate: RowLocator) -> TableRows:
        """Return some rows with their call and copied columns.

        Args:
            rows: at least one; rows that could not be parsed are replaced by their error.
            locate: returns the position of a row, for messages.

        Raises:
            ClientError: a row cannot be read.
        """

        def read(start: int, stop: int) -> Inputs:
            return self._read_inputs(rows[start:stop], lambda index: locate(start + index))

        inputs, errors = read_rows(read, len(rows), errors_in_rows=self._options.errors_in_rows)
        copied = {
            name: [row.get(name) if type(row) is dict else None for row in rows]
            for name, _ in self.header.copied_columns
        }
        call = None if inputs is None else self._layout.call(inputs)
        return TableRows(call, len(rows), copied, errors)

    def _read_inputs(self, rows: Sequence[Any], locate: RowLocator) -> Inputs:
        layout, columns = self._layout, self._layout.columns
        error = next((row for row in rows if isinstance(row, ClientError)), None)
        if error is not None:
            raise error
        extra = self._extra_keys
        if extra:
            rows = [
                {k: v for k, v in row.items() if k not in extra} if type(row) is dict else row
                for row in rows
            ]
        if isinstance(rows[0], dict) and not is_b64(rows[0]):
            values = _values_by_name(rows, columns, locate)
        elif len(columns) == 1 and layout.matrix is None:
            values = [rows]
        else:
            values = _values_in_order(rows, layout, locate)
        return {
            column.name: _read_column(list(column_values), column, locate)
            for column, column_values in zip(columns, values, strict=True)
        }


def _parse_line(line: bytes, number: int, *, as_error: bool) -> Any:
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
    line_error = ClientError(f"line {number}: {reason}")
    if as_error:
        return line_error
    raise line_error


def _read_column(values: list[Any], column: TableColumn, locate: RowLocator) -> Array:
    if column.spec.shape == (None,):
        # Models that take no missing values predate reading strings like cells: leave their
        # strings unchanged.
        if column.spec.dtype == STRING and column.takes_missing:
            if set(map(type, values)) <= {str, type(None)}:
                return read_column([value or "" for value in values], column, locate)
        else:
            array = flat_array(values, column.spec.dtype)
            if array is not None:
                return array
    return column.read_values(values, locate)


def _values_by_name(
    rows: Sequence[Any], columns: Sequence[TableColumn], locate: RowLocator
) -> list[Sequence[Any]]:
    names = [column.name for column in columns]
    if all(type(row) is dict and len(row) == len(names) for row in rows):
        try:
            if len(names) == 1:
                return [[row[names[0]] for row in rows]]
            return list(zip(*map(itemgetter(*names), rows), strict=True))
        except KeyError:
            pass  # reported below
    completed = [_complete_row(row, columns, locate(index)) for index, row in enumerate(rows)]
    return [[row[name] for row in completed] for name in names]


def _complete_row(row: Any, columns: Sequence[TableColumn], location: str) -> dict[str, Any]:
    """Return a row with null for absent keys that may be missing."""
    if type(row) is not dict:
        raise ClientError(f"{location}: expected an object like the first row, got {describe(row)}")
    by_name = {column.name: column for column in columns}
    unknown = next((name for name in row if name not in by_name), None)
    if unknown is not None:
        raise ClientError(
            f'{location}: unknown column "{unknown[:100]}"; the columns are {", ".join(by_name)}'
        )
    absent = [column for column in columns if column.name not in row]
    for column in absent:
        if column.column is None or not column.column.missing:
            raise ClientError(
                f'{location}: column "{column.name}" ({dtype_name(column.spec.dtype)}) is missing'
            )
    return {**row, **{column.name: None for column in absent}}


def _values_in_order(
    rows: Sequence[Any], layout: TableLayout, locate: RowLocator
) -> list[Sequence[Any]]:
    count, names = len(layout.columns), ", ".join(layout.names)
    if not layout.is_ordered:
        raise ClientError(
            f"{locate(0)}: expected an object with {names}, got {describe(rows[0])}; "
            "the model does not describe the order of its inputs"
        )
    for index, row in enumerate(rows):
        if type(row) is not list:
            raise ClientError(
                f"{locate(index)}: expected an object or a list of {count} values in the "
                f"order {names}, got {describe(row)}"
            )
        if len(row) != count:
            raise ClientError(
                f"{locate(index)}: expected {count} values in the order {names}, got {len(row)}"
            )
    return list(zip(*rows, strict=True))

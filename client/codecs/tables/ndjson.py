"""Newline-delimited JSON, `application/x-ndjson`: a row on each line, and an answer on each line.

A row is an object with a value for each column, or a list of them in the order of the trained
table, or a plain value for the only input. Where the model has seen missing values null is one, and
so is a key that is left out. Each answer is an object with the outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import orjson

from client.codecs import Call
from client.codecs.json.arrays import is_b64, kind_of
from client.codecs.json.flat import flat_array
from client.codecs.replies import object_texts, row_texts
from client.codecs.tables.layout import ROWS_PER_CALL, Place, TableColumn, TableLayout
from client.codecs.tables.lines import LineBlocks
from client.codecs.tables.values import checked
from client.errors import ClientError
from client.serving.tensors import Array, dtype_name


class NdjsonReader:
    """Reads lines of JSON in pieces; empty lines are passed over."""

    def __init__(self, layout: TableLayout) -> None:
        self.layout = layout
        self._lines = LineBlocks()
        self._has_rows = False

    def feed(self, chunk: bytes) -> Iterator[Call]:
        """Take the next bytes, and give the calls for the lines that are whole.

        Raises:
            ClientError: it names the line and the column.
        """
        for block in self._lines.feed(chunk):
            yield from self._read(block)

    def finish(self) -> Iterator[Call]:
        """Give the calls for what is left.

        Raises:
            ClientError: as in `feed`, or there was no row at all.
        """
        block = self._lines.rest()
        yield from self._read(block)
        if not self._has_rows:
            raise ClientError("expected at least one row, got none")

    def _read(self, block: bytes) -> Iterator[Call]:
        if not block.strip():
            return  # not worth a look at each line
        first = self._lines.line - block.count(b"\n")
        lines = block.split(b"\n")
        numbers = [number for number, line in enumerate(lines, first) if line.strip()]
        for start in range(0, len(numbers), ROWS_PER_CALL):
            some = numbers[start : start + ROWS_PER_CALL]
            rows = [_parsed(lines[number - first], number) for number in some]
            self._has_rows = True
            yield call_of_rows(rows, self.layout, _place(some))


def call_of_rows(rows: Sequence[Any], layout: TableLayout, place: Place) -> Call:
    """Return the call for rows as JSON has them.

    Args:
        rows: objects, lists in the columns' order, or values of the only input; at least one.
        layout: of the table.
        place: says where a row stands.

    Raises:
        ClientError: it names the place of what is wrong.
    """
    columns = layout.columns
    if isinstance(rows[0], dict) and not is_b64(rows[0]):
        values = _values_by_name(rows, columns, place)
    elif len(columns) == 1 and layout.matrix is None:
        values = [rows]
    else:
        values = _values_in_order(rows, layout, place)
    arrays = {
        column.name: _read_column(list(of_column), column, place)
        for column, of_column in zip(columns, values, strict=True)
    }
    return layout.call(arrays)


def _place(numbers: Sequence[int]) -> Place:
    return lambda index: f"line {numbers[index]}"


def _parsed(line: bytes, number: int) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        # Of its own line the parser says only where.
        reason = str(error).partition(": line 1 ")[0]
        raise ClientError(f"line {number}: not JSON: {reason}") from error


def _read_column(values: list[Any], column: TableColumn, place: Place) -> Array:
    if column.spec.shape == (None,):
        array = flat_array(values, column.spec.dtype)
        if array is not None:
            return array
    return column.read_values(values, place)


def _values_by_name(
    rows: Sequence[Any], columns: Sequence[TableColumn], place: Place
) -> list[Sequence[Any]]:
    names = [column.name for column in columns]
    if all(type(row) is dict and len(row) == len(names) for row in rows):
        try:
            if len(names) == 1:
                return [[row[names[0]] for row in rows]]
            return list(zip(*map(itemgetter(*names), rows), strict=True))
        except KeyError:
            pass  # said below, of the row that lacks it
    whole = [_whole(row, columns, place(index)) for index, row in enumerate(rows)]
    return [[row[name] for row in whole] for name in names]


def _whole(row: Any, columns: Sequence[TableColumn], place: str) -> Mapping[str, Any]:
    """Return a row with null for the values that are left out and may be missing."""
    if type(row) is not dict:
        raise ClientError(f"{place}: expected an object like the first row, got {kind_of(row)}")
    wanted = {column.name for column in columns}
    unknown = sorted(row.keys() - wanted)
    if unknown:
        raise ClientError(
            f'{place}: unknown column "{unknown[0][:100]}"; '
            f"the columns are {', '.join(sorted(wanted))}"
        )
    absent = [column for column in columns if column.name not in row]
    for column in absent:
        if not column.may_be_missing:
            raise ClientError(
                f'{place}: column "{column.name}" ({dtype_name(column.spec.dtype)}) is missing'
            )
    return {**row, **{column.name: None for column in absent}}


def _values_in_order(rows: Sequence[Any], layout: TableLayout, place: Place) -> list[Sequence[Any]]:
    count, names = len(layout.columns), ", ".join(layout.names)
    if not layout.is_ordered:
        raise ClientError(
            f"{place(0)}: expected an object with {names}, got {kind_of(rows[0])}; "
            "the model does not tell the order of its inputs"
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


class NdjsonWriter:
    """Writes outputs as a line of JSON for each row, an object with their names."""

    can_tell_errors = True

    def write(self, outputs: Mapping[str, Array]) -> bytes:
        """Return the lines of some rows.

        Raises:
            ClientError: the outputs are not a value for each row, or have no JSON form.
        """
        return b"".join([row + b"\n" for row in objects(outputs)])

    def end(self) -> bytes:
        """Return what closes the answer: nothing."""
        return b""


class JsonWriter:
    """Writes outputs as a list of JSON: TensorFlow Serving's `{"predictions": [row, …]}`.

    A row is an object with the outputs' names, or the value of the only output.
    """

    can_tell_errors = False

    def __init__(
        self,
        beginning: bytes = b'{"predictions":[',
        separator: bytes = b",",
        ending: bytes = b"]}\n",
    ) -> None:
        """Prepare.

        Args:
            beginning: what stands before the first row.
            separator: what stands between two.
            ending: what stands after the last.
        """
        self._before = beginning
        self._separator = separator
        self._ending = ending

    def write(self, outputs: Mapping[str, Array]) -> bytes:
        """Return the JSON of some rows.

        Raises:
            ClientError: the outputs are not a value for each row, or have no JSON form.
        """
        rows = row_texts(checked(outputs))
        before, self._before = self._before, self._separator
        return before + self._separator.join(rows)

    def end(self) -> bytes:
        """Return what closes the answer."""
        return self._ending


def objects(outputs: Mapping[str, Array]) -> list[bytes]:
    """Return the JSON text of an object with the outputs' values for each row.

    Raises:
        ClientError: the outputs are not a value for each row, or have no JSON form.
    """
    return object_texts(checked(outputs))

"""CSV, `text/csv` (RFC 4180): a header with the columns' names, then a line for each row.

Cells that are empty or say NA, NaN, null, None or ? are missing values, which the model takes in
the columns in which it has seen some. Truth is true, false, 1 or 0. Infinity and NaN are no
numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import orjson

from client.codecs import Call
from client.codecs.replies import each_row
from client.codecs.tables.cells import read_column, read_numbers
from client.codecs.tables.layout import ROWS_PER_CALL, TableLayout
from client.codecs.tables.lines import LineBlocks, decoded
from client.codecs.tables.values import checked, number_texts
from client.errors import ClientError
from client.serving.tensors import Array

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPECIAL = frozenset('",\r\n')


class CsvReader:
    """Reads a CSV file in pieces."""

    def __init__(self, layout: TableLayout) -> None:
        for column in layout.columns:
            if column.spec.shape not in (None, (None,)):
                raise ClientError(
                    f'input "{column.name}" is {column.spec}, and a cell of CSV is one value; '
                    "send JSON, application/x-ndjson or application/x-npy"
                )
        self.layout = layout
        self._lines = LineBlocks()
        # Of each of the layout's columns its place in a line, once the header is known.
        self._order: list[int] | None = None
        self._has_rows = False

    def feed(self, chunk: bytes) -> Iterator[Call]:
        """Take the next bytes, and give the calls for the rows that are whole.

        Raises:
            ClientError: it names the line and the column.
        """
        for block in self._lines.feed(chunk):
            yield from self._read(block, is_last=False)

    def finish(self) -> Iterator[Call]:
        """Give the calls for what is left.

        Raises:
            ClientError: as in `feed`, or there was no row at all.
        """
        yield from self._read(self._lines.rest(), is_last=True)
        if not self._has_rows:
            raise ClientError("expected at least one row, got none")

    def _read(self, block: bytes, *, is_last: bool) -> Iterator[Call]:
        line = self._lines.line - block.count(b"\n")
        order = self._order
        if order is None:
            order, block, line = self._take_header(block.removeprefix(BYTE_ORDER_MARK))
        if not block.strip(b"\r\n"):
            return  # not worth a look at each line
        if self.layout.matrix is not None:
            matrix = read_numbers(block, order, self.layout)
            if matrix is not None:
                self._has_rows = True
                for start in range(0, len(matrix), ROWS_PER_CALL):
                    yield self.layout.matrix_call(matrix[start : start + ROWS_PER_CALL])
                return
        rows, ends = self._records(block, line, is_last=is_last)
        for start in range(0, len(rows), ROWS_PER_CALL):
            self._has_rows = True
            stop = start + ROWS_PER_CALL
            yield self._call(rows[start:stop], ends[start:stop], order)

    def _take_header(self, block: bytes) -> tuple[list[int], bytes, int]:
        """Read the first record; return the columns' order, and the rest with its first line."""
        lines = io.StringIO(decoded(block, 1), newline="").readlines()
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise ClientError(f"line {reader.line_num}: {error}") from error
        self.layout.check_header(header, "line 1: ")
        self._order = [header.index(name) for name in self.layout.names]
        taken = len("".join(lines[: reader.line_num]).encode())
        return self._order, block[taken:], reader.line_num + 1

    def _records(
        self, block: bytes, line: int, *, is_last: bool
    ) -> tuple[list[list[str]], list[int]]:
        """Return the rows of a block, and the line on which each ends."""
        lines = io.StringIO(decoded(block, line), newline="").readlines()
        asked_for_more = False

        def supply() -> Iterator[str]:
            nonlocal asked_for_more
            yield from lines
            asked_for_more = True

        reader = csv.reader(supply(), strict=True)
        rows, ends, whole = [], [], 0
        try:
            for cells in reader:
                whole = reader.line_num
                if cells:
                    rows.append(cells)
                    ends.append(line + whole - 1)
        except csv.Error as error:
            if is_last or not asked_for_more:
                raise ClientError(f"line {line + reader.line_num - 1}: {error}") from error
            # The block ends inside of quotes.
            self._lines.put_back("".join(lines[whole:]).encode())
        return rows, ends

    def _call(self, rows: Sequence[list[str]], ends: Sequence[int], order: Sequence[int]) -> Call:
        if set(map(len, rows)) != {len(order)}:
            wrong = next(i for i, cells in enumerate(rows) if len(cells) != len(order))
            raise ClientError(
                f"line {ends[wrong]}: expected {len(order)} cells like the header, "
                f"got {len(rows[wrong])}"
            )
        columns = list(zip(*rows, strict=True))
        return self.layout.call(
            {
                column.name: read_column(columns[place], column, lambda i: f"line {ends[i]}")
                for column, place in zip(self.layout.columns, order, strict=True)
            }
        )


class CsvWriter:
    """Writes outputs as CSV: a header with their names, a line for each row.

    Outputs of several values a row, and strings that are not text, are JSON in a cell.
    """

    can_tell_errors = False

    def __init__(self) -> None:
        self._has_header = False

    def write(self, outputs: Mapping[str, Array]) -> bytes:
        """Return the lines of some rows, after the header if they are the first.

        Raises:
            ClientError: the outputs are not a value for each row.
        """
        outputs = checked(outputs)
        columns = [_cells(name, array) for name, array in outputs.items()]
        lines = list(map(b",".join, zip(*columns, strict=True)))
        if not self._has_header:
            self._has_header = True
            lines.insert(0, b",".join(_quoted(name) for name in outputs))
        return b"".join([line + b"\n" for line in lines])

    def end(self) -> bytes:
        """Return what closes the answer: nothing."""
        return b""


def _cells(name: str, array: Array) -> list[bytes]:
    numbers = number_texts(array)
    if numbers is not None:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return [str(value).encode() for value in array]
        return numbers
    texts = each_row(name, array)
    if array.ndim != 1:
        return [_quoted(text.decode()) for text in texts]
    # A string's JSON text is a string too, or an object if it is not text.
    of = {text: _quoted(_string(text)) for text in set(texts)}
    return [of[text] for text in texts]


def _string(json_text: bytes) -> str:
    value = orjson.loads(json_text)
    return value if isinstance(value, str) else json_text.decode()


def _quoted(text: str) -> bytes:
    if text and _SPECIAL.isdisjoint(text):
        return text.encode()
    # An empty string too: a line of one empty cell would be no row.
    return b'"' + text.replace('"', '""').encode() + b'"'

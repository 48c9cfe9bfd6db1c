"""CSV, `text/csv` (RFC 4180), also with tabs, semicolons or bars as separators.

The first line is a header with the column names; each further line is a row. Cells are trimmed;
the marks that Excel, pandas, R and databases write for missing values are read as missing. With
semicolons, tabs or bars as separators, numbers may have a decimal comma.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence, Set

from client.codecs.tables.cells import (
    DECIMAL_COMMA_SEPARATORS,
    has_decimal_comma,
    read_column,
    read_numbers,
)
from client.codecs.tables.csv_records import read_records
from client.codecs.tables.layout import ROWS_PER_CALL, Header, TableLayout
from client.codecs.tables.lines import BYTE_ORDER_MARK, LineBlocks, check_text, decode_block
from client.codecs.tables.options import TableOptions
from client.codecs.tables.rows import Inputs, TableRows, read_rows
from client.errors import ClientError
from client.serving.columns.base import trim_cell

SEPARATORS = (",", ";", "\t", "|")
# Excel's optional first line, which names the separator; spreadsheets pad it to the table's width.
_SEPARATOR_LINE = re.compile(r'"?sep=([\t !#-~])"?[ \t,;]*\r?\n', re.IGNORECASE)


class CsvReader:
    """Reads CSV incrementally."""

    def __init__(self, layout: TableLayout, options: TableOptions, separator: str = "") -> None:
        """Create a reader.

        Args:
            layout: the columns that the table must have.
            options: the caller's options.
            separator: the character between cells; guessed if empty.
        """
        for column in layout.columns:
            if column.spec.shape not in (None, (None,)):
                raise ClientError(
                    f'input "{column.name}" is {column.spec}, and a CSV cell is one value; '
                    "send JSON, application/x-ndjson or application/x-npy"
                )
        self.layout = layout
        self._options = options
        self._separator = separator
        self._lines = LineBlocks()
        self._header: Header | None = None
        self._has_rows = False

    @property
    def ignored_columns(self) -> tuple[str, ...]:
        """Names of unused columns."""
        return self._header.ignored_columns if self._header else ()

    def feed(self, chunk: bytes) -> Iterator[TableRows]:
        """Add bytes, and yield the complete rows.

        Raises:
            ClientError: a line cannot be read.
        """
        for block in self._lines.feed(chunk):
            yield from self._read(block, is_last=False)

    def finish(self) -> Iterator[TableRows]:
        """Yield the remaining rows.

        Raises:
            ClientError: as in `feed`, or the table has no rows.
        """
        yield from self._read(self._lines.flush(), is_last=True)
        if not self._has_rows:
            raise ClientError("expected at least one row, got none")

    def _read(self, block: bytes, *, is_last: bool) -> Iterator[TableRows]:
        line = self._lines.line - block.count(b"\n")
        header = self._header
        if header is None:
            header, block, line = self._take_header(block)
        if not block.strip(b"\r\n"):
            return
        layout = self.layout
        if layout.matrix is not None and layout.is_plain and not header.copied_columns:
            matrix = read_numbers(block, header, layout, self._separator)
            if matrix is not None:
                self._has_rows = True
                for start in range(0, len(matrix), ROWS_PER_CALL):
                    chunk = matrix[start : start + ROWS_PER_CALL]
                    yield TableRows(layout.matrix_call(chunk), len(chunk))
                return
        rows, ends = self._read_records(block, line, is_last=is_last)
        for start in range(0, len(rows), ROWS_PER_CALL):
            self._has_rows = True
            stop = start + ROWS_PER_CALL
            yield self._read_rows(rows[start:stop], ends[start:stop], header)

    def _take_header(self, block: bytes) -> tuple[Header, bytes, int]:
        """Read the header; return it, the remaining text and that text's first line number."""
        check_text(block)
        block, line = block.removeprefix(BYTE_ORDER_MARK), 1
        text = decode_block(block, line)
        match = _SEPARATOR_LINE.match(text)
        if match is not None:
            self._separator, line = match[1], 2
            block, text = block[len(match[0].encode()) :], text[match.end() :]
        lines = io.StringIO(text, newline="").readlines()
        self._separator = self._separator or self._guess_separator(lines)
        names, line_count = _read_first_record(lines, self._separator, line)
        self._header = self.layout.find_columns(names, self._options, f"line {line}: ")
        size = len("".join(lines[:line_count]).encode())
        return self._header, block[size:], line + line_count

    def _guess_separator(self, lines: Sequence[str]) -> str:
        """Return the separator that splits the header into the most known columns.

        Among ties, it is the one that splits it into the most cells.
        """
        known = {*self.layout.names, self.layout.label_name, self._options.id_column}

        def fit(separator: str) -> tuple[int, int]:
            try:
                names, _ = _read_first_record(lines, separator, 1)
            except ClientError:
                return 0, 0
            return sum(trim_cell(name) in known for name in names), len(names)

        return max(SEPARATORS, key=fit)

    def _read_records(
        self, block: bytes, line: int, *, is_last: bool
    ) -> tuple[list[list[str]], list[int]]:
        """Return the rows of a block, and the line on which each ends."""
        text = decode_block(block, line)
        skip_spaces = _has_space_before_quote(io.StringIO(text, newline=""), self._separator)
        records = read_records(
            self._lines, text, line, self._separator, skip_spaces=skip_spaces, is_last=is_last
        )
        rows, ends = [], []
        for cells, end in records:
            rows.append(cells)
            ends.append(end)
        return rows, ends

    def _read_rows(
        self, rows: Sequence[list[str]], ends: Sequence[int], header: Header
    ) -> TableRows:
        # Decided for all rows at once: read alone, 1.234 would be a number with a decimal point.
        decimal_commas = self._find_decimal_commas(rows, header)

        def read(start: int, stop: int) -> Inputs:
            return self._read_inputs(rows[start:stop], ends[start:stop], header, decimal_commas)

        inputs, errors = read_rows(read, len(rows), errors_in_rows=self._options.errors_in_rows)
        copied = {
            name: [cells[index] if index < len(cells) else None for cells in rows]
            for name, index in header.copied_columns
        }
        call = None if inputs is None else self.layout.call(inputs)
        return TableRows(call, len(rows), copied, errors)

    def _find_decimal_commas(self, rows: Sequence[list[str]], header: Header) -> Set[int]:
        """Return the indexes of the columns whose numbers have a decimal comma."""
        if self._separator not in DECIMAL_COMMA_SEPARATORS:
            return set()
        full_rows = [cells for cells in rows if len(cells) == header.count]
        return {
            index
            for column, index in zip(self.layout.columns, header.indexes, strict=True)
            if has_decimal_comma((cells[index] for cells in full_rows), column)
        }

    def _read_inputs(
        self,
        rows: Sequence[list[str]],
        ends: Sequence[int],
        header: Header,
        decimal_commas: Set[int],
    ) -> Inputs:
        if set(map(len, rows)) != {header.count}:
            row = next(i for i, cells in enumerate(rows) if len(cells) != header.count)
            raise ClientError(
                f"line {ends[row]}: expected {header.count} cells as in the header, "
                f"got {len(rows[row])}"
            )
        cells = list(zip(*rows, strict=True))
        return {
            column.name: read_column(
                cells[index],
                column,
                lambda i: f"line {ends[i]}",
                decimal_comma=index in decimal_commas,
            )
            for column, index in zip(self.layout.columns, header.indexes, strict=True)
        }


def _has_space_before_quote(lines: Iterable[str], separator: str) -> bool:
    """Return whether spaces precede a quote; only the parser can skip them."""
    pattern = re.compile(f'(^|{re.escape(separator)}) +"')
    return any(' "' in line and pattern.search(line) for line in lines)


def _read_first_record(lines: Sequence[str], separator: str, line: int) -> tuple[list[str], int]:
    """Return the cells of the first record, and its line count."""
    skip_spaces = _has_space_before_quote(lines[:1], separator)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=skip_spaces, strict=True)
    try:
        cells: list[str] = next(reader, [])
    except csv.Error as error:
        raise ClientError(f"line {line + reader.line_num - 1}: {error}") from error
    return cells, reader.line_num

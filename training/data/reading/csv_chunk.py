"""Chunks of whole CSV records, and their parsing."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import polars as pl

from training.data.reading.batch import (
    Parsers,
    RecordBatch,
    csv_dtypes,
    missing_marks,
    parse_columns,
    with_constants,
)
from training.data.reading.csv_header import SAVE_AS_UTF_8
from training.errors import DataError
from training.features.cells import MISSING


@dataclass
class CsvLayout:
    """The layout shared by all chunks of a file.

    Attributes:
        name: the file's name, for errors.
        columns: the columns of the header.
        separator: the field separator.
        constants: column values from the file's path.
        has_marks: whether to search for missing marks. That takes as long as parsing, so it starts
            only if --missing adds marks, or after a mark that polars rejects as a number.
    """

    name: str
    columns: tuple[str, ...]
    separator: str
    constants: Mapping[str, str] = field(default_factory=dict)
    has_marks: bool = False


class CsvChunk:
    """Whole CSV records as bytes, in the form of RFC 4180."""

    def __init__(self, layout: CsvLayout, line: int, data: bytes) -> None:
        self.layout, self.line, self.data = layout, line, data

    def load(self, parsers: Parsers) -> RecordBatch:
        """Parse the columns that have a parser.

        Raises:
            DataError: the chunk is malformed, or a value is not of its column's kind.
        """
        frame = self._parse_typed(parsers)
        if frame is None:
            return parse_columns(self.parse_as_text(), parsers)
        return parse_columns(self._record_batch(self._drop_blank_lines(frame)), parsers)

    def parse_as_text(self) -> RecordBatch:
        """Parse all columns as text.

        Raises:
            DataError: the chunk is malformed.
        """
        columns = self.layout.columns
        try:
            frame = self._parse(dict.fromkeys(columns, pl.String), columns, [])
        except pl.exceptions.PolarsError as error:
            self._check_utf_8()
            self._check_records()
            reason = str(error).splitlines()[0]  # the other lines are advice on calling polars
            raise DataError(f"{self.layout.name}, from line {self.line} on: {reason}") from error
        return self._record_batch(self._drop_blank_lines(frame))

    def location(self, row: int) -> str:
        """Return the location of a row, for errors; scans the chunk."""
        return f"{self.layout.name} line {self._record(row)[0]}"

    def cell(self, row: int, column: str) -> str:
        """Return a cell as written in the file, for errors."""
        constants = self.layout.constants
        if column in constants:
            return constants[column]
        return self._record(row)[1][self.layout.columns.index(column)].strip()

    def _record_batch(self, frame: pl.DataFrame) -> RecordBatch:
        return RecordBatch(with_constants(frame, self.layout.constants), self.location, self.cell)

    def _parse_typed(self, parsers: Parsers) -> pl.DataFrame | None:
        """Parse columns to their dtypes, or return None if a number or the chunk is malformed."""
        layout = self.layout
        schema = csv_dtypes(layout.columns, parsers)
        columns = [column for column in parsers if column in schema]
        marks = missing_marks(parsers)
        # Without null values, polars parses NaN as a number and rejects the other marks of
        # `MISSING`, but not a number from --missing, such as 999.
        layout.has_marks |= not set(marks) <= set(MISSING)
        for null_values in [marks] if layout.has_marks else [[], marks]:
            try:
                frame = self._parse(schema, columns, null_values)
            except pl.exceptions.PolarsError:
                continue
            layout.has_marks = bool(null_values)
            return frame.with_columns(pl.col(pl.Float64).fill_nan(None))
        return None

    def _parse(
        self,
        schema: Mapping[str, type[pl.DataType]],
        columns: Collection[str],
        null_values: list[str],
    ) -> pl.DataFrame:
        header, requested = self.layout.columns, set(columns)
        last = len(header) - 1
        return pl.read_csv(
            self.data,
            has_header=False,
            schema=dict(schema),
            # The last column shows whether a record is too short.
            columns=[i for i, name in enumerate(header) if name in requested or i == last],
            separator=self.layout.separator,
            null_values=null_values,
        )

    def _drop_blank_lines(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Drop rows that polars makes from blank lines; reject short records, which it pads."""
        header = self.layout.columns
        if not frame[header[-1]].null_count():
            return frame  # each record has a last field
        separators = self.data.count(self.layout.separator.encode())
        # In a file of one column, a blank line has as many separators as any other.
        is_countable = len(header) > 1 and b'"' not in self.data
        if is_countable and separators == len(frame) * (len(header) - 1):
            return frame
        blank_rows = self._check_records()
        if not blank_rows:
            return frame
        return frame.filter(pl.Series(range(len(frame))).is_in(blank_rows).not_())

    def _check_records(self) -> list[int]:
        """Check the number of fields of each record and return the indices of blank lines.

        Raises:
            DataError: a record has too few or too many fields.
        """
        blank_rows = []
        expected = len(self.layout.columns)
        for index, (line, fields) in enumerate(self._records()):
            if not fields:
                blank_rows.append(index)
            elif len(fields) != expected:
                raise DataError(
                    f"{self.layout.name} line {line}: expected {expected} fields as in the header, "
                    f"got {len(fields)}"
                )
        return blank_rows

    def _check_utf_8(self) -> None:
        try:
            self.data.decode()
        except UnicodeDecodeError as error:
            line = self.line + self.data.count(b"\n", 0, error.start)
            byte = self.data[error.start]
            raise DataError(
                f"{self.layout.name} line {line}: expected UTF-8, got the byte 0x{byte:02x}; "
                f"{SAVE_AS_UTF_8}"
            ) from error

    def _record(self, row: int) -> tuple[int, list[str]]:
        """Return a row's first line number and fields; blank lines are not rows."""
        records = (record for record in self._records() if record[1])
        return next(islice(records, row, None))

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each record's first line number and its fields; a blank line has no fields."""
        text = io.StringIO(self.data.decode(errors="replace"), newline="")
        reader = csv.reader(text, delimiter=self.layout.separator)
        lines_read = 0
        for fields in reader:
            yield self.line + lines_read, fields
            lines_read = reader.line_num

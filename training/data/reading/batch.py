"""Files and their batches: typed columns, with the location of each row for errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from training.errors import DataError
from training.features.cells import MISSING, CellParser

BATCH_ROWS = 65_536
# Parsing texts one by one is faster unless each occurs about this often.
MIN_REPEATS = 4

Parsers = Mapping[str, CellParser]


@dataclass(frozen=True)
class RecordBatch:
    """Consecutive rows of a source.

    Attributes:
        frame: parsed columns, null where missing: numbers and days as floats, others as String.
        location: returns the location of a row, like `customers.csv line 7`.
        cell: returns a cell as written in the file; None for files that are not text.
    """

    frame: pl.DataFrame
    location: Callable[[int], str]
    cell: Callable[[int, str], str] | None = None

    def as_written(self, row: int, column: str) -> object:
        """Return a cell for errors, as written if the file is text."""
        return self.cell(row, column) if self.cell else self.frame[column][row]


class File(ABC):
    """One file of a source.

    Attributes:
        name: the file's name, for messages.
        columns: names of the columns.
        separator: the field separator; empty if there is none.
        is_stream: whether it can be read only once.
        constants: column values from the file's path.
        left_out: columns added by the program that wrote the table, with the reason to leave them
            out.
    """

    name: str
    columns: tuple[str, ...]
    separator: str = ""
    is_stream: bool = False
    constants: Mapping[str, str] = {}
    left_out: Mapping[str, str] = {}

    @abstractmethod
    def head(self) -> RecordBatch:
        """Return the first rows, unparsed, for detecting kinds.

        Raises:
            DataError: the file is malformed.
        """

    @abstractmethod
    def batch_loaders(self, parsers: Parsers) -> Iterator[Callable[[], RecordBatch]]:
        """Yield, for each batch, a function that reads it."""


def with_constants(frame: pl.DataFrame, constants: Mapping[str, str]) -> pl.DataFrame:
    """Add the columns from the file's path."""
    return frame.with_columns(pl.lit(value).alias(name) for name, value in constants.items())


def csv_dtypes(columns: tuple[str, ...], parsers: Parsers) -> dict[str, type[pl.DataType]]:
    """Return the polars dtype for parsing each column of a CSV file."""
    return {name: parsers[name].dtype if name in parsers else pl.String for name in columns}


def missing_marks(parsers: Parsers) -> list[str]:
    """Return the texts that polars may read as null."""
    return list(next((p.cell_format.marks for p in parsers.values()), MISSING))


def parse_columns(batch: RecordBatch, parsers: Parsers) -> RecordBatch:
    """Parse the columns of a batch.

    Raises:
        DataError: a value is not of its column's kind.
    """
    columns = []
    for name, parser in parsers.items():
        values = batch.frame[name]
        try:
            cells = _parse_column(parser, values)
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"{batch.location(0)}, column {name!r}: expected {parser.expected}, "
                f"got the type {values.dtype}"
            ) from error
        if cells.null_count() > values.null_count():
            text = parser.trim(values)
            invalid = cells.is_null() & text.is_not_null()
            _refuse(batch, parser, text, invalid)
        columns.append(cells)
    return RecordBatch(pl.DataFrame(columns), batch.location, batch.cell)


def _parse_column(parser: CellParser, values: pl.Series) -> pl.Series:
    """Parse a column; if values repeat, parse each distinct value once."""
    # Floats: -0.0 and 0.0 are one distinct value, but two texts.
    if parser.column_type.is_number or values.dtype.is_nested() or values.dtype.is_float():
        return parser.parse(values)
    distinct = values.unique()
    if len(distinct) > len(values) // MIN_REPEATS:
        return parser.parse(values)
    parsed = parser.parse(distinct)
    return values.replace_strict(distinct, parsed, return_dtype=parsed.dtype)


def _refuse(batch: RecordBatch, parser: CellParser, values: pl.Series, invalid: pl.Series) -> None:
    """Raise an error for the first invalid value, if there is one."""
    if invalid.any():
        row = int(invalid.arg_max() or 0)
        value = values[row]
        raise DataError(
            f"{batch.location(row)}, column {values.name!r}: expected {parser.expected}, "
            f"got {value!r}; {parser.advice(values.name, value)}"
        )

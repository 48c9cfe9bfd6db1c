"""What every kind of file yields: parts with typed columns that know where each row stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from training.errors import DataError
from training.features.cells import MISSING, CellParser

ROWS_PER_PART = 65_536

Parsers = Mapping[str, CellParser]


@dataclass(frozen=True)
class Part:
    """Some rows of a source.

    Attributes:
        frame: columns as their parsers give them: numbers and days as floats, the others as
            String; null is a missing value.
        place: says where a row of the frame stands, like `customers.csv line 7`.
        cell: returns the text of a cell; None for files that are not text.
    """

    frame: pl.DataFrame
    place: Callable[[int], str]
    cell: Callable[[int, str], str] | None = None

    def as_written(self, row: int, column: str) -> object:
        """Return a cell as it stands in the file, if that is text, for errors."""
        return self.cell(row, column) if self.cell else self.frame[column][row]


class File(ABC):
    """One file of a source.

    Attributes:
        name: for messages.
        columns: their names.
        separator: between the fields of a text file; empty if there is none.
        is_stream: whether it can be read only once.
        constants: columns that are in the file's path only, with their one value.
        left_out: columns that a program added when it stored the table, and why they are no
            features.
    """

    name: str
    columns: tuple[str, ...]
    separator: str = ""
    is_stream: bool = False
    constants: Mapping[str, str] = {}
    left_out: Mapping[str, str] = {}

    @abstractmethod
    def head(self) -> Part:
        """Return the first rows as they stand in the file, to detect kinds by.

        Raises:
            DataError: the file is malformed.
        """

    @abstractmethod
    def parts(self, parsers: Parsers) -> Iterator[Callable[[], Part]]:
        """Yield a function for each part, which reads it."""


def with_constants(frame: pl.DataFrame, constants: Mapping[str, str]) -> pl.DataFrame:
    """Add the columns whose one value is in the file's path."""
    return frame.with_columns(pl.lit(value).alias(name) for name, value in constants.items())


def csv_dtypes(columns: tuple[str, ...], parsers: Parsers) -> dict[str, type[pl.DataType]]:
    """Return what polars may parse each column of a CSV file as."""
    return {name: parsers[name].dtype if name in parsers else pl.String for name in columns}


def missing_marks(parsers: Parsers) -> list[str]:
    """Return the texts that polars may take for a missing value."""
    return list(next((p.cell_format.marks for p in parsers.values()), MISSING))


def converted(part: Part, parsers: Parsers) -> Part:
    """Parse the columns of a part.

    Raises:
        DataError: a value is not of its column's kind.
    """
    columns = []
    for name, parser in parsers.items():
        values = part.frame[name]
        try:
            cells = parser.parse(values)
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"column {name!r}: the type {values.dtype} cannot be {parser.kind}"
            ) from error
        if cells.null_count() > values.null_count():
            text = parser.trimmed(values)
            wrong = cells.is_null() & text.is_not_null()
            refuse(part, parser, text, wrong)
        columns.append(cells)
    return Part(pl.DataFrame(columns), part.place, part.cell)


def refuse(part: Part, parser: CellParser, values: pl.Series, wrong: pl.Series) -> None:
    """Refuse the first value that is marked as wrong.

    Raises:
        DataError: there is one.
    """
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        value = values[row]
        raise DataError(
            f"{part.place(row)}, column {values.name!r}: expected {parser.expected}, "
            f"got {value!r}; {parser.advice(values.name, value)}"
        )

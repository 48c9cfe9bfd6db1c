"""Cells, parsed by the same rules in all file formats. Does not import TensorFlow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import polars as pl

Kind = Literal["numeric", "categorical", "boolean", "date"]

# Marks that Excel, pandas, R, SAS and SQL dumps write for missing values.
MISSING = (
    *("", "NA", "N/A", "n/a", "#N/A", "#NA", "#N/A N/A", "<NA>", "NaN", "nan", "-NaN", "-nan"),
    *("null", "NULL", "None", "nil", "(null)", r"\N", "-", "--", "?", "."),
    *("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "1.#IND", "-1.#IND"),
    *("1.#QNAN", "-1.#QNAN"),
)
ISO_DATES = "year-month-day"
BLANKS = " \t\n\v\f\r"  # the characters that tf.strings.strip removes


@dataclass(frozen=True)
class CellFormat:
    """The format of a table's cells.

    Attributes:
        missing: marks of a missing value besides `MISSING`.
        decimal: the decimal separator; inferred from the values if empty.
        date_format: strftime format of dates, if not one of the detected forms.
    """

    missing: tuple[str, ...] = ()
    decimal: str = ""
    date_format: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """All marks of a missing value."""
        return (*MISSING, *self.missing)


@dataclass(frozen=True)
class CellParser(ABC):
    """Parses the cells of one column; `column_type` is the class of the resulting column."""

    cell_format: CellFormat = field(default_factory=CellFormat)

    kind: ClassVar[Kind]
    expected: ClassVar[str]
    column_type: ClassVar[Any]

    @property
    def wide(self) -> bool:
        """Whether the column's numbers need 64 bits."""
        return False

    @property
    def dtype(self) -> type[pl.DataType]:
        """The polars dtype for parsing a CSV field."""
        return pl.String

    @classmethod
    @abstractmethod
    def accepts(cls, dtype: pl.DataType) -> bool:
        """Return whether values of a dtype other than text are of this kind."""

    @abstractmethod
    def parse(self, values: pl.Series) -> pl.Series:
        """Turn texts or typed values into cells; null where missing or not of this kind."""

    def column(self, name: str, **statistics: Any) -> Any:
        """Return the column with the given name and statistics."""
        return self.column_type(name, **statistics)

    def advice(self, name: str, value: object) -> str:
        """Return advice on reading a value that is not of this kind."""
        return (
            f"--missing {value!r} if it means a missing value, "
            f"--columns {name!r}=categorical if the column holds names"
        )

    def trim(self, values: pl.Series) -> pl.Series:
        """Return values as text without surrounding blanks, null where missing."""
        return trim(values, self.cell_format)


def trim(values: pl.Series, cell_format: CellFormat) -> pl.Series:
    """Return values as text without surrounding blanks, null where missing."""
    text = values.cast(pl.String).str.strip_chars(BLANKS)
    return text.set(text.is_in(cell_format.marks).fill_null(False), None)


def is_text(dtype: pl.DataType) -> bool:
    """Return whether a dtype is text, which must be parsed."""
    return dtype == pl.String

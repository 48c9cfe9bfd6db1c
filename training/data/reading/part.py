"""What every kind of file yields: parts with typed columns that know where each row stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from training.errors import DataError

Kind = Literal["numeric", "categorical", "boolean"]

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?")
BOOLEANS = ("false", "true")
ROWS_PER_PART = 65_536


@dataclass(frozen=True)
class Part:
    """Some rows of a source.

    Attributes:
        frame: numeric columns as Float32, the others as String; null is a missing value.
        place: says where a row of the frame stands, like `customers.csv line 7`.
    """

    frame: pl.DataFrame
    place: Callable[[int], str]


class File(ABC):
    """One file of a source.

    Attributes:
        name: its path, for errors.
        columns: the names of the columns.
        constants: columns that are in the file's path only, with their one value.
        left_out: columns that a program added when it stored the table, and why they are no
            features.
    """

    name: str
    columns: tuple[str, ...]
    constants: Mapping[str, str] = {}
    left_out: Mapping[str, str] = {}

    @abstractmethod
    def kind(self, column: str) -> Kind:
        """Return the kind of a column, or raise DataError if it has none."""

    @abstractmethod
    def parts(self, kinds: Mapping[str, Kind]) -> Iterator[Callable[[], Part]]:
        """Yield a function for each part, which reads it."""


def with_constants(frame: pl.DataFrame, constants: Mapping[str, str]) -> pl.DataFrame:
    """Add the columns whose one value is in the file's path."""
    return frame.with_columns(pl.lit(value).alias(name) for name, value in constants.items())


def as_matrix(part: Part, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return numeric columns as one matrix `[rows, columns]`, NaN where missing.

    Raises:
        DataError: a number is infinite, or too large for 32 bits.
    """
    matrix = np.empty((len(part.frame), len(names)), np.float32)
    for position, name in enumerate(names):
        values = part.frame[name]
        if values.null_count():
            values = values.fill_null(float("nan"))
        matrix[:, position] = values.to_numpy()
    if np.isinf(matrix).any():
        name = names[int(np.isinf(matrix).any(axis=0).argmax())]
        _refuse(part, name, part.frame[name].is_infinite(), "a number that is finite in 32 bits")
    return matrix


def converted(part: Part, kinds: Mapping[str, Kind]) -> Part:
    """Convert the columns of a part to their kinds.

    Raises:
        DataError: a value is not of its column's kind.
    """
    columns = []
    for name, kind in kinds.items():
        try:
            columns.append(_converted(part, name, kind))
        except pl.exceptions.PolarsError as error:
            dtype = part.frame[name].dtype
            raise DataError(f"column {name!r}: the type {dtype} cannot be {kind}") from error
    return Part(pl.DataFrame(columns), part.place)


def _converted(part: Part, name: str, kind: Kind) -> pl.Series:
    values = part.frame[name]
    if kind == "numeric":
        return _numeric(part, values)
    text = values.cast(pl.String)
    if values.dtype.is_float():
        text = text.str.strip_suffix(".0")  # the category 1, not 1.0
    text = with_nulls(text)
    if kind == "boolean":
        text = text.str.strip_chars().str.to_lowercase().replace({"0": "false", "1": "true"})
        _refuse(part, name, ~text.is_in(BOOLEANS), "true or false")
    return text


def _numeric(part: Part, values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        text = with_nulls(values.str.strip_chars())
        values = text.cast(pl.Float64, strict=False)
        _refuse(part, text.name, values.is_null() & text.is_not_null(), "a number")
    return values.cast(pl.Float32)


def kind_of_texts(texts: pl.Series) -> Kind:
    """Return the kind of a column by its first values."""
    values = with_nulls(texts).drop_nulls().str.strip_chars()
    if values.cast(pl.Float64, strict=False).null_count() == 0:
        return "numeric"
    if values.str.to_lowercase().is_in(BOOLEANS).all():
        return "boolean"
    return "categorical"


def with_nulls(text: pl.Series) -> pl.Series:
    """Replace what stands for a missing value, spaces around it or not."""
    return text.set(text.str.strip_chars().is_in(MISSING), None)


def _refuse(part: Part, name: str, wrong: pl.Series, expected: str) -> None:
    wrong = wrong.fill_null(False)
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise DataError(
            f"{part.place(row)}, column {name!r}: expected {expected}, "
            f"got {part.frame[name][row]!r}"
        )

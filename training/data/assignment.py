"""Assignment of rows to shares: by hash, by a column, by time, or by file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from training.data.choose import Choice, Chosen
from training.data.reading import Part, Source
from training.data.split import Hashes, Split
from training.errors import DataError

TRAIN, VALIDATION, HELD_OUT = range(3)
SHARES = ("train", "validation", "held_out")
WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing", "held out", "held_out", "held-out", "holdout"), HELD_OUT),
}
# Values of flag columns: `is_test` marks held-out rows; names with "train" mark training rows.
FLAGS = {"0": False, "false": False, "1": True, "true": True}
MAX_TIMES = 4_000_000

Shares = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Assignment(ABC):
    """Assigns rows to shares. `by` and `facts` are for the table's fingerprint."""

    split: Split

    by: ClassVar[str]

    @abstractmethod
    def shares(self, part: Part, keys: Hashes) -> Shares:
        """Return the share of each row of a part, given the rows' hashes.

        Raises:
            DataError: the split column has an unknown value.
        """

    def facts(self) -> dict[str, Any]:
        """Return what determines the held-out rows, besides the split's settings."""
        return {"split_by": self.by}

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read only for the split, and do not enter the row hashes."""
        return ()

    def _validation(self, keys: Hashes) -> Shares:
        """Choose validation rows among rows that are not held out."""
        return (self.split.uniform(keys) < self.split.validation).astype(np.int8)


class ByHash(Assignment):
    """Assigns rows by their hash."""

    by = "hash"

    def shares(self, part: Part, keys: Hashes) -> Shares:
        """Return the share of each row."""
        uniform, held_out = self.split.uniform(keys), self.split.held_out
        validation = held_out + (1 - held_out) * self.split.validation
        shares = np.where(uniform < validation, np.int8(VALIDATION), np.int8(TRAIN))
        shares[uniform < held_out] = HELD_OUT
        return shares


class ByFile(Assignment):
    """Holds out no rows of this table: another table has them."""

    by = "test data"

    def shares(self, part: Part, keys: Hashes) -> Shares:
        """Return the share of each row."""
        return self._validation(keys)


@dataclass(frozen=True)
class ByColumn(Assignment):
    """Assigns rows by a column; `has_validation` if it also names validation rows."""

    column: str
    has_validation: bool

    by = "column"

    def shares(self, part: Part, keys: Hashes) -> Shares:
        """Return the share of each row."""
        values = part.frame[self.column]
        shares = np.zeros(len(values), np.int8)
        for value in values.unique(maintain_order=True):
            rows = values.eq_missing(pl.Series([value], dtype=pl.String)).to_numpy()
            share = _share(self.column, value)
            place = f"{part.place(int(rows.argmax()))}, column {self.column!r}"
            if share is None:
                got = "nothing" if value is None else repr(value)
                raise DataError(
                    f"{place}: expected train, test or validation, got {got}; "
                    "to hold out the latest rows, use --split-time"
                )
            if share == VALIDATION and not self.split.validation:
                raise DataError(
                    f"{place}: {value!r} rows show when to stop early; give --early-stopping"
                )
            shares[rows] = share
        if self.has_validation or not self.split.validation:
            return shares
        return np.where(shares == TRAIN, self._validation(keys), shares)

    def facts(self) -> dict[str, Any]:
        """Return what says which rows are held out."""
        return {"split_by": self.by, "split_column": self.column}

    @property
    def columns(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)


@dataclass(frozen=True)
class ByTime(Assignment):
    """Holds out the latest rows: those from `start` on, in days or in the column's unit."""

    column: str
    start: float

    by = "time"

    def shares(self, part: Part, keys: Hashes) -> Shares:
        """Return the share of each row."""
        late = (part.frame[self.column] >= self.start).to_numpy()
        return np.where(late, np.int8(HELD_OUT), self._validation(keys))

    def facts(self) -> dict[str, Any]:
        """Return what says which rows are held out."""
        return {"split_by": self.by, "split_column": self.column, "split_start": self.start}

    @property
    def columns(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)


def assign(source: Source, choice: Choice, chosen: Chosen, split: Split) -> Assignment:
    """Return the assignment for a source.

    Raises:
        DataError: the column that decides cannot, or a stream would have to be read twice.
    """
    if source.test is not None:
        lacking = [name for name in chosen.parsers if name not in source.test.columns]
        if lacking:
            raise DataError(f"--test-data: {source.test.name} has no column {lacking[0]!r}")
        return ByFile(split)
    if choice.split_time is not None:
        start = _start(source, choice.split_time, chosen, split.held_out)
        return ByTime(split, choice.split_time, start)
    if choice.split_column is not None:
        named = bool(split.validation) and _names_validation(source, choice.split_column, chosen)
        return ByColumn(split, choice.split_column, named)
    return ByHash(split)


def _share(column: str, value: str | None) -> int | None:
    word = (value or "").lower()
    if word not in FLAGS:
        return WORDS.get(word)
    return TRAIN if FLAGS[word] == ("train" in column.lower()) else HELD_OUT


def _names_validation(source: Source, column: str, chosen: Chosen) -> bool:
    return any(
        _share(column, value) == VALIDATION
        for part in _column(source, column, chosen)
        for value in part.frame[column].unique()
    )


def _start(source: Source, column: str, chosen: Chosen, held_out: float) -> float:
    """Return the time from which rows are held out.

    With very many rows it is computed from every second one, every fourth, and so on.
    """
    times, rows, step = np.empty(0), 0, 1
    for part in _column(source, column, chosen):
        values = part.frame[column]
        wrong = values.is_null() | values.is_nan()
        if wrong.any():
            raise DataError(
                f"{part.place(int(wrong.arg_max() or 0))}, column {column!r}: expected a time for "
                "--split-time, found none"
            )
        times = np.append(times, values.to_numpy()[(-rows) % step :: step])
        rows += len(values)
        while len(times) > MAX_TIMES:
            times, step = times[::2], step * 2
    times.sort()
    start = float(times[min(int(len(times) * (1 - held_out)), len(times) - 1)])
    if start == times[0]:
        raise DataError(
            f"column {column!r}: --split-time cannot set the latest {held_out:g} of the rows "
            "apart: the earliest time has too many rows"
        )
    return start


def _column(source: Source, column: str, chosen: Chosen) -> Iterator[Part]:
    if not source.can_be_read_again:
        raise DataError(f"column {column!r} has to be read first: give the table as a file")
    return source.parts({column: chosen.parsers[column]})

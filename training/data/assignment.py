"""Assignment of rows to subsets: by hash, by a column, by time, or by file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from training.data.choose import Choice, Selection
from training.data.reading import RecordBatch, Source
from training.data.split import Hashes, Split
from training.errors import DataError

TRAIN, VALIDATION, HELD_OUT = range(3)
SUBSETS = ("train", "validation", "held_out")
SUBSET_ALIASES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing", "held out", "held_out", "held-out", "holdout"), HELD_OUT),
}
# Values of flag columns: `is_test` marks held-out rows; names with "train" mark training rows.
FLAGS = {"0": False, "false": False, "1": True, "true": True}
MAX_TIMES = 4_000_000

Subsets = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Assignment(ABC):
    """Assigns rows to subsets.

    Attributes:
        split: the split's settings.
        method: the assignment's name in the table's fingerprint.
        advice: what to do if a subset lacks a class.
    """

    split: Split

    method: ClassVar[str]
    advice: ClassVar[str] = "add rows"

    @abstractmethod
    def assign(self, batch: RecordBatch, keys: Hashes) -> Subsets:
        """Return the subset of each row of a batch, given the rows' hashes.

        Raises:
            DataError: the split column has an unknown value.
        """

    def fingerprint(self) -> dict[str, Any]:
        """Return the entries that determine the held-out rows besides the split's settings."""
        return {"split_by": self.method}

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read only for the split and do not enter the row hashes."""
        return ()

    def _choose_validation(self, keys: Hashes) -> Subsets:
        """Return `VALIDATION` or `TRAIN` for each row, as if none were held out."""
        return (self.split.uniform(keys) < self.split.validation).astype(np.int8)


class ByHash(Assignment):
    """Assigns rows by their hashes."""

    method = "hash"
    advice = "add rows, or change --seed or --held-out"

    def assign(self, batch: RecordBatch, keys: Hashes) -> Subsets:
        """Return the subset of each row."""
        uniform, held_out = self.split.uniform(keys), self.split.held_out
        validation = held_out + (1 - held_out) * self.split.validation
        subsets = np.where(uniform < validation, np.int8(VALIDATION), np.int8(TRAIN))
        subsets[uniform < held_out] = HELD_OUT
        return subsets


class ByFile(Assignment):
    """Holds out no rows of this table; all rows of another table are held out."""

    method = "test data"

    def assign(self, batch: RecordBatch, keys: Hashes) -> Subsets:
        """Return the subset of each row."""
        return self._choose_validation(keys)


@dataclass(frozen=True)
class ByColumn(Assignment):
    """Assigns rows by a column; `has_validation` is whether it names validation rows."""

    column: str
    has_validation: bool

    method = "column"

    def assign(self, batch: RecordBatch, keys: Hashes) -> Subsets:
        """Return the subset of each row."""
        values = batch.frame[self.column]
        subsets = np.zeros(len(values), np.int8)
        for value in values.unique(maintain_order=True):
            rows = values.eq_missing(pl.Series([value], dtype=pl.String)).to_numpy()
            subset = _parse_subset(self.column, value)
            location = f"{batch.location(int(rows.argmax()))}, column {self.column!r}"
            if subset is None:
                got = "nothing" if value is None else repr(value)
                raise DataError(
                    f"{location}: expected train, test or validation, got {got}; "
                    "to hold out the latest rows, use --split-time"
                )
            if subset == VALIDATION and not self.split.validation:
                raise DataError(
                    f"{location}: {value!r} rows are for early stopping; add --early-stopping"
                )
            subsets[rows] = subset
        if self.has_validation or not self.split.validation:
            return subsets
        return np.where(subsets == TRAIN, self._choose_validation(keys), subsets)

    def fingerprint(self) -> dict[str, Any]:
        """Return the entries that determine the held-out rows."""
        return {"split_by": self.method, "split_column": self.column}

    @property
    def columns(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)


@dataclass(frozen=True)
class ByTime(Assignment):
    """Holds out the rows from time `start` on, in days or in the column's unit."""

    column: str
    start: float

    method = "time"
    advice = "add rows, or change --held-out"

    def assign(self, batch: RecordBatch, keys: Hashes) -> Subsets:
        """Return the subset of each row."""
        late = (batch.frame[self.column] >= self.start).to_numpy()
        return np.where(late, np.int8(HELD_OUT), self._choose_validation(keys))

    def fingerprint(self) -> dict[str, Any]:
        """Return the entries that determine the held-out rows."""
        return {"split_by": self.method, "split_column": self.column, "split_start": self.start}

    @property
    def columns(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)


def choose_assignment(
    source: Source, choice: Choice, selection: Selection, split: Split
) -> Assignment:
    """Return the assignment for a source.

    Raises:
        DataError: the split column is unsuitable, or a stream would have to be read twice.
    """
    if source.test is not None:
        missing = [name for name in selection.parsers if name not in source.test.columns]
        if missing:
            raise DataError(f"--test-data: {source.test.name} has no column {missing[0]!r}")
        return ByFile(split)
    if choice.split_time is not None:
        start = _find_start(source, choice.split_time, selection, split.held_out)
        return ByTime(split, choice.split_time, start)
    if choice.split_column is not None:
        has_validation = bool(split.validation) and _has_validation_rows(
            source, choice.split_column, selection
        )
        return ByColumn(split, choice.split_column, has_validation)
    return ByHash(split)


def _parse_subset(column: str, value: str | None) -> int | None:
    word = (value or "").lower()
    if word not in FLAGS:
        return SUBSET_ALIASES.get(word)
    return TRAIN if FLAGS[word] == ("train" in column.lower()) else HELD_OUT


def _has_validation_rows(source: Source, column: str, selection: Selection) -> bool:
    return any(
        _parse_subset(column, value) == VALIDATION
        for batch in _read_column(source, column, selection)
        for value in batch.frame[column].unique()
    )


def _find_start(source: Source, column: str, selection: Selection, held_out: float) -> float:
    """Return the time from which rows are held out.

    Beyond `MAX_TIMES` rows, it is computed from every second row, every fourth, and so on.
    """
    times, rows, step = np.empty(0), 0, 1
    for batch in _read_column(source, column, selection):
        values = batch.frame[column]
        missing = values.is_null() | values.is_nan()
        if missing.any():
            location = batch.location(int(missing.arg_max() or 0))
            raise DataError(
                f"{location}, column {column!r}: expected a time for --split-time, found none"
            )
        times = np.append(times, values.to_numpy()[(-rows) % step :: step])
        rows += len(values)
        while len(times) > MAX_TIMES:
            times, step = times[::2], step * 2
    times.sort()
    start = float(times[min(int(len(times) * (1 - held_out)), len(times) - 1)])
    if start == times[0]:
        raise DataError(
            f"column {column!r}: --split-time cannot hold out the latest {held_out:g} of the rows: "
            "the earliest time has too many rows"
        )
    return start


def _read_column(source: Source, column: str, selection: Selection) -> Iterator[RecordBatch]:
    if not source.can_be_read_again:
        raise DataError(
            f"column {column!r} must be read before the other columns: give the table as a file"
        )
    return source.batches({column: selection.parsers[column]})

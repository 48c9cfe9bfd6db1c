"""Conversion of batches to arrays; stateless, so that another thread can prepare them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from training.data.reading import RecordBatch
from training.data.split import Hashes, RowHasher, hash_texts
from training.errors import DataError
from training.features.cells import CellParser
from training.features.date import DAY_MICROSECONDS

MAX_MAGNITUDE = 1e130  # keeps sums of weighted squares within float64
MAX_WEIGHT = 1e30  # keeps sums of weights within float32


class WidenError(Exception):
    """Columns need 64 bits, although their first rows did not."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.names = list(names)


@dataclass(frozen=True)
class Texts:
    """A dictionary-encoded column of text.

    Attributes:
        values: the distinct values, in order of appearance.
        codes: int32 `[rows]`, index of each cell's value, −1 where missing.
    """

    values: list[str]
    codes: npt.NDArray[np.int32]

    @classmethod
    def of(cls, cells: pl.Series) -> Texts:
        """Encode a column of texts."""
        values = cells.unique(maintain_order=True).drop_nulls()
        codes = pl.Series(range(len(values)), dtype=pl.Int32)
        encoded = cells.replace_strict(values, codes, default=-1, return_dtype=pl.Int32)
        return cls(values.to_list(), encoded.to_numpy())

    def hashes(self) -> Hashes:
        """Return a hash of each cell."""
        return hash_texts(self.values)[self.codes]


@dataclass(frozen=True)
class Roles:
    """The roles of columns.

    Attributes:
        numbers: columns stored as float32.
        wide: columns stored as float64.
        categories: columns stored as codes of texts.
        dates: the columns of `wide` that are dates.
        label: the column to predict.
        weight: the column of row weights, if there is one.
    """

    numbers: tuple[str, ...]
    wide: tuple[str, ...]
    categories: tuple[str, ...]
    dates: frozenset[str]
    label: str
    weight: str | None

    @classmethod
    def of(cls, parsers: Mapping[str, CellParser], label: str, weight: str | None) -> Roles:
        """Group columns by how their values are stored."""
        numbers = [n for n, p in parsers.items() if p.column_type.is_number]
        return cls(
            tuple(name for name in numbers if not parsers[name].wide),
            tuple(name for name in numbers if parsers[name].wide),
            tuple(name for name in parsers if name not in numbers),
            frozenset(name for name in numbers if parsers[name].kind == "date"),
            label,
            weight,
        )


@dataclass(frozen=True)
class PreparedBatch:
    """A batch as arrays.

    Attributes:
        batch: the batch as read.
        numbers, wide, weight, key: as in `Rows`.
        texts: the columns of `Roles.categories`.
        label: the label column, without missing values.
        bounds: minimum and maximum of each column of `numbers`, `[2, columns]`; NaN if a value is
            missing.
        lossy: for each column of `numbers`, whether float32 rounds a value.
        spans: float64 minimum and maximum of each column of `numbers` that is constant in
            float32.
    """

    batch: RecordBatch
    numbers: npt.NDArray[np.float32]
    wide: npt.NDArray[np.float64]
    texts: list[Texts]
    label: Texts
    weight: npt.NDArray[np.float32]
    key: Hashes
    bounds: npt.NDArray[np.float64]
    lossy: npt.NDArray[np.bool_]
    spans: dict[str, tuple[float, float]]


def prepare(batch: RecordBatch, roles: Roles) -> PreparedBatch:
    """Convert a batch to arrays.

    Raises:
        DataError: a number is not finite, a label is missing, or a weight is invalid.
        WidenError: a number overflows float32.
    """
    frame = batch.frame
    hasher = RowHasher(len(frame))
    numbers = np.empty((len(frame), len(roles.numbers)), np.float32)
    wide = np.empty((len(frame), len(roles.wide)), np.float64)
    bounds = np.empty((2, len(roles.numbers)))
    lossy = np.zeros(len(roles.numbers), np.bool_)
    spans = {}
    for position, name in enumerate(roles.numbers):
        values, bounds[:, position] = _read_numbers(batch, name)
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32, copy=False)
        numbers[:, position] = narrow
        if values.dtype == np.float64 and len(values):
            lossy[position] = _is_rounded(narrow, values)
            if np.fmin.reduce(narrow) == np.fmax.reduce(narrow):  # False if all are missing
                spans[name] = (float(np.fmin.reduce(values)), float(np.fmax.reduce(values)))
        hasher.add_numbers(name, values)
    infinite = np.isinf(numbers)
    if infinite.any():
        columns: list[bool] = np.any(infinite, axis=0).tolist()
        raise WidenError(list(compress(roles.numbers, columns)))
    for position, name in enumerate(roles.wide):
        wide[:, position], _ = _read_numbers(batch, name)
        values = wide[:, position]
        is_date = name in roles.dates
        hasher.add_numbers(name, np.rint(values * DAY_MICROSECONDS) if is_date else values)
    texts = [Texts.of(frame[name]) for name in roles.categories]
    label = Texts.of(_read_label(batch, roles.label))
    for name, cells in zip(roles.categories, texts, strict=True):
        hasher.add_texts(name, cells.hashes())
    hasher.add_texts(roles.label, label.hashes())
    # The weight is not hashed: changing it must not move a row to another subset.
    weight = _read_weights(batch, roles.weight)
    return PreparedBatch(
        batch, numbers, wide, texts, label, weight, hasher.keys(), bounds, lossy, spans
    )


def prepare_ahead(batches: Iterable[RecordBatch], roles: Roles) -> Iterator[PreparedBatch]:
    """Yield prepared batches, while a thread prepares the next one.

    Raises:
        DataError, WidenError: as in `prepare` and `batches`, for the first invalid batch.
    """
    pending: deque[Future[PreparedBatch]] = deque()
    failure: DataError | None = None
    remaining = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        while failure is None:
            try:
                pending.append(pool.submit(prepare, next(remaining), roles))
            except StopIteration:
                break
            except DataError as error:
                failure = error
            if len(pending) > 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    if failure is not None:
        raise failure


def _is_rounded(narrow: npt.NDArray[np.float32], values: npt.NDArray[np.float64]) -> bool:
    differs = narrow != values
    return bool(differs.any() and (differs & ~np.isnan(values)).any())


def _read_numbers(batch: RecordBatch, name: str) -> tuple[npt.NDArray[Any], tuple[float, float]]:
    """Return a column of numbers `[rows]`, NaN where missing, and its minimum and maximum.

    Raises:
        DataError: a number exceeds `MAX_MAGNITUDE`.
    """
    cells = batch.frame[name]
    values = cells.fill_null(float("nan")).to_numpy() if cells.null_count() else cells.to_numpy()
    with np.errstate(invalid="ignore"):
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    in_range = low >= -MAX_MAGNITUDE and high <= MAX_MAGNITUDE  # False with a NaN
    if not in_range and (too_large := np.abs(values) > np.float64(MAX_MAGNITUDE)).any():
        row = int(too_large.argmax())
        raise DataError(
            f"{batch.location(row)}, column {name!r}: expected a number between "
            f"-{MAX_MAGNITUDE:g} and {MAX_MAGNITUDE:g}, got {batch.as_written(row, name)}"
        )
    return values, (low, high)


def _read_label(batch: RecordBatch, name: str) -> pl.Series:
    values = batch.frame[name]
    if values.null_count():
        row = int(values.is_null().arg_max() or 0)
        raise DataError(f"{batch.location(row)}, column {name!r}: expected a label, found none")
    return values


def _read_weights(batch: RecordBatch, name: str | None) -> npt.NDArray[np.float32]:
    if name is None:
        return np.ones(len(batch.frame), np.float32)
    values = batch.frame[name]
    valid = (values == 0) | values.is_between(1 / MAX_WEIGHT, MAX_WEIGHT)
    invalid = ~valid.fill_null(False)
    if invalid.any():
        row = int(invalid.arg_max() or 0)
        raise DataError(
            f"{batch.location(row)}, column {name!r}: expected a weight of 0, or "
            f"from {1 / MAX_WEIGHT:g} to {MAX_WEIGHT:g}, "
            f"got {'nothing' if values[row] is None else batch.as_written(row, name)}"
        )
    return values.cast(pl.Float32).to_numpy()

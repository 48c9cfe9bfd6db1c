"""Turn parts of files into arrays; without state, so that threads can prepare several parts."""

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

from training.data.reading import Part
from training.data.split import Hashes, RowHasher, text_hashes
from training.errors import DataError
from training.features.cells import CellParser
from training.features.date import DAY_MICROSECONDS

MAX_MAGNITUDE = 1e150  # the square of a larger number is beyond float64
MAX_WEIGHT = 1e30  # sums of weights stay within float32


class WidenError(Exception):
    """Columns need 64 bits, although the first rows did not."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.names = list(names)


@dataclass(frozen=True)
class Texts:
    """A column of texts.

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
        return text_hashes(self.values)[self.codes]


@dataclass(frozen=True)
class Roles:
    """The roles of columns.

    Attributes:
        numbers: columns stored as float32.
        wide: columns stored as float64.
        others: columns stored as codes of texts.
        dates: the columns of `wide` that are dates.
        label: the column to predict.
        weight: the column with the rows' weights, if there is one.
    """

    numbers: tuple[str, ...]
    wide: tuple[str, ...]
    others: tuple[str, ...]
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
class Prepared:
    """A part as arrays.

    Attributes:
        part: the part, for messages.
        numbers, wide, weight, key: as in `Rows`.
        texts: the texts of each column that is not numeric.
        label: the label column, without missing values.
        bounds: minimum and maximum of each column of `numbers`, `[2, columns]`; NaN if a value is
            missing.
        lossy: for each column of `numbers`, whether float32 rounds a value.
        spans: minimum and maximum of each column of `numbers` that is constant in float32.
    """

    part: Part
    numbers: npt.NDArray[np.float32]
    wide: npt.NDArray[np.float64]
    texts: list[Texts]
    label: Texts
    weight: npt.NDArray[np.float32]
    key: Hashes
    bounds: npt.NDArray[np.float64]
    lossy: npt.NDArray[np.bool_]
    spans: dict[str, tuple[float, float]]


def prepare(part: Part, roles: Roles) -> Prepared:
    """Turn a part into arrays.

    Raises:
        DataError: a number is not finite, a label is missing, or a weight is invalid.
        WidenError: a number overflows float32.
    """
    frame = part.frame
    hasher = RowHasher(len(frame))
    numbers = np.empty((len(frame), len(roles.numbers)), np.float32)
    wide = np.empty((len(frame), len(roles.wide)), np.float64)
    bounds = np.empty((2, len(roles.numbers)))
    lossy = np.zeros(len(roles.numbers), np.bool_)
    spans = {}
    for position, name in enumerate(roles.numbers):
        values, bounds[:, position] = _finite(part, name)
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32, copy=False)
        numbers[:, position] = narrow
        if values.dtype == np.float64 and len(values):
            lossy[position] = _differs(narrow, values)
            if np.fmin.reduce(narrow) == np.fmax.reduce(narrow):  # False if all are missing
                spans[name] = (float(np.fmin.reduce(values)), float(np.fmax.reduce(values)))
        hasher.add_numbers(name, values)
    infinite = np.isinf(numbers)
    if infinite.any():
        columns: list[bool] = np.any(infinite, axis=0).tolist()
        raise WidenError(list(compress(roles.numbers, columns)))
    for position, name in enumerate(roles.wide):
        wide[:, position], _ = _finite(part, name)
        exact = np.rint(wide[:, position] * DAY_MICROSECONDS) if name in roles.dates else None
        hasher.add_numbers(name, wide[:, position] if exact is None else exact)
    texts = [Texts.of(frame[name]) for name in roles.others]
    label = Texts.of(_label(part, roles.label))
    for name, cells in zip(roles.others, texts, strict=True):
        hasher.add_texts(name, cells.hashes())
    hasher.add_texts(roles.label, label.hashes())
    # The weight is not hashed: changing it must not move a row to another share.
    weight = _weights(part, roles.weight)
    return Prepared(part, numbers, wide, texts, label, weight, hasher.keys(), bounds, lossy, spans)


def prepare_ahead(parts: Iterable[Part], roles: Roles) -> Iterator[Prepared]:
    """Yield each part as arrays; a thread prepares the next one meanwhile.

    Raises:
        DataError, WidenError: as in `prepare` and `parts`, for the first invalid part.
    """
    pending: deque[Future[Prepared]] = deque()
    failure: DataError | None = None
    remaining = iter(parts)
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


def _differs(narrow: npt.NDArray[np.float32], values: npt.NDArray[np.float64]) -> bool:
    different = narrow != values
    return bool(different.any() and (different & ~np.isnan(values)).any())


def _finite(part: Part, name: str) -> tuple[npt.NDArray[Any], tuple[float, float]]:
    """Return a column of numbers `[rows]`, NaN where missing, and its minimum and maximum.

    Raises:
        DataError: a number is infinite, or its square would be.
    """
    cells = part.frame[name]
    values = cells.fill_null(float("nan")).to_numpy() if cells.null_count() else cells.to_numpy()
    with np.errstate(invalid="ignore"):
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    in_range = low >= -MAX_MAGNITUDE and high <= MAX_MAGNITUDE  # False with a NaN
    if not in_range and (wrong := np.abs(values) > np.float64(MAX_MAGNITUDE)).any():
        row = int(wrong.argmax())
        raise DataError(
            f"{part.place(row)}, column {name!r}: expected a number between -{MAX_MAGNITUDE:g} and "
            f"{MAX_MAGNITUDE:g}, got {part.as_written(row, name)}"
        )
    return values, (low, high)


def _label(part: Part, name: str) -> pl.Series:
    values = part.frame[name]
    if values.null_count():
        row = int(values.is_null().arg_max() or 0)
        raise DataError(f"{part.place(row)}, column {name!r}: expected a label, found none")
    return values


def _weights(part: Part, name: str | None) -> npt.NDArray[np.float32]:
    if name is None:
        return np.ones(len(part.frame), np.float32)
    values = part.frame[name]
    valid = (values == 0) | values.is_between(1 / MAX_WEIGHT, MAX_WEIGHT)
    wrong = ~valid.fill_null(False)
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise DataError(
            f"{part.place(row)}, column {name!r}: expected a weight of 0, or "
            f"from {1 / MAX_WEIGHT:g} to {MAX_WEIGHT:g}, "
            f"got {'nothing' if values[row] is None else part.as_written(row, name)}"
        )
    return values.cast(pl.Float32).to_numpy()

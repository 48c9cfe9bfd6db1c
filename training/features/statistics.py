"""What is learned of the columns while their rows go by, a part at a time.

Sums can be merged, so that several workers who each see some of the rows learn the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from training.data.reading import Kind
from training.data.row_store import Rows
from training.errors import DataError
from training.features.columns import FALSE_TRUE, MAX_VOCABULARY, Column, Floats

CLASSES = 2
MAX_VALUES = 1_000_000
ROWS_AT_A_TIME = 4096


class NumericStatistics:
    """Weighted moments of the numeric columns, of each class."""

    def __init__(self, columns: int) -> None:
        self.weight = np.zeros((CLASSES, columns))
        self.mean = np.zeros((CLASSES, columns))
        self.squares = np.zeros((CLASSES, columns))  # of the deviations from the mean
        self.minimum = np.full(columns, np.inf)
        self.maximum = np.full(columns, -np.inf)
        self.missing = np.zeros(columns, np.int64)

    def add(self, rows: Rows) -> None:
        """Take in some rows, a few at a time so that they stay in the processor's cache."""
        for start in range(0, len(rows), ROWS_AT_A_TIME):
            some = slice(start, start + ROWS_AT_A_TIME)
            self._add(rows.numbers[some], rows.label[some], rows.weight[some])

    def _add(
        self,
        numbers: npt.NDArray[np.float32],
        label: npt.NDArray[np.int32],
        row_weight: npt.NDArray[np.float32],
    ) -> None:
        of_class = np.zeros((CLASSES, len(label)))
        of_class[label, np.arange(len(label))] = row_weight
        weight = np.repeat(of_class.sum(axis=1)[:, np.newaxis], numbers.shape[1], axis=1)
        minimum, maximum = numbers.min(axis=0), numbers.max(axis=0)
        values = numbers.astype(np.float64)
        absent = None
        if np.isnan(minimum).any():  # as numpy has it, if a value is missing
            absent = np.isnan(numbers)
            self.missing += absent.sum(axis=0)
            weight = of_class @ ~absent
            minimum, maximum = np.fmin.reduce(numbers), np.fmax.reduce(numbers)
            values[absent] = 0.0
        total = weight.sum(axis=0)
        center = np.divide((of_class @ values).sum(axis=0), total, where=total > 0, out=total * 0)
        values -= center
        if absent is not None:
            values[absent] = 0.0
        summed = of_class @ values
        offset = np.divide(summed, weight, where=weight > 0, out=np.zeros_like(summed))
        squares = of_class @ np.square(values, out=values) - offset**2 * weight
        for number in range(CLASSES):
            self._merge(number, weight[number], center + offset[number], squares[number])
        self.minimum = np.fmin(self.minimum, minimum)
        self.maximum = np.fmax(self.maximum, maximum)

    def _merge(self, number: int, weight: Floats, mean: Floats, squares: Floats) -> None:
        """Chan, Golub and LeVeque (1979), Updating formulae, equation 2.1."""
        before, after = self.weight[number], self.weight[number] + weight
        share = np.divide(weight, after, out=np.zeros_like(after), where=after > 0)
        step = mean - self.mean[number]
        self.mean[number] += step * share
        self.squares[number] += squares + step**2 * before * share
        self.weight[number] = after

    def merge(self, other: NumericStatistics) -> None:
        """Take in what another worker has seen."""
        for number in range(CLASSES):
            self._merge(number, other.weight[number], other.mean[number], other.squares[number])
        self.minimum = np.fmin(self.minimum, other.minimum)
        self.maximum = np.fmax(self.maximum, other.maximum)
        self.missing += other.missing

    def column(self, position: int, name: str) -> Column:
        """Return what was learned of the column at a position."""
        weight, mean = self.weight[:, position], self.mean[:, position]
        total = weight.sum()
        if total == 0:  # all missing
            return Column(name, "numeric", missing=True)
        overall = float(weight @ mean / total)
        variance = (self.squares[:, position].sum() + weight @ (mean - overall) ** 2) / total
        # A deviation of rounding errors only is that of a constant.
        constant = np.sqrt(variance) <= 1e-7 * max(abs(overall), 1e-30)
        return Column(
            name,
            "numeric",
            missing=bool(self.missing[position]),
            mean=overall,
            deviation=1.0 if constant else float(np.sqrt(variance)),
            minimum=float(self.minimum[position]),
            maximum=float(self.maximum[position]),
            class_means=tuple(np.where(weight > 0, mean, overall).tolist()),
        )

    def as_json(self) -> dict[str, Any]:
        """Return it for another worker."""
        return {name: values.tolist() for name, values in vars(self).items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> NumericStatistics:
        """Read what `as_json` gave."""
        statistics = cls(0)
        for name, values in stored.items():
            dtype = np.int64 if name == "missing" else np.float64
            shape = (CLASSES, -1) if name in ("weight", "mean", "squares") else (-1,)
            setattr(statistics, name, np.asarray(values, dtype).reshape(shape))
        return statistics


@dataclass
class CategoryStatistics:
    """How often each value of a column that is not numeric was seen, in each class.

    Attributes:
        codes: the number of each value, in order of appearance.
        weights: summed weight of the training rows, `[values][classes]`.
        missing: training rows without a value.
    """

    codes: dict[str, int] = field(default_factory=dict)
    weights: Floats = field(default_factory=lambda: np.zeros((0, CLASSES)))
    missing: int = 0

    def encode(self, values: pl.Series) -> npt.NDArray[np.int32]:
        """Return the number of each value, new numbers for new ones, −1 for a missing one.

        Raises:
            DataError: there are too many different values.
        """
        seen = values.unique(maintain_order=True).drop_nulls()
        for value in seen:
            self.codes.setdefault(value, len(self.codes))
        if len(self.codes) > MAX_VALUES:
            raise DataError(
                f"column {values.name!r} has more than {MAX_VALUES:,} different values; "
                f"--leave-out '{values.name}' leaves it out"
            )
        numbers = [self.codes[value] for value in seen]
        mapped = values.replace_strict(seen, numbers, default=-1, return_dtype=pl.Int32)
        return mapped.to_numpy()

    def add(self, codes: npt.NDArray[np.int32], label: npt.NDArray[np.int32], weight: Any) -> None:
        """Take in the codes, labels and weights of training rows."""
        cells = (codes.astype(np.int64) + 1) * CLASSES + label
        counted = np.bincount(cells, weight, (len(self.codes) + 1) * CLASSES).astype(np.float64)
        grown = counted.reshape(-1, CLASSES)[1:]
        grown[: len(self.weights)] += self.weights
        self.weights = grown
        self.missing += int((codes < 0).sum())

    def merge(self, other: CategoryStatistics) -> None:
        """Take in what another worker has seen; own codes stay."""
        for value in other.codes:
            self.codes.setdefault(value, len(self.codes))
        grown = np.zeros((len(self.codes), CLASSES))
        grown[: len(self.weights)] = self.weights
        for value, weights in zip(other.codes, other.weights, strict=False):
            grown[self.codes[value]] += weights
        self.weights = grown
        self.missing += other.missing

    def column(self, name: str, kind: Kind, rows: int) -> Column:
        """Return what was learned of the column.

        Args:
            name: of the column.
            kind: categorical or boolean.
            rows: how many training rows there are.

        Raises:
            DataError: nearly every row has a value of its own, so nothing can be learned of them.
        """
        missing = self.missing > 0
        if kind == "boolean" and not missing:
            vocabulary: tuple[str, ...] = FALSE_TRUE
        else:
            total = dict(zip(self.codes, self.weights.sum(axis=1).tolist(), strict=False))
            seen = sorted((v for v in total if total[v] > 0), key=lambda v: (-total[v], v))
            if len(seen) > max(MAX_VOCABULARY, rows / 2):
                raise DataError(
                    f"column {name!r} has {len(seen):,} different values in {rows:,} rows, like an "
                    f"identifier; --leave-out '{name}' leaves it out"
                )
            vocabulary = tuple(seen[:MAX_VOCABULARY])
            kind = "categorical"
        counts = np.array([self._weights_of(value) for value in vocabulary]).reshape(-1, CLASSES)
        modes = counts.argmax(axis=0).tolist() if len(counts) else [-1, -1]
        return Column(
            name, kind, missing=missing, vocabulary=vocabulary, class_modes=(modes[0], modes[1])
        )

    def indices(self, column: Column) -> npt.NDArray[np.int32]:
        """Return what `columns.encode` takes for each code, for −1 first."""
        places = {value: place for place, value in enumerate(column.vocabulary)}
        unknown = len(places)
        # Missing values of a boolean column in which none was in training are false when served.
        missing = places["false"] if column.kind == "boolean" else unknown + 1
        return np.array([missing, *(places.get(v, unknown) for v in self.codes)], np.int32)

    def as_json(self) -> dict[str, Any]:
        """Return it for another worker."""
        return {
            "codes": self.codes,
            "weights": self.weights.tolist(),
            "missing": self.missing,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> CategoryStatistics:
        """Read what `as_json` gave."""
        weights = np.asarray(stored["weights"], np.float64).reshape(-1, CLASSES)
        return cls(dict(stored["codes"]), weights, stored["missing"])

    def _weights_of(self, value: str) -> Sequence[float]:
        code = self.codes.get(value, -1)
        known = 0 <= code < len(self.weights)
        return self.weights[code].tolist() if known else [0.0] * CLASSES

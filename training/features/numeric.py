"""Numbers: parsing, statistics, standardisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import tensorflow as tf

from training.features.cells import CellFormat, CellParser, Kind, is_text
from training.features.columns import Column, Floats

CLASSES = 2
ROWS_AT_A_TIME = 4096
# A dtype resolves a column if its spacing is at most this fraction of the standard deviation.
RESOLUTION = 1e-4
COMMA_SEPARATORS = ("", ",")  # files with these rarely have decimal commas
COMMA_NUMBER = r"^[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?$"
MAYBE_THOUSANDS = r"^[-+]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d{1,3})$"
# As numbers, postal codes and the like would lose these zeros.
LEADING_ZERO = r"^[-+]?0\d+$"
NUMBER_WITH_UNIT = r"^[-+]?\d+(?:[.,]\d+)?\s?([\p{Alphabetic}°µ/²³]{1,6})$"
# With thousands separators, currency or percent signs.
DECORATED_NUMBER = (
    r"^[(]?\s?[$€£¥₹]?\s?[-+]?[$€£¥₹]?\s?"
    r"(?:\d{1,3}(?:[.,'’\s\x{00a0}]\d{3})+|\d+)(?:[.,]\d+)?\s?[%‰$€£¥₹]?[)]?$"
)


@dataclass(frozen=True)
class NumericParser(CellParser):
    """Parses numbers; `double` if 32 bits do not resolve them."""

    decimal: str = "."
    double: bool = False

    kind: ClassVar[Kind] = "numeric"
    expected: ClassVar[str] = "a number"

    @property
    def wide(self) -> bool:
        """Whether the column's numbers need 64 bits."""
        return self.double

    @property
    def dtype(self) -> type[pl.DataType]:
        """The polars dtype for parsing a CSV field; polars reads only decimal points."""
        return pl.Float64 if self.decimal == "." else pl.String

    @classmethod
    def accepts(cls, dtype: pl.DataType) -> bool:
        """Return whether values of a dtype other than text are of this kind."""
        return dtype.is_numeric() or dtype == pl.Null

    @classmethod
    def detect(cls, text: pl.Series, cell_format: CellFormat, separator: str) -> CellParser | None:
        """Return a parser if all texts are numbers."""
        comma = cls(cell_format, ",")
        if cell_format.decimal == "," and comma.parse(text).null_count() == 0:
            return comma
        plain = cls(cell_format)
        if plain.parse(text).null_count() == 0:
            return plain
        if separator in COMMA_SEPARATORS or cell_format.decimal:
            return None
        if comma.parse(text).null_count() or text.str.contains(MAYBE_THOUSANDS).all():
            return None  # 1,234 may be 1.234 or 1234
        return comma

    def parse(self, values: pl.Series) -> pl.Series:
        """Return Float64, or Float32 if the values are."""
        if values.dtype == pl.Float32:
            return values
        if not is_text(values.dtype):
            return values.cast(pl.Float64)
        text = self.trim(values)
        if self.decimal == ",":
            text = text.set(~text.str.contains(COMMA_NUMBER), None).str.replace(",", ".")
        return text.cast(pl.Float64, strict=False)

    def advice(self, name: str, value: object) -> str:
        """Return advice on reading a value that is not a number."""
        hint = ""
        if pl.Series([str(value)]).str.contains(DECORATED_NUMBER)[0]:
            if self.decimal == "." and "," in str(value):
                hint = "--decimal , if its comma is a decimal point, "
            else:
                hint = "write numbers without thousands separators, currency and percent signs, "
        return hint + super().advice(name, value)


def resolves(dtype: Any, mean: float, deviation: float) -> bool:
    """Return whether a dtype's spacing is small compared with a column's deviation."""
    with np.errstate(over="ignore"):
        magnitude = dtype(np.hypot(mean, deviation))
    return bool(np.isfinite(magnitude) and np.spacing(magnitude) <= RESOLUTION * deviation)


@dataclass(frozen=True)
class NumericColumn(Column):
    """A column of numbers; `double` if its input is float64."""

    double: bool = False

    kind: ClassVar[Kind] = "numeric"
    is_number: ClassVar[bool] = True

    @property
    def dtype(self) -> Any:
        """The type of the signature's input; NaN means missing."""
        return tf.float64 if self.double else tf.float32

    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the column's features."""
        missing = (f"{self.name} is missing",) if self.missing else ()
        return (self.name, *missing)

    def reader(self) -> tf.Module:
        """Return the graph function from served values to cells: the identity."""
        return _Number()

    def input_values(self, cells: pl.Series) -> npt.NDArray[Any]:
        """Return parsed cells as values of the signature's input."""
        dtype = pl.Float64 if self.double else pl.Float32
        return cells.cast(dtype).fill_null(float("nan")).to_numpy()

    def json_values(self, cells: pl.Series) -> list[Any]:
        """Return numbers."""
        return cells.fill_nan(None).to_list()

    def typical_cells(self) -> pl.Series:
        """Return the mean of each class."""
        return pl.Series(self.class_means, dtype=pl.Float64 if self.double else pl.Float32)

    @property
    def example_default(self) -> Any:
        """The value for a `tf.Example` without the column; None if it is required."""
        return float("nan") if self.missing else None

    @property
    def example_dtype(self) -> Any:
        """The type of the column in a `tf.Example`, which has no float64."""
        return tf.float32


class _Number(tf.Module):
    def __call__(self, values: Any) -> Any:
        return values


def encode_numbers(
    columns: Sequence[Column], numbers: Any, dtype: Any, complete: bool
) -> list[Any]:
    """Turn numbers into features: (value − mean) / deviation, 0 where missing, then flags.

    Columns have one dtype; numbers are `[rows, columns]`, NaN where missing. `complete` means that
    none is missing.
    """
    # Use float64: for values like years or pressures, float32 loses the digits of the deviation.
    mean = tf.constant([c.mean for c in columns], tf.float64)
    factor = tf.constant([1 / c.deviation for c in columns], tf.float64)
    scaled = tf.cast((tf.cast(numbers, tf.float64) - mean) * factor, dtype)
    if complete:
        return [scaled]
    is_missing = tf.math.is_nan(numbers)
    parts = [tf.where(is_missing, tf.zeros([], dtype), scaled)]
    may_be_missing = [i for i, c in enumerate(columns) if c.missing]
    if may_be_missing:
        parts.append(tf.cast(tf.gather(is_missing, may_be_missing, axis=1), dtype))
    return parts


class NumberStatistics:
    """Weighted moments of several numeric columns, for each class."""

    def __init__(self, columns: int) -> None:
        self.weight = np.zeros((CLASSES, columns))
        self.mean = np.zeros((CLASSES, columns))
        self.squares = np.zeros((CLASSES, columns))  # summed squares of deviations from the mean
        self.minimum = np.full(columns, np.inf)
        self.maximum = np.full(columns, -np.inf)
        self.missing = np.zeros(columns, np.int64)

    def add(
        self,
        numbers: npt.NDArray[Any],
        label: npt.NDArray[np.int32],
        weight: npt.NDArray[np.float32],
        bounds: Floats | None = None,
    ) -> None:
        """Add rows `[rows, columns]`, in chunks that fit into the CPU cache.

        Bounds are minimum and maximum of each column, `[2, columns]`, NaN if a value is missing.
        They may cover more rows than `numbers`; without new extremes, they save a pass.
        """
        if not numbers.size:
            return
        if bounds is None:  # numpy's minimum is NaN if a value is missing
            bounds = np.stack([numbers.min(axis=0), numbers.max(axis=0)])
        is_within = (bounds[0] >= self.minimum) & (bounds[1] <= self.maximum)
        for position in np.flatnonzero(~is_within):
            column = numbers[:, position]
            self.minimum[position] = np.fmin(self.minimum[position], np.fmin.reduce(column))
            self.maximum[position] = np.fmax(self.maximum[position], np.fmax.reduce(column))
        complete = not np.isnan(bounds).any()
        for start in range(0, len(label), ROWS_AT_A_TIME):
            step = slice(start, start + ROWS_AT_A_TIME)
            self._add(numbers[step], label[step], weight[step], complete)

    def _add(
        self,
        numbers: npt.NDArray[Any],
        label: npt.NDArray[np.int32],
        row_weight: npt.NDArray[np.float32],
        complete: bool,
    ) -> None:
        class_weights = np.zeros((CLASSES, len(label)))
        class_weights[label, np.arange(len(label))] = row_weight
        values = numbers.astype(np.float64)
        is_missing = None if complete else np.isnan(numbers)
        if is_missing is None:
            weight = np.repeat(class_weights.sum(axis=1)[:, np.newaxis], numbers.shape[1], axis=1)
        else:
            self.missing += is_missing.sum(axis=0)
            weight = class_weights @ ~is_missing
            values[is_missing] = 0.0
        total = weight.sum(axis=0)
        center = np.divide(
            (class_weights @ values).sum(axis=0), total, where=total > 0, out=total * 0
        )
        values -= center
        if is_missing is not None:
            values[is_missing] = 0.0
        sums = class_weights @ values
        offset = np.divide(sums, weight, where=weight > 0, out=np.zeros_like(sums))
        squares = class_weights @ np.square(values, out=values) - offset**2 * weight
        for c in range(CLASSES):
            self._merge(c, weight[c], center + offset[c], squares[c])

    def _merge(self, c: int, weight: Floats, mean: Floats, squares: Floats) -> None:
        """Merge moments of class `c` (Chan, Golub and LeVeque 1979, Updating formulae, 2.1)."""
        before, after = self.weight[c], self.weight[c] + weight
        fraction = np.divide(weight, after, out=np.zeros_like(after), where=after > 0)
        step = mean - self.mean[c]
        self.mean[c] += step * fraction
        self.squares[c] += squares + step**2 * before * fraction
        self.weight[c] = after

    def merge(self, other: NumberStatistics) -> None:
        """Add the rows of another worker or thread."""
        for c in range(CLASSES):
            self._merge(c, other.weight[c], other.mean[c], other.squares[c])
        self.minimum = np.fmin(self.minimum, other.minimum)
        self.maximum = np.fmax(self.maximum, other.maximum)
        self.missing += other.missing

    def moments(self, position: int) -> tuple[float, float]:
        """Return the mean and the standard deviation of a column that has values."""
        weight, mean = self.weight[:, position], self.mean[:, position]
        total = weight.sum()
        overall = float(weight @ mean / total)
        variance = (self.squares[:, position].sum() + weight @ (mean - overall) ** 2) / total
        return overall, float(np.sqrt(max(variance, 0.0)))

    def column_fields(self, position: int, dtype: Any) -> dict[str, Any]:
        """Return the fields of `Column` for the column at a position; `dtype` is its numpy type."""
        weight, mean = self.weight[:, position], self.mean[:, position]
        if weight.sum() == 0:  # all missing
            return {"missing": True}
        overall, deviation = self.moments(position)
        minimum, maximum = float(self.minimum[position]), float(self.maximum[position])
        # A constant that was computed may differ in the last digit between rows.
        rounding = float(np.spacing(dtype(abs(overall))))
        varies = minimum < maximum and deviation > rounding
        return {
            "missing": bool(self.missing[position]),
            "mean": overall,
            "deviation": deviation if varies else 1.0,
            "minimum": minimum,
            "maximum": maximum,
            "class_means": tuple(np.where(weight > 0, mean, overall).tolist()),
        }

    def as_json(self) -> dict[str, Any]:
        """Return the statistics as JSON for another worker."""
        return {name: values.tolist() for name, values in vars(self).items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> NumberStatistics:
        """Read the JSON of `as_json`."""
        statistics = cls(0)
        for name, values in stored.items():
            dtype = np.int64 if name == "missing" else np.float64
            shape = (CLASSES, -1) if name in ("weight", "mean", "squares") else (-1,)
            setattr(statistics, name, np.asarray(values, dtype).reshape(shape))
        return statistics


NumericParser.column_type = NumericColumn

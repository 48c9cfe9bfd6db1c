"""Categories: texts with a vocabulary, one feature per value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import tensorflow as tf

from training.errors import DataError
from training.features.cells import MISSING, CellFormat, CellParser, Kind
from training.features.columns import Column, Floats
from training.features.numeric import CLASSES

MAX_VOCABULARY = 1000
MAX_VALUES = 1_000_000
MIN_IDENTIFIER_ROWS = 20
WHOLE_NUMBER = r"^([-+]?\d+)\.0+$"
MISSING_INTEGER = -(2**63)
FALSE_TRUE = ("false", "true")


@dataclass(frozen=True)
class CategoricalParser(CellParser):
    """Parses categories; whole numbers lose a trailing ".0", which file formats write or omit."""

    kind: ClassVar[Kind] = "categorical"
    expected: ClassVar[str] = "a category"

    @classmethod
    def accepts(cls, dtype: pl.DataType) -> bool:
        """Return whether values of a dtype other than text are of this kind."""
        return dtype in (pl.Categorical, pl.Enum)

    @classmethod
    def detect(cls, text: pl.Series, cell_format: CellFormat, separator: str) -> CellParser | None:
        """Return a parser; any text can be a category."""
        return cls(cell_format)

    def parse(self, values: pl.Series) -> pl.Series:
        """Return texts, null where missing."""
        return self.trim(values).str.replace(WHOLE_NUMBER, "$1")


def spellings(value: str, vocabulary: Sequence[str]) -> list[str]:
    """Return the other spellings of a value."""
    if set(vocabulary) <= set(FALSE_TRUE):
        return [value.capitalize(), value.upper()]
    return [f"{value}.0"] if value.lstrip("+-").isdecimal() else []


@dataclass(frozen=True)
class CategoricalColumn(Column):
    """A column of categories; `marks` are texts that mean a missing value.

    The index of a value's feature is its vocabulary index. The next index is for values that were
    unseen or too rare in training, and the one after it for missing values, if training had any.
    """

    marks: tuple[str, ...] = MISSING

    kind: ClassVar[Kind] = "categorical"

    @property
    def dtype(self) -> Any:
        """The type of the signature's input: int64 or string."""
        integers = bool(self.vocabulary) and all(_is_int64(value) for value in self.vocabulary)
        return tf.int64 if integers and not self.missing else tf.string

    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the column's features."""
        values = tuple(f"{self.name} = {value}" for value in self.vocabulary)
        missing = (f"{self.name} is missing",) if self.missing else ()
        return (*values, f"{self.name} is another", *missing)

    def encode(self, indices: Any, dtype: Any) -> Any:
        """Turn vocabulary indices `[rows]` into features `[rows, features]`."""
        width = len(self.feature_names())
        # Without its own feature, a missing value counts as unknown.
        return tf.one_hot(tf.minimum(indices, width - 1), width, dtype=dtype)

    def indices(self, codes: Mapping[str, int]) -> npt.NDArray[np.int32]:
        """Return the vocabulary index of a missing value (code −1), then of each code."""
        index_of = {value: index for index, value in enumerate(self.vocabulary)}
        unknown = len(index_of)
        return np.array([unknown + 1, *(index_of.get(v, unknown) for v in codes)], np.int32)

    def reader(self) -> tf.Module:
        """Return the graph function from served values to vocabulary indices."""
        return _Lookup(self)

    def input_values(self, cells: pl.Series) -> npt.NDArray[Any]:
        """Return parsed cells as values of the signature's input."""
        if self.dtype == tf.int64:
            integers = cells.cast(pl.Int64, strict=False)
            return integers.fill_null(MISSING_INTEGER).to_numpy()
        return np.array([value.encode() for value in cells.fill_null("")], np.object_)

    def json_values(self, cells: pl.Series) -> list[Any]:
        """Return texts, or integers if the signature's input takes them."""
        if self.dtype == tf.int64:
            cells = cells.cast(pl.Int64, strict=False)
        return cells.to_list()

    def typical_cells(self) -> pl.Series:
        """Return the most frequent value of each class."""
        values = [self.vocabulary[mode] if mode >= 0 else None for mode in self.class_modes]
        return pl.Series(values, dtype=pl.String)

    @property
    def example_default(self) -> Any:
        """The value for a `tf.Example` without the column; None if it is required."""
        return "" if self.missing else None


class _Lookup(tf.Module):
    """Looks up served values in a vocabulary, ignoring surrounding blanks."""

    def __init__(self, column: CategoricalColumn) -> None:
        super().__init__()
        self._is_text = column.dtype == tf.string
        unknown = len(column.vocabulary)
        index_of: dict[Any, int] = {}
        if self._is_text:
            index_of = dict.fromkeys(column.marks, unknown + 1)
        for index, value in enumerate(column.vocabulary):
            for spelling in spellings(value, column.vocabulary) if self._is_text else []:
                index_of[spelling] = index
        for index, value in enumerate(column.vocabulary):
            index_of[value if self._is_text else int(value)] = index
        initializer = tf.lookup.KeyValueTensorInitializer(
            tf.constant(list(index_of), column.dtype),
            tf.constant(list(index_of.values()), tf.int32),
        )
        self.table = tf.lookup.StaticHashTable(initializer, default_value=unknown)

    def __call__(self, values: Any) -> Any:
        return self.table.lookup(tf.strings.strip(values) if self._is_text else values)


@dataclass
class CategoryStatistics:
    """Codes, weights and counts of a column's values.

    Attributes:
        codes: the code of each value, in order of appearance.
        weights: summed weight of the training rows, `[values, classes]`.
        counts: number of training rows of each value, `[values]`.
        missing: number of training rows without a value.
    """

    codes: dict[str, int] = field(default_factory=dict)
    weights: Floats = field(default_factory=lambda: np.zeros((0, CLASSES)))
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    missing: int = 0

    def encode(self, name: str, values: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return the code of each value, adding codes for new values.

        Raises:
            DataError: there are too many distinct values.
        """
        codes = [self.codes.setdefault(value, len(self.codes)) for value in values]
        if len(self.codes) > MAX_VALUES:
            raise DataError(
                f"column {name!r} has more than {MAX_VALUES:,} different values; "
                f"--leave-out '{name}' leaves it out"
            )
        return np.array(codes, np.int32)

    def add(self, codes: npt.NDArray[np.int32], label: npt.NDArray[np.int32], weight: Any) -> None:
        """Add the codes (−1: missing), labels and weights of training rows."""
        cells = (codes.astype(np.int64) + 1) * CLASSES + label
        size = (len(self.codes) + 1) * CLASSES
        weights = np.bincount(cells, weight, size).astype(np.float64).reshape(-1, CLASSES)[1:]
        counts = np.bincount(codes + 1, minlength=len(self.codes) + 1)
        weights[: len(self.weights)] += self.weights
        self.weights, self.missing = weights, self.missing + int(counts[0])
        counts = counts[1:]
        counts[: len(self.counts)] += self.counts
        self.counts = counts

    def merge(self, other: CategoryStatistics) -> None:
        """Add the rows of another worker; this worker's codes do not change."""
        for value in other.codes:
            self.codes.setdefault(value, len(self.codes))
        weights = np.zeros((len(self.codes), CLASSES))
        weights[: len(self.weights)] = self.weights
        counts = np.zeros(len(self.codes), np.int64)
        counts[: len(self.counts)] = self.counts
        for value, weight, count in zip(other.codes, other.weights, other.counts, strict=False):
            weights[self.codes[value]] += weight
            counts[self.codes[value]] += count
        self.weights, self.counts = weights, counts
        self.missing += other.missing

    def build_vocabulary(self, name: str) -> tuple[str, ...]:
        """Return the most frequent values, at most `MAX_VOCABULARY`.

        Raises:
            DataError: the values look like identifiers, so nothing can be learned from them.
        """
        totals = dict(zip(self.codes, self.weights.sum(axis=1).tolist(), strict=False))
        values = sorted((v for v in totals if totals[v] > 0), key=lambda v: (-totals[v], v))
        rows, unique = int(self.counts.sum()), int((self.counts == 1).sum())
        mostly_unique = rows >= MIN_IDENTIFIER_ROWS and unique > rows / 2
        if mostly_unique or len(values) > max(MAX_VOCABULARY, rows / 2):
            raise DataError(
                f"column {name!r} has {len(values):,} different values in {rows:,} rows, like an "
                f"identifier; --leave-out '{name}' leaves it out"
            )
        return tuple(values[:MAX_VOCABULARY])

    def column_fields(self, vocabulary: Sequence[str]) -> dict[str, Any]:
        """Return the fields of `Column` for a vocabulary."""
        weights = np.array([self.class_weights(value) for value in vocabulary]).reshape(-1, CLASSES)
        modes = weights.argmax(axis=0).tolist() if len(weights) else [-1, -1]
        return {
            "missing": self.missing > 0,
            "vocabulary": tuple(vocabulary),
            "class_modes": (modes[0], modes[1]),
            "mode": int(weights.sum(axis=1).argmax()) if len(weights) else -1,
        }

    def class_weights(self, value: str) -> list[float]:
        """Return the weight of a value in each class."""
        code = self.codes.get(value, -1)
        has_rows = 0 <= code < len(self.weights)
        return self.weights[code].tolist() if has_rows else [0.0] * CLASSES

    def as_json(self) -> dict[str, Any]:
        """Return the statistics as JSON for another worker."""
        return {
            "codes": self.codes,
            "weights": self.weights.tolist(),
            "counts": self.counts.tolist(),
            "missing": self.missing,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> CategoryStatistics:
        """Read the JSON of `as_json`."""
        weights = np.asarray(stored["weights"], np.float64).reshape(-1, CLASSES)
        counts = np.asarray(stored["counts"], np.int64)
        return cls(dict(stored["codes"]), weights, counts, stored["missing"])


def _is_int64(text: str) -> bool:
    try:
        return str(int(text)) == text and MISSING_INTEGER < int(text) < 2**63
    except ValueError:
        return False


CategoricalParser.column_type = CategoricalColumn

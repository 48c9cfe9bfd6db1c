"""The columns of a table: what is learned of them, and how they become features.

The same `encode` runs in training and in the exported graph, so what was trained is what is served.
A row's features are, in this order:

- each numeric column, scaled: (value − mean) / deviation; 0 where it is missing
- for each numeric column with missing values in training: 1 where it is missing, else 0
- for each boolean column: 1 for true
- for each categorical column: 1 at the value's place in the vocabulary. The place after the last
  is for values that training has not seen, or too seldom to learn from; the one after that, if
  there were missing values, for missing ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from training.data.reading import Kind

Floats = npt.NDArray[np.float64]

MAX_VOCABULARY = 1000
FALSE_TRUE = ("false", "true")


@dataclass(frozen=True)
class Column:
    """What training has learned of a column.

    Attributes:
        name: as in the table's header.
        kind: numeric, categorical or boolean.
        missing: whether values were missing.
        mean, deviation, minimum, maximum: of a numeric column.
        class_means: of a numeric column, among the rows of class 0 and of class 1.
        vocabulary: values of a categorical column, the most frequent first; false and true.
        class_modes: of the others, place in the vocabulary of the most frequent value per class.
    """

    name: str
    kind: Kind
    missing: bool = False
    mean: float = 0.0
    deviation: float = 1.0
    minimum: float = 0.0
    maximum: float = 0.0
    class_means: tuple[float, float] = (0.0, 0.0)
    vocabulary: tuple[str, ...] = ()
    class_modes: tuple[int, int] = (-1, -1)

    @property
    def dtype(self) -> Any:
        """The type of the signature's input: float32, bool, int64 or string."""
        if self.kind == "numeric":
            return tf.float32
        if self.kind == "boolean":
            return tf.bool
        integers = bool(self.vocabulary) and all(_is_int64(value) for value in self.vocabulary)
        return tf.int64 if integers and not self.missing else tf.string

    def slots(self) -> tuple[str, ...]:
        """Return what each feature of a column that is not numeric stands for."""
        if self.kind == "boolean":
            return (f"{self.name} is true",)
        values = tuple(f"{self.name} = {value}" for value in self.vocabulary)
        missing = (f"{self.name} is missing",) if self.missing else ()
        return (*values, f"{self.name} is another", *missing)


@dataclass(frozen=True)
class Feature:
    """One of the model's features: its name, its column's index, and what it was divided by."""

    name: str
    column: int
    scale: float


def features(columns: Sequence[Column]) -> list[Feature]:
    """Return the features of a table's columns, in the order that `encode` gives them."""
    numeric = [i for i, c in enumerate(columns) if c.kind == "numeric"]
    others = [i for i, c in enumerate(columns) if c.kind != "numeric"]
    found = [Feature(columns[i].name, i, columns[i].deviation) for i in numeric]
    found += [
        Feature(f"{columns[i].name} is missing", i, 1.0) for i in numeric if columns[i].missing
    ]
    found += [Feature(slot, i, 1.0) for i in others for slot in columns[i].slots()]
    return found


def encode(
    columns: Sequence[Column], numbers: Any, indices: Any, dtype: Any, *, complete: bool = False
) -> Any:
    """Turn rows into features.

    Args:
        columns: of the table.
        numbers: float tensor `[rows, numeric columns]`, NaN where missing.
        indices: int32 tensor `[rows, other columns]`: false 0, true 1; a place in the vocabulary,
            its length for an unknown value, one more for a missing one.
        dtype: of the result.
        complete: whether it is known that no number is missing, so that nobody need look.

    Returns:
        A tensor `[rows, features]`.
    """
    numeric = [c for c in columns if c.kind == "numeric"]
    parts = []
    if numeric:
        mean = tf.constant([c.mean for c in numeric], dtype)
        factor = tf.constant([1 / c.deviation for c in numeric], dtype)
        scaled = (tf.cast(numbers, dtype) - mean) * factor
        absent = tf.math.is_nan(numbers)
        parts.append(scaled if complete else tf.where(absent, tf.zeros([], dtype), scaled))
        may_be_missing = [i for i, c in enumerate(numeric) if c.missing]
        if may_be_missing:
            parts.append(tf.cast(tf.gather(absent, may_be_missing, axis=1), dtype))
    for position, column in enumerate(c for c in columns if c.kind != "numeric"):
        index = indices[:, position]
        if column.kind == "boolean":
            parts.append(tf.cast(index, dtype)[:, tf.newaxis])
        else:
            # Without a slot of its own, a missing value is just another unknown one.
            slots = len(column.slots())
            parts.append(tf.one_hot(tf.minimum(index, slots - 1), slots, dtype=dtype))
    return tf.concat(parts, axis=1) if len(parts) > 1 else parts[0]


def _is_int64(text: str) -> bool:
    try:
        return str(int(text)) == text and -(2**63) <= int(text) < 2**63
    except ValueError:
        return False

"""The encoder: cells to features, in training, evaluation and the exported graph alike.

A row's features are, in this order:

- each column of float32 numbers, scaled: (value − mean) / deviation; 0 where it is missing
- for each of them with missing values in training: 1 where it is missing, else 0
- the same two for the columns of float64 numbers and for dates
- for each boolean and categorical column, in the table's order, its features
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import tensorflow as tf

from training.features.columns import Column, Feature
from training.features.numeric import encode_numbers


class Cells(NamedTuple):
    """Rows of cells as tensors.

    Attributes:
        numbers: float32 `[rows, columns]`, NaN where missing.
        wide: float64 `[rows, columns]`, NaN where missing.
        indices: int32 `[rows, columns]`: 0 for false, 1 for true; for a category, its vocabulary
            index, the vocabulary's length if unknown, one more if missing.
    """

    numbers: Any
    wide: Any
    indices: Any


class Encoder:
    """Turns cells into features."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        numbers = [column for column in columns if column.is_number]
        self.numbers = [column for column in numbers if column.dtype == tf.float32]
        self.wide = [column for column in numbers if column.dtype == tf.float64]
        self.categories: list[Any] = [column for column in columns if not column.is_number]

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """The features in the order of `encode`."""
        index_of = {column.name: index for index, column in enumerate(self.columns)}
        features = []
        for group in (self.numbers, self.wide):
            features += [Feature(c.name, index_of[c.name], c.deviation) for c in group]
            flags = [(c, name) for c in group for name in c.feature_names()[1:]]
            features += [Feature(name, index_of[c.name], 1.0) for c, name in flags]
        for column in self.categories:
            index = index_of[column.name]
            features += [Feature(name, index, 1.0) for name in column.feature_names()]
        return tuple(features)

    @cached_property
    def owners(self) -> list[int]:
        """The index of the column that each feature belongs to."""
        return [feature.column for feature in self.features]

    def encode(self, cells: Cells, dtype: Any, *, complete: bool = False) -> Any:
        """Return features `[rows, features]`; `complete` means that no number is missing."""
        parts: list[Any] = []
        if self.numbers:
            parts += encode_numbers(self.numbers, cells.numbers, dtype, complete)
        if self.wide:
            parts += encode_numbers(self.wide, cells.wide, dtype, complete)
        for position, column in enumerate(self.categories):
            parts.append(column.encode(cells.indices[:, position], dtype))
        return tf.concat(parts, axis=1) if len(parts) > 1 else parts[0]

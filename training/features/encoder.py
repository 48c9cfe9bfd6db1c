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
        places: int32 `[rows, columns]`: false 0, true 1; a place in the vocabulary, its length
            for an unknown value, one more for a missing one.
    """

    numbers: Any
    wide: Any
    places: Any


class Encoder:
    """Turns cells into features."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        numbers = [column for column in columns if column.is_number]
        self.numbers = [column for column in numbers if column.dtype == tf.float32]
        self.wide = [column for column in numbers if column.dtype == tf.float64]
        self.coded: list[Any] = [column for column in columns if not column.is_number]

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """The features in the order in which `encode` gives them."""
        place = {column.name: index for index, column in enumerate(self.columns)}
        found = []
        for group in (self.numbers, self.wide):
            found += [Feature(c.name, place[c.name], c.deviation) for c in group]
            flags = [(c, slot) for c in group for slot in c.slots()[1:]]
            found += [Feature(slot, place[c.name], 1.0) for c, slot in flags]
        for column in self.coded:
            found += [Feature(slot, place[column.name], 1.0) for slot in column.slots()]
        return tuple(found)

    @cached_property
    def owners(self) -> list[int]:
        """The index of the column that each feature belongs to."""
        return [feature.column for feature in self.features]

    def encode(self, cells: Cells, dtype: Any, *, complete: bool = False) -> Any:
        """Return a tensor `[rows, features]`; `complete` means that no number is missing."""
        parts: list[Any] = []
        if self.numbers:
            parts += encode_numbers(self.numbers, cells.numbers, dtype, complete)
        if self.wide:
            parts += encode_numbers(self.wide, cells.wide, dtype, complete)
        for position, column in enumerate(self.coded):
            parts.append(column.encode(cells.places[:, position], dtype))
        return tf.concat(parts, axis=1) if len(parts) > 1 else parts[0]

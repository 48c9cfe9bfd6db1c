"""Booleans: columns of true and false, with one feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import tensorflow as tf

from training.features.categorical import FALSE_TRUE
from training.features.cells import CellFormat, CellParser, Kind
from training.features.columns import Column

DIGITS = {"0": "false", "1": "true", "0.0": "false", "1.0": "true"}


@dataclass(frozen=True)
class BooleanParser(CellParser):
    """Parses true and false in any case; also 0 and 1, which are not detected as booleans."""

    kind: ClassVar[Kind] = "boolean"
    expected: ClassVar[str] = "true or false"

    @classmethod
    def accepts(cls, dtype: pl.DataType) -> bool:
        """Return whether values of a dtype other than text are of this kind."""
        return dtype == pl.Boolean

    @classmethod
    def detect(cls, text: pl.Series, cell_format: CellFormat, separator: str) -> CellParser | None:
        """Return a parser if all texts are true or false."""
        return cls(cell_format) if text.str.to_lowercase().is_in(FALSE_TRUE).all() else None

    def parse(self, values: pl.Series) -> pl.Series:
        """Return texts, "false" or "true"; null where missing or neither."""
        text = self.trim(values).str.to_lowercase().replace(DIGITS)
        return text.set(~text.is_in(FALSE_TRUE), None)


@dataclass(frozen=True)
class BooleanColumn(Column):
    """A column of true and false without missing values in training."""

    kind: ClassVar[Kind] = "boolean"

    @property
    def dtype(self) -> Any:
        """The type of the signature's input."""
        return tf.bool

    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the column's features."""
        return (f"{self.name} is true",)

    def encode(self, indices: Any, dtype: Any) -> Any:
        """Turn vocabulary indices `[rows]` into features `[rows, 1]`."""
        return tf.cast(indices, dtype)[:, tf.newaxis]

    def indices(self, codes: Mapping[str, int]) -> npt.NDArray[np.int32]:
        """Return the vocabulary index of a missing value (code −1), then of each code.

        The signature cannot express a missing value; callers send the most frequent value instead.
        """
        return np.array([self.mode, *(FALSE_TRUE.index(value) for value in codes)], np.int32)

    def reader(self) -> tf.Module:
        """Return the graph function from served values to vocabulary indices."""
        return _ToIndices()

    def input_values(self, cells: pl.Series) -> npt.NDArray[Any]:
        """Return parsed cells as values of the signature's input."""
        return (cells.fill_null(FALSE_TRUE[self.mode]) == "true").to_numpy()

    def json_values(self, cells: pl.Series) -> list[Any]:
        """Return JSON booleans; None where missing."""
        return (cells == "true").to_list()

    def typical_cells(self) -> pl.Series:
        """Return the most frequent value of each class."""
        return pl.Series([FALSE_TRUE[mode] for mode in self.class_modes])

    @property
    def example_dtype(self) -> Any:
        """The type of the column in a `tf.Example`, which has no booleans."""
        return tf.int64


class _ToIndices(tf.Module):
    def __call__(self, values: Any) -> Any:
        return tf.cast(values, tf.int32)


BooleanParser.column_type = BooleanColumn

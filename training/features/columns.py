"""Columns: their training statistics and their features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import tensorflow as tf

from training.features.cells import ISO_DATES, Kind

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Feature:
    """One of the model's features: its name, its column's index, and its divisor."""

    name: str
    column: int
    scale: float


@dataclass(frozen=True)
class Column(ABC):
    """A column as `describe` shows it; each kind is a subclass.

    Attributes:
        name: its name in the table's header.
        missing: whether values were missing.
        mean, deviation, minimum, maximum: statistics of numbers and dates.
        class_means: means of numbers and dates in class 0 and class 1.
        vocabulary: values of a category, most frequent first; false and true for a boolean.
        class_modes: for categories and booleans, index of the most frequent value in each class.
        mode: index of the most frequent value in all rows; −1 for numbers and dates.
        form: the form of dates in the table, see `DateParser`.
    """

    name: str
    missing: bool = False
    mean: float = 0.0
    deviation: float = 1.0
    minimum: float = 0.0
    maximum: float = 0.0
    class_means: tuple[float, float] = (0.0, 0.0)
    vocabulary: tuple[str, ...] = ()
    class_modes: tuple[int, int] = (-1, -1)
    mode: int = -1
    form: str = ISO_DATES

    kind: ClassVar[Kind]
    is_number: ClassVar[bool] = False  # whether cells are numbers, not codes of values

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """The type of the signature's input."""

    @abstractmethod
    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the column's features."""

    @abstractmethod
    def reader(self) -> tf.Module:
        """Return the graph function from served values `[rows]` to cells `[rows]`."""

    @abstractmethod
    def input_values(self, cells: pl.Series) -> npt.NDArray[Any]:
        """Return parsed cells, null where missing, as values of the signature's input."""

    @abstractmethod
    def json_values(self, cells: pl.Series) -> list[Any]:
        """Return parsed cells as they appear in a JSON request; a missing one is None."""

    @abstractmethod
    def typical_cells(self) -> pl.Series:
        """Return the typical cell of each class."""

    @property
    def example_default(self) -> Any:
        """The value for a `tf.Example` without the column; None if it is required."""
        return None

    @property
    def example_dtype(self) -> Any:
        """The type of the column in a `tf.Example`."""
        return self.dtype

"""What training has learned of a column, and the features that it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import tensorflow as tf

from training.features.cells import Kind

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Feature:
    """One of the model's features: its name, its column's index, and what it was divided by."""

    name: str
    column: int
    scale: float


@dataclass(frozen=True)
class Column(ABC):
    """A column as `describe` shows it; each kind is a subclass.

    Attributes:
        name: as in the table's header.
        missing: whether values were missing.
        mean, deviation, minimum, maximum: of numbers and dates.
        class_means: of numbers and dates, among the rows of class 0 and of class 1.
        vocabulary: values of a categorical column, the most frequent first; false and true.
        class_modes: of the others, place in the vocabulary of the most frequent value per class.
        mode: the same of all rows; −1 for numbers and dates.
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

    kind: ClassVar[Kind]
    is_number: ClassVar[bool] = False  # whether cells are numbers, not codes of values

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """The type of the signature's input."""

    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Return the names of the column's features."""

    @abstractmethod
    def reader(self) -> tf.Module:
        """Return a function in the graph from served values `[rows]` to cells `[rows]`."""

    @abstractmethod
    def served(self, cells: pl.Series) -> npt.NDArray[Any]:
        """Return parsed cells, null where missing, as what the signature takes."""

    @abstractmethod
    def typical(self) -> pl.Series:
        """Return the typical cell of each class."""

    @property
    def example_default(self) -> Any:
        """What a `tf.Example` without the column means; None if it must have it."""
        return None

    @property
    def example_dtype(self) -> Any:
        """The type of the column in a `tf.Example`."""
        return self.dtype

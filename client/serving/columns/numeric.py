"""Columns of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from client.serving.columns.base import Column, Json
from client.serving.tensors import DTYPES


@dataclass(frozen=True)
class NumericColumn(Column):
    """A column of numbers; NaN is a missing one."""

    kind: ClassVar[str] = "numeric"

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the greatest number in training."""
        return self.minimum, self.maximum

    def shown(self, value: float) -> str:
        """Return a number with six digits."""
        return f"{value:.6g}"

    def describe(self, schema: Json) -> Json:
        """Return the JSON schema of a number with its range in training."""
        description = (
            f"in training from {self.minimum:.6g} to {self.maximum:.6g}, "
            f"mean {self.mean:.6g}, standard deviation {self.deviation:.6g}"
        )
        return {**schema, "description": description}

    def example(self, of_class: int, dtype: int) -> Any:
        """Return the mean of a class, with four digits."""
        mean = float(f"{self.class_means[of_class]:.4g}")
        return round(mean) if dtype in DTYPES and DTYPES[dtype].kind in "iu" else mean

"""Numeric columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from client.serving.columns.base import Column, Json
from client.serving.tensors import DTYPES

# Numbers outside this range are written with an exponent.
MIN_PLAIN, MAX_PLAIN = 1e-6, 1e15


@dataclass(frozen=True)
class NumericColumn(Column):
    """A column of numbers; NaN means missing."""

    kind: ClassVar[str] = "numeric"

    @property
    def range(self) -> tuple[float, float] | None:
        """Minimum and maximum in training."""
        return self.minimum, self.maximum

    def format_number(self, value: float) -> str:
        """Format a number with six significant digits."""
        return plain_number(value, 6)

    def describe(self, schema: Json) -> Json:
        """Return the JSON schema of a number with its range in training."""
        statistics = (self.minimum, self.maximum, self.mean, self.deviation)
        low, high, mean, std = map(self.format_number, statistics)
        description = f"in training from {low} to {high}, mean {mean}, standard deviation {std}"
        return {**schema, "description": description}

    def example(self, class_index: int, dtype: int) -> Any:
        """Return the mean of a class, with four significant digits."""
        mean = float(plain_number(self.class_means[class_index], 4))
        return round(mean) if dtype in DTYPES and DTYPES[dtype].kind in "iu" else mean


def plain_number(value: float, digits: int) -> str:
    """Format a number with `digits` significant digits; only huge or tiny ones get an exponent.

    Without an exponent, all digits before the decimal point are kept.
    """
    if value != 0 and not MIN_PLAIN <= abs(value) < MAX_PLAIN:
        return f"{value:.{digits}g}"
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:.{max(0, digits - 1 - magnitude)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

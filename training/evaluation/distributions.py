"""The distribution of each column on the held-out rows, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl

from training.evaluation.numbers import number_text
from training.features.columns import Column

BINS = 24
MAX_VALUES = 12
# Values outside these quantiles would squeeze all others into one bin.
TAILS = (0.005, 0.995)


@dataclass(frozen=True)
class Distribution:
    """A small histogram of a column.

    Attributes:
        column: its name.
        kind: its kind.
        missing: share of the rows without a value.
        summary: range and median, or the most frequent values.
        bars: `(label, height)`, the heights relative to the largest.
    """

    column: str
    kind: str
    missing: float
    summary: str
    bars: tuple[tuple[str, float], ...]


def distributions(columns: Sequence[Column], frame: pl.DataFrame) -> list[Distribution]:
    """Return the distribution of each column in rows as `TrainedModel.inputs` takes them."""
    return [_distribution(column, frame[column.name]) for column in columns]


def _distribution(column: Column, values: pl.Series) -> Distribution:
    numeric = values.dtype.is_numeric()
    present = (values.fill_nan(None) if values.dtype.is_float() else values).drop_nulls()
    missing = 1 - len(present) / max(1, len(values))
    if present.is_empty():
        return Distribution(column.name, column.kind, missing, "no values", ())
    summary, bars = _of_numbers(present, column.kind) if numeric else _of_values(present)
    return Distribution(column.name, column.kind, missing, summary, bars)


def _of_numbers(present: pl.Series, kind: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    numbers = present.to_numpy().astype(np.float64)
    low, middle, high = (_shown(value, kind) for value in np.quantile(numbers, [0, 0.5, 1]))
    summary = f"{low} to {high}, median {middle}"
    first, last = np.quantile(numbers, TAILS)
    if not np.isfinite(last - first) or first == last:
        return summary, ((low, 1.0),)
    counts, edges = np.histogram(numbers.clip(first, last), BINS, (first, last))
    labels = [f"from {_shown(edge, kind)}" for edge in edges[:-1]]
    return summary, tuple(zip(labels, (counts / counts.max()).tolist(), strict=True))


def _of_values(present: pl.Series) -> tuple[str, tuple[tuple[str, float], ...]]:
    counted = present.cast(pl.String).value_counts(sort=True, name="count")
    values, counts = counted[present.name].to_list(), counted["count"].to_numpy()
    shares = [f"{v} {100 * c / len(present):.0f} %" for v, c in zip(values, counts, strict=True)]
    more = f", {len(values) - 3:,} more" if len(values) > 3 else ""
    heights = (counts[:MAX_VALUES] / counts[0]).tolist()
    return ", ".join(shares[:3]) + more, tuple(zip(shares, heights, strict=False))


def _shown(value: float, kind: str) -> str:
    if kind != "date":
        return number_text(value)
    day = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(days=value)
    return day.date().isoformat()

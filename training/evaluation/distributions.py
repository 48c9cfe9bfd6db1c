"""The distribution of each column in the held-out rows, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl

from training.evaluation.numbers import format_number
from training.features.columns import Column

HISTOGRAM_BINS = 24
MAX_VALUES = 12
# Values outside these quantiles would squeeze all others into one bin.
CLIP_QUANTILES = (0.005, 0.995)


@dataclass(frozen=True)
class Distribution:
    """A small histogram of a column.

    Attributes:
        column: name of the column.
        kind: kind of the column.
        missing: fraction of rows without a value.
        summary: range and median, or the most frequent values.
        bars: `(label, height)`, the heights relative to the largest.
    """

    column: str
    kind: str
    missing: float
    summary: str
    bars: tuple[tuple[str, float], ...]


def distributions(columns: Sequence[Column], frame: pl.DataFrame) -> list[Distribution]:
    """Return the distribution of each column of a frame that `TrainedModel.inputs` takes."""
    return [_summarize(column, frame[column.name]) for column in columns]


def _summarize(column: Column, values: pl.Series) -> Distribution:
    is_numeric = values.dtype.is_numeric()
    present = (values.fill_nan(None) if values.dtype.is_float() else values).drop_nulls()
    missing = 1 - len(present) / max(1, len(values))
    if present.is_empty():
        return Distribution(column.name, column.kind, missing, "no values", ())
    summary, bars = (
        _summarize_numbers(present, column.kind) if is_numeric else _summarize_categories(present)
    )
    return Distribution(column.name, column.kind, missing, summary, bars)


def _summarize_numbers(present: pl.Series, kind: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    numbers = present.to_numpy().astype(np.float64)
    low, median, high = (_format_value(value, kind) for value in np.quantile(numbers, [0, 0.5, 1]))
    summary = f"{low} to {high}, median {median}"
    start, end = np.quantile(numbers, CLIP_QUANTILES)
    if not np.isfinite(end - start) or start == end:
        return summary, ((low, 1.0),)
    counts, edges = np.histogram(numbers.clip(start, end), HISTOGRAM_BINS, (start, end))
    labels = [f"from {_format_value(edge, kind)}" for edge in edges[:-1]]
    return summary, tuple(zip(labels, (counts / counts.max()).tolist(), strict=True))


def _summarize_categories(present: pl.Series) -> tuple[str, tuple[tuple[str, float], ...]]:
    table = present.cast(pl.String).alias("value").value_counts(sort=True, name="count")
    values, counts = table["value"].to_list(), table["count"].to_numpy()
    labels = [f"{v} {100 * c / len(present):.0f}%" for v, c in zip(values, counts, strict=True)]
    more = f", {len(values) - 3:,} more" if len(values) > 3 else ""
    heights = (counts[:MAX_VALUES] / counts[0]).tolist()
    return ", ".join(labels[:3]) + more, tuple(zip(labels, heights, strict=False))


def _format_value(value: float, kind: str) -> str:
    if kind != "date":
        return format_number(value)
    day = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(days=value)
    return day.date().isoformat()

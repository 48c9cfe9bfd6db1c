"""Drift of a version: its counters against its reference, ranked by impact on predictions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monitoring.counters import Bin, Counts
from monitoring.statistics import Floats, Shift, shift
from monitoring.versions import MISSING, OTHER, PROBABILITY, ReferenceColumn, Version


@dataclass(frozen=True)
class ColumnDrift:
    """The drift of a column.

    Attributes:
        column: name; empty for the model's own probability.
        rows: number of rows in requests.
        shift: the statistics.
        impact: contribution × √PSI, or 0 if PSI does not exceed its limit; estimates how far, in
            log-odds, the column has moved predictions. A normal distribution shifted by d
            standard deviations has a PSI of d².
        missing, other: shares of the rows in requests.
        missing_trained, other_trained: shares of training rows.
    """

    column: str
    rows: int
    shift: Shift
    impact: float
    missing: float
    missing_trained: float
    other: float
    other_trained: float

    def as_json(self) -> dict[str, Any]:
        """Return JSON; infinite limits are null."""
        flat = {**asdict(self), **asdict(self.shift)}
        del flat["shift"]
        return {k: None if v == math.inf else v for k, v in flat.items()}


def busiest_version(published: Iterable[Version], model: str, counts: Counts) -> Version | None:
    """Return the version with the most counted rows, such as the stable one beside a canary.

    Args:
        published: the model's versions.
        model: name of the model.
        counts: rows per bin.
    """
    by_column: Counter[tuple[int, str]] = Counter()
    for key, count in counts.items():
        if key.model == model:
            by_column[key.version, key.column] += count
    # Each row is counted once per column.
    rows: Counter[int] = Counter()
    for (version, _), count in by_column.items():
        rows[version] = max(rows[version], count)
    counted = [version for version in published if rows[version.number]]
    return max(counted, key=lambda version: (rows[version.number], version.number), default=None)


def measure_drift(version: Version, model: str, counts: Counts) -> list[ColumnDrift]:
    """Return the drift of the model's probability and of each column, largest impact first.

    Args:
        version: the version, for its reference.
        model: name of the model.
        counts: rows per bin; those of other models and versions are ignored.
    """
    reference = version.reference
    drifts = [
        _column_drift(
            column,
            np.array([counts[Bin(model, version.number, column.name, b)] for b in column.bins]),
            reference.rows,
            len(reference.columns),
        )
        for column in reference.columns
    ]
    return sorted(drifts, key=lambda drift: (drift.column != PROBABILITY, -drift.impact))


def _column_drift(
    column: ReferenceColumn, counts: Floats, training_rows: int, columns: int
) -> ColumnDrift:
    counts = counts.astype(np.float64)
    result = shift(
        counts, column.shares, training_rows, columns=columns, ordered_bins=column.ordered_bins
    )
    rows = counts.sum()
    shares = counts / rows if rows else counts
    return ColumnDrift(
        column=column.name,
        rows=int(rows),
        shift=result,
        # A shift below the limit may be noise.
        impact=column.contribution * math.sqrt(result.psi)
        if result.psi > result.psi_limit
        else 0.0,
        missing=float(shares[column.bins.index(MISSING)]),
        missing_trained=float(column.shares[-2]),
        other=float(shares[column.bins.index(OTHER)]),
        other_trained=float(column.shares[-1]),
    )

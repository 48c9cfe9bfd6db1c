"""Drift of one version: counters against the reference, ranked by impact on predictions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monitoring.counters import Bin, Counts
from monitoring.statistics import Floats, Shift, shift
from monitoring.versions import OTHER, PROBABILITY, ReferenceColumn, Version


@dataclass(frozen=True)
class ColumnDrift:
    """The drift of a column.

    Attributes:
        column: name; empty for the model's own probability.
        rows: requested rows.
        shift: the statistics.
        impact: contribution × √PSI, or 0 if PSI does not exceed the noise: about how far, in
            log-odds, the column has moved predictions. A normal distribution that moves by d
            standard deviations has a PSI of d².
        missing, other: shares of the requested rows.
        missing_trained, other_trained: shares of the training rows.
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
        """Return JSON, in which an infinite limit is null."""
        flat = {**asdict(self), **asdict(self.shift)}
        del flat["shift"]
        return {k: None if v == math.inf else v for k, v in flat.items()}


def busiest(published: Iterable[Version], model: str, counts: Counts) -> Version | None:
    """Return the version with the most counted rows, such as the stable one beside a canary.

    Args:
        published: the model's versions.
        model: name of the model.
        counts: rows per bin.
    """
    by_column: Counter[tuple[int, str]] = Counter()
    for one, count in counts.items():
        if one.model == model:
            by_column[one.version, one.column] += count
    # Each row is counted in each column.
    rows: Counter[int] = Counter()
    for (version, _), count in by_column.items():
        rows[version] = max(rows[version], count)
    found = [one for one in published if rows[one.number]]
    return max(found, key=lambda one: (rows[one.number], one.number), default=None)


def drift(version: Version, model: str, counts: Counts) -> list[ColumnDrift]:
    """Return the drift of the model's probability and of each column, largest impact first.

    Args:
        version: provides the reference.
        model: name of the model.
        counts: rows per bin; those of other models and versions are ignored.
    """
    reference = version.reference
    found = [
        _column_drift(
            column,
            np.array([counts[Bin(model, version.number, column.name, b)] for b in column.bins]),
            reference.rows,
            len(reference.columns),
        )
        for column in reference.columns
    ]
    return sorted(found, key=lambda one: (one.column != PROBABILITY, -one.impact))


def _column_drift(
    column: ReferenceColumn, counts: Floats, trained: int, columns: int
) -> ColumnDrift:
    counts = counts.astype(np.float64)
    found = shift(counts, column.shares, trained, columns=columns, ordered=column.ordered_bins)
    rows = counts.sum()
    shares = counts / rows if rows else counts
    return ColumnDrift(
        column=column.name,
        rows=int(rows),
        shift=found,
        # A shift below the noise limit has no known impact.
        impact=column.contribution * math.sqrt(found.psi) if found.psi > found.psi_limit else 0.0,
        missing=float(shares[column.bins.index("missing")]),
        missing_trained=float(column.shares[-2]),
        other=float(shares[column.bins.index(OTHER)]),
        other_trained=float(column.shares[-1]),
    )

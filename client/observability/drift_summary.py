"""Drift since the service started, from the counters of all workers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from client.observability import drift
from client.observability.drift_counts import NUMERIC_KINDS, BinnedColumn, Reference, load_reference
from client.observability.samples import Samples
from client.serving.schema import Schema
from client.serving.tensors import Array


def drift_summary(schema: Schema, samples: Samples) -> dict[str, Any] | None:
    """Return the drift of a version's columns, most drifted first; None without a reference."""
    reference = load_reference(schema)
    if reference is None:
        return None
    counts = _count_rows(schema, reference, samples)
    columns = {column.name: column for column in reference.columns}
    shifts = [
        (
            name,
            drift.assess_shift(counts[name], np.array(column.shares), reference.rows, len(columns)),
        )
        for name, column in columns.items()
    ]
    return {
        "version": schema.version,
        "rows": int(max(bin_counts.sum() for bin_counts in counts.values())),
        "columns": [
            _summarize_column(columns[name], shift, counts[name], reference.rows)
            for name, shift in drift.rank_shifts(shifts)
        ],
    }


def _count_rows(schema: Schema, reference: Reference, samples: Samples) -> dict[str, Array]:
    """Return row counts per bin, by column."""
    version = str(schema.version)
    by_bin: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for labels, value in samples.series("client_drift_rows_total"):
        if labels["model"] == schema.model and labels["version"] == version:
            by_bin[labels["column"]][labels["bin"]] = value
    return {
        column.name: np.array([by_bin[column.name].get(name, 0) for name in column.bins])
        for column in reference.columns
    }


def _summarize_column(
    column: BinnedColumn, shift: drift.Shift, counts: Array, training_rows: int
) -> dict[str, Any]:
    shares = np.array(column.shares)
    is_numeric = column.kind in NUMERIC_KINDS
    return {
        "column": column.name,
        "psi": shift.psi,
        "js": shift.js,
        "limit": shift.limit,
        "verdict": shift.verdict,
        "ks": drift.kolmogorov_smirnov(counts[:-2], shares[:-2]) if is_numeric else None,
        "chi_square": None if is_numeric else drift.chi_square(counts, shares, training_rows),
        "missing": int(counts[-2]),
        "other": int(counts[-1]),
    }

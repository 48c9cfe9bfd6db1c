"""Drift since the service started, from the counters of all workers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from client.observability.drift import Shift, chi_square, kolmogorov_smirnov, ranked, shift
from client.observability.drift_counts import NUMBERS, BinnedColumn, Reference, reference_of
from client.observability.samples import Samples
from client.serving.schema import Schema
from client.serving.tensors import Array


def drift_summary(schema: Schema, samples: Samples) -> dict[str, Any] | None:
    """Return the drift of a version's columns, most drifted first; None without a reference."""
    reference = reference_of(schema)
    if reference is None:
        return None
    counts = _counts(schema, reference, samples)
    columns = {column.name: column for column in reference.columns}
    shifts = [
        (name, shift(counts[name], np.array(column.shares), reference.rows, len(columns)))
        for name, column in columns.items()
    ]
    return {
        "version": schema.version,
        "rows": int(max(of_bins.sum() for of_bins in counts.values())),
        "columns": [
            _column(columns[name], found, counts[name], reference.rows)
            for name, found in ranked(shifts)
        ],
    }


def _counts(schema: Schema, reference: Reference, samples: Samples) -> dict[str, Array]:
    """Return the rows in each bin, by column."""
    version = str(schema.version)
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for labels, value in samples.series("client_drift_rows_total"):
        if labels["model"] == schema.model and labels["version"] == version:
            found[labels["column"]][labels["bin"]] = value
    return {
        column.name: np.array([found[column.name].get(one, 0) for one in column.bins])
        for column in reference.columns
    }


def _column(column: BinnedColumn, found: Shift, counts: Array, trained: int) -> dict[str, Any]:
    shares = np.array(column.shares)
    is_number = column.kind in NUMBERS
    return {
        "column": column.name,
        "psi": found.psi,
        "js": found.js,
        "limit": found.limit,
        "verdict": found.verdict,
        "ks": kolmogorov_smirnov(counts[:-2], shares[:-2]) if is_number else None,
        "chi_square": None if is_number else chi_square(counts, shares, trained),
        "missing": int(counts[-2]),
        "other": int(counts[-1]),
    }

"""The reference: distributions of the training rows and their predictions, for monitoring.

The signature `describe` and the file `reference.json` of a version contain it as JSON:

    {"format": 1, "rows": N, "class_names": [class 0, class 1], "positive_rate": p,
     "probability": {"edges": [...], "shares": [...]},
     "columns": [{"name": ..., "kind": ..., "edges": [...] or "values": [...], "shares": [...],
                  "missing": share, "other": share, "contribution": deviation}]}

Shares are fractions of all training rows, regardless of their weights. Bin i holds values above
edge i − 1 up to and including edge i. `contribution` is the standard deviation of the column's
contribution to the logit, over held-out rows.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from training.data.bins import BINS, count, decile_edges
from training.features.columns import Column, Floats
from training.fitting.problem import Problem

REFERENCE_FILE = "reference.json"
MAX_COLUMNS = 200
# Maximum relative error of served probabilities, which are computed in float32.
MAX_SERVED_ERROR = 1e-4


def reference(problem: Problem, theta: Floats, contributions: Floats) -> str:
    """Return the reference of a fit as JSON.

    `contributions` are each column's contributions to the logit, `[held-out rows, columns]`.
    """
    table, workers = problem.table, problem.workers
    rows = table.rows["train"]
    sample, _, _ = problem.sample_predictions(theta)
    edges = probability_edges(sample)
    bin_counts, positives = np.zeros(BINS + 1), 0.0
    for probabilities, labels in problem.training_predictions(theta):
        bin_counts += count(probabilities, edges)
        positives += float(labels.sum())
    *counts, positives = workers.sum(np.append(bin_counts, positives)).tolist()
    spread = contributions.std(axis=0) if len(contributions) else np.zeros(len(table.columns))
    # The columns that move predictions most, in the table's order.
    indices = np.sort(np.argsort(-spread, kind="stable")[:MAX_COLUMNS]).tolist()
    document = {
        "format": 1,
        "rows": rows,
        "class_names": table.class_names,
        "positive_rate": positives / rows,
        "probability": {
            "edges": edges.tolist(),
            "shares": [n / rows for n in counts[: len(edges) + 1]],
        },
        "columns": [_describe_column(problem, table.columns[i], float(spread[i])) for i in indices],
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def probability_edges(probabilities: Floats) -> Floats:
    """Return deciles of probabilities, moved so that float32 rounding carries few rows across them.

    With few categories, there are few distinct probabilities, and each decile equals one of them.
    The edge is therefore midway between it and the next larger one.
    """
    values = np.sort(probabilities)
    after = np.searchsorted(values, decile_edges(values) * (1 + MAX_SERVED_ERROR), "right")
    after = np.unique(after[after < len(values)])
    return np.asarray((values[after - 1] + values[after]) / 2)


def _describe_column(problem: Problem, column: Column, contribution: float) -> dict[str, Any]:
    bins, rows = problem.table.bins[column.name], problem.table.rows["train"]
    bin_fields = {"edges": bins.edges} if column.is_number else {"values": bins.values}
    return {
        "name": column.name,
        "kind": column.kind,
        **bin_fields,
        "shares": [n / rows for n in bins.counts],
        "missing": bins.missing / rows,
        "other": bins.other / rows,
        "contribution": contribution,
    }

"""Label leakage: columns that alone predict the held-out rows almost perfectly."""

from __future__ import annotations

import numpy as np

from training.data.table import Table
from training.features.columns import Floats

MAX_LEAKAGE_ROWS = 20_000
MIN_ROWS_PER_CLASS = 5
SUSPICIOUS_AUC = 0.995


def leakage_warnings(table: Table) -> list[str]:
    """Return a warning for each column that alone predicts held-out rows almost perfectly.

    A number is scored by its value, a category by its rate of class 1 in the training rows.
    """
    rows = table.held_out.sample(MAX_LEAKAGE_ROWS)
    labels = table.class_of[rows.label] == 1
    if min(labels.sum(), (~labels).sum()) < MIN_ROWS_PER_CLASS:
        return []
    encoder = table.encoder
    scores: dict[str, Floats] = {}
    for group, values in ((encoder.numbers, rows.numbers), (encoder.wide, rows.wide)):
        for position, column in enumerate(group):
            cells = values[:, position].astype(np.float64)
            scores[column.name] = np.where(np.isnan(cells), column.mean, cells)
    for position, column in enumerate(encoder.categories):
        indices = table.indices[position][rows.codes[:, position] + 1]
        scores[column.name] = table.rates[position][indices]
    aucs = {name: separation(labels, score) for name, score in scores.items()}
    return [
        f"column {column.name!r} alone predicts {table.label_name!r} on held-out rows with AUC "
        f"{aucs[column.name]:.4f}; if it is known only after the outcome, use "
        f"--leave-out {column.name!r}"
        for column in table.columns
        if aucs[column.name] > SUSPICIOUS_AUC
    ]


def separation(labels: np.ndarray[tuple[int], np.dtype[np.bool_]], scores: Floats) -> float:
    """Return the AUC of the scores or of their negatives, whichever is larger."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last_ranks = np.cumsum(counts)
    ranks = (last_ranks - (counts - 1) / 2)[inverse]
    positives = int(labels.sum())
    area = ranks[labels].sum() - positives * (positives + 1) / 2
    auc = float(area / (positives * (len(labels) - positives)))
    return max(auc, 1 - auc)

"""Drift statistics from counts per bin.

The gateway computes the same statistics for `/stats`; a test compares them. References: Yurdakul
(2018), "Statistical properties of the population stability index", for its distribution without
drift; Lin (1991), "Divergence measures based on the Shannon entropy", for the divergence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

# Conventional PSI thresholds for a moderate and a large shift.
WARN, ALARM = 0.1, 0.25
# Probability of any false alarm among all columns of a window.
ALPHA = 0.01

Floats = npt.NDArray[np.float64]
Verdict = Literal["ok", "warn", "alarm", "too few rows"]


@dataclass(frozen=True)
class Shift:
    """The difference between a column's requested and training values.

    Attributes:
        psi: population stability index.
        psi_limit: PSI that chance alone rarely exceeds.
        js: Jensen-Shannon distance, base 2, from 0 to 1.
        ks: Kolmogorov-Smirnov statistic; None for categories, which have no order.
        chi_square: chi-square statistic of the hypothesis that both have the same shares.
        chi_square_limit: critical value of `chi_square`.
        verdict: from the PSI, its limit, `WARN` and `ALARM`.
    """

    psi: float
    psi_limit: float
    js: float
    ks: float | None
    chi_square: float
    chi_square_limit: float
    verdict: Verdict


def shift(
    counts: Floats,
    shares: Floats,
    training_rows: int,
    *,
    columns: int = 1,
    ordered_bins: int | None = None,
) -> Shift:
    """Return the shift of the rows in requests from the training rows.

    Args:
        counts: rows in requests per bin, including the bins missing and other.
        shares: shares of training rows in the same bins.
        training_rows: number of training rows.
        columns: number of columns tested together.
        ordered_bins: number of leading bins that are ordered; None if the bins have no order.
    """
    ks = None
    if ordered_bins is not None:
        ks = kolmogorov_smirnov(counts[:ordered_bins], shares[:ordered_bins])
    expected = training_rows * shares
    non_empty = counts + expected > 0
    bins, rows = int(non_empty.sum()), float(counts.sum())
    if not rows or not training_rows or bins < 2:
        return Shift(0.0, math.inf, 0.0, ks, 0.0, math.inf, "too few rows")
    # Add half a row to each bin: the logarithm of an empty one would be infinite.
    p, q = counts[non_empty] + 0.5, expected[non_empty] + 0.5
    p, q = p / p.sum(), q / q.sum()
    psi = float(((p - q) * np.log(p / q)).sum())
    mixture = (p + q) / 2
    divergence = float((p * np.log2(p / mixture) + q * np.log2(q / mixture)).sum()) / 2
    quantile = chi_square_quantile(1 - ALPHA / columns, bins - 1)
    limit = noise_limit(quantile, bins, rows, training_rows)
    return Shift(
        psi=psi,
        psi_limit=limit,
        js=math.sqrt(max(0.0, divergence)),
        ks=ks,
        chi_square=chi_square(counts[non_empty], expected[non_empty]),
        chi_square_limit=quantile,
        verdict=verdict(psi, limit),
    )


def noise_limit(quantile: float, bins: int, rows: float, training_rows: int) -> float:
    """Return the PSI that corresponds to a chi-square quantile.

    Without drift, PSI is approximately chi-square with `bins` − 1 degrees of freedom, times
    1/rows + 1/training_rows. The last factor allows for its heavier tail with few rows.
    """
    return quantile * (1 / rows + 1 / training_rows) * (1 + bins / min(rows, training_rows))


def verdict(psi: float, limit: float) -> Verdict:
    """Return the verdict on a PSI; below the limit it is noise."""
    if psi > limit and psi >= WARN:
        return "alarm" if psi >= ALARM else "warn"
    return "too few rows" if limit > ALARM else "ok"


def kolmogorov_smirnov(counts: Floats, shares: Floats) -> float:
    """Return the largest difference between cumulative shares over ordered bins."""
    if not counts.sum() or not shares.sum():
        return 0.0
    difference = np.cumsum(counts) / counts.sum() - np.cumsum(shares) / shares.sum()
    return float(np.abs(difference).max())


def chi_square(counts: Floats, expected: Floats) -> float:
    """Return Pearson's chi-square statistic of two samples of counts."""
    rows, training_rows = counts.sum(), expected.sum()
    pooled = (counts + expected) / (rows + training_rows)
    return float(
        ((counts - rows * pooled) ** 2 / (rows * pooled)).sum()
        + ((expected - training_rows * pooled) ** 2 / (training_rows * pooled)).sum()
    )


@lru_cache(maxsize=4096)
def chi_square_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of the chi-square distribution by bisection."""
    low, high = 0.0, 1.0
    while _survival(high, degrees) > 1 - probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if _survival(middle, degrees) > 1 - probability:
            low = middle
        else:
            high = middle
    return high


def _survival(x: float, degrees: int) -> float:
    """Return the probability of chi-square above x (Abramowitz and Stegun 26.4.4 and 26.4.5)."""
    if degrees % 2:
        total, term, first = math.erfc(math.sqrt(x / 2)), math.sqrt(2 * x / math.pi), 1
    else:
        total, term, first = 0.0, 1.0, 0
    term *= math.exp(-x / 2)
    for step in range(first, degrees, 2):
        total += term
        term *= x / (step + 2)
    return total

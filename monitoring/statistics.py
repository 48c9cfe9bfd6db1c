"""Statistics of drift, from counts per bin.

The gateway computes the same for `/stats`; a test compares them. The index without drift: Yurdakul
(2018), "Statistical properties of the population stability index"; the divergence: Lin (1991),
"Divergence measures based on the Shannon entropy".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

# Indices above which a shift is usually called moderate, and large.
WARN, ALARM = 0.1, 0.25
# Chance of any alarm among all columns of a window, if nothing has drifted.
ALPHA = 0.01

Floats = npt.NDArray[np.float64]
Verdict = Literal["ok", "warn", "alarm", "too few rows"]


@dataclass(frozen=True)
class Shift:
    """How far a column's values are from those in training.

    Attributes:
        psi: population stability index.
        psi_limit: index that chance alone rarely exceeds.
        js: Jensen-Shannon distance, base 2, from 0 to 1.
        ks: largest difference of the cumulative shares; None for categories, which have no order.
        chi_square: statistic of the hypothesis that both have the same shares.
        chi_square_limit: its quantile.
        verdict: from the index, its limit, `WARN` and `ALARM`.
    """

    psi: float
    psi_limit: float
    js: float
    ks: float | None
    chi_square: float
    chi_square_limit: float
    verdict: Verdict


def shift(
    counts: Floats, shares: Floats, trained: int, *, columns: int = 1, ordered: int | None = None
) -> Shift:
    """Compare counts with the shares in training.

    Args:
        counts: requested rows in each bin, including those missing and other.
        shares: share of the training rows in the same bins.
        trained: number of training rows.
        columns: number of columns that are judged together.
        ordered: number of bins, from the first, that have an order; None if there is no order.
    """
    ks = None if ordered is None else kolmogorov_smirnov(counts[:ordered], shares[:ordered])
    expected = trained * shares
    used = counts + expected > 0
    bins, rows = int(used.sum()), float(counts.sum())
    if not rows or not trained or bins < 2:
        return Shift(0.0, math.inf, 0.0, ks, 0.0, math.inf, "too few rows")
    # Half a row more in each bin keeps the logarithm of an empty one finite.
    p, q = counts[used] + 0.5, expected[used] + 0.5
    p, q = p / p.sum(), q / q.sum()
    psi = float(((p - q) * np.log(p / q)).sum())
    middle = (p + q) / 2
    divergence = float((p * np.log2(p / middle) + q * np.log2(q / middle)).sum()) / 2
    quantile = chi_square_quantile(1 - ALPHA / columns, bins - 1)
    limit = noise_limit(quantile, bins, rows, trained)
    return Shift(
        psi=psi,
        psi_limit=limit,
        js=math.sqrt(max(0.0, divergence)),
        ks=ks,
        chi_square=chi_square(counts[used], expected[used]),
        chi_square_limit=quantile,
        verdict=verdict(psi, limit),
    )


def noise_limit(quantile: float, bins: int, rows: float, trained: int) -> float:
    """Return the index that chance exceeds with the same probability as chi-square a quantile.

    Without drift the index is about chi-square with `bins` − 1 degrees of freedom, times
    1/rows + 1/trained. The last factor is for few rows, where its tail is heavier.
    """
    return quantile * (1 / rows + 1 / trained) * (1 + bins / min(rows, trained))


def verdict(psi: float, limit: float) -> Verdict:
    """Return the verdict on an index; below the limit it is noise."""
    if psi > limit and psi >= WARN:
        return "alarm" if psi >= ALARM else "warn"
    return "too few rows" if limit > ALARM else "ok"


def kolmogorov_smirnov(counts: Floats, shares: Floats) -> float:
    """Return the largest difference of the cumulative shares over ordered bins."""
    if not counts.sum() or not shares.sum():
        return 0.0
    difference = np.cumsum(counts) / counts.sum() - np.cumsum(shares) / shares.sum()
    return float(np.abs(difference).max())


def chi_square(counts: Floats, expected: Floats) -> float:
    """Return Pearson's statistic of two samples, given as counts."""
    rows, trained = counts.sum(), expected.sum()
    pooled = (counts + expected) / (rows + trained)
    return float(
        ((counts - rows * pooled) ** 2 / (rows * pooled)).sum()
        + ((expected - trained * pooled) ** 2 / (trained * pooled)).sum()
    )


@lru_cache(maxsize=4096)
def chi_square_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of the chi-square distribution, by bisection."""
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

"""Drift between requested rows and training rows, from counts per bin.

`monitoring` computes the same statistics for its jobs; a test compares them. The index without
drift: Yurdakul (2018), "Statistical properties of the population stability index".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from client.serving.tensors import Array

# The population stability index above which a shift is usually called moderate, and large.
WARN, ALARM = 0.1, 0.25
# Chance of any alarm among the columns that are judged together, if nothing has drifted.
ALPHA = 0.01
BISECTIONS = 60

Verdict = Literal["ok", "warn", "alarm", "too few rows"]


class Shift(NamedTuple):
    """How far a column's values are from those in training.

    Attributes:
        psi: the population stability index.
        js: the Jensen-Shannon distance, base 2, from 0 to 1.
        limit: the population stability index that chance alone rarely exceeds.
        verdict: from the index and its limit.
    """

    psi: float
    js: float
    limit: float
    verdict: Verdict


def shift(counts: Array, shares: Array, trained: int, columns: int = 1) -> Shift:
    """Compare counts per bin with the shares in training.

    Args:
        counts: requested rows in each bin, including missing and other values.
        shares: the share of the training rows in the same bins.
        trained: number of training rows.
        columns: number of columns that are judged together.
    """
    p, q = smoothed(counts, shares, trained)
    rows = int(counts.sum())
    if not rows or not trained or len(p) < 2:
        return Shift(0.0, 0.0, math.inf, "too few rows")
    psi = float(((p - q) * np.log(p / q)).sum())
    limit = noise_limit(len(p), rows, trained, columns)
    return Shift(psi, _js(p, q), limit, verdict(psi, limit))


def smoothed(counts: Array, shares: Array, trained: int) -> tuple[Array, Array]:
    """Return the shares of requested and training rows, with half a row added to each bin.

    Bins that are empty in both are left out. The half keeps the logarithm of an empty bin finite.
    """
    expected = trained * np.asarray(shares, np.float64)
    used = counts + expected > 0
    counts, expected = counts[used] + 0.5, expected[used] + 0.5
    return counts / counts.sum(), expected / expected.sum()


def kolmogorov_smirnov(counts: Array, shares: Array) -> float:
    """Return the largest difference of the cumulative shares over ordered bins."""
    if not counts.sum() or not np.sum(shares):
        return 0.0
    difference = np.cumsum(counts) / counts.sum() - np.cumsum(shares) / np.sum(shares)
    return float(np.abs(difference).max())


def chi_square(counts: Array, shares: Array, trained: int) -> float:
    """Return the chi-square statistic of the hypothesis that both have the same shares."""
    expected = trained * np.asarray(shares, np.float64)
    rows = counts.sum()
    pooled = (counts + expected) / (rows + trained)
    used = pooled > 0
    total = 0.0
    for observed, size in ((counts, rows), (expected, trained)):
        mean = size * pooled[used]
        total += float(((observed[used] - mean) ** 2 / mean).sum()) if size else 0.0
    return total


def noise_limit(bins: int, rows: int, trained: int, columns: int = 1) -> float:
    """Return the population stability index that chance exceeds in `ALPHA` of the comparisons.

    Without drift the index is about chi-square with `bins` - 1 degrees of freedom, times
    1/rows + 1/trained. The last factor is for few rows, where its tail is heavier: without it 2 %
    of windows of 100 rows exceed the limit of 1 %.

    Args:
        bins: number of bins.
        rows: number of requested rows.
        trained: number of training rows.
        columns: number of columns that are judged together.
    """
    quantile = chi_square_quantile(1 - ALPHA / columns, bins - 1)
    return quantile * (1 / rows + 1 / trained) * (1 + bins / min(rows, trained))


@lru_cache(maxsize=4096)
def chi_square_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of the chi-square distribution, by bisection of its closed form."""
    low, high = 0.0, 1.0
    while _survival(high, degrees) > 1 - probability:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
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


def verdict(psi: float, limit: float) -> Verdict:
    """Return the verdict on an index; below the limit it is noise."""
    if psi > limit and psi >= WARN:
        return "alarm" if psi >= ALARM else "warn"
    return "too few rows" if limit > ALARM else "ok"


def _js(p: Array, q: Array) -> float:
    middle = (p + q) / 2
    divergence = (p * np.log2(p / middle) + q * np.log2(q / middle)).sum() / 2
    return math.sqrt(max(0.0, float(divergence)))


def ranked(shifts: Sequence[tuple[str, Shift]]) -> list[tuple[str, Shift]]:
    """Return the columns, the one that exceeds its limit most first."""
    return sorted(shifts, key=lambda one: one[1].psi / one[1].limit, reverse=True)

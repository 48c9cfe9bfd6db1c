"""Drift between the rows in requests and the training rows, from counts per bin.

`monitoring` computes the same statistics for its jobs; a test compares them. Distribution of the
index without drift: Yurdakul (2018), "Statistical properties of the population stability index".
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
# Probability of any alarm among the columns judged together, if nothing has drifted.
ALPHA = 0.01
BISECTIONS = 60

Verdict = Literal["ok", "warn", "alarm", "too few rows"]


class Shift(NamedTuple):
    """The distance of a column's values from those in training.

    Attributes:
        psi: the population stability index.
        js: the Jensen-Shannon distance, base 2, from 0 to 1.
        limit: the population stability index that chance alone rarely exceeds.
        verdict: the verdict on the index, given its limit.
    """

    psi: float
    js: float
    limit: float
    verdict: Verdict


def assess_shift(counts: Array, shares: Array, training_rows: int, columns: int = 1) -> Shift:
    """Compare counts per bin with the shares in training.

    Args:
        counts: rows in requests in each bin, including missing and other values.
        shares: the share of the training rows in the same bins.
        training_rows: number of training rows.
        columns: number of columns judged together.
    """
    p, q = smooth(counts, shares, training_rows)
    rows = int(counts.sum())
    if not rows or not training_rows or len(p) < 2:
        return Shift(0.0, 0.0, math.inf, "too few rows")
    psi = float(((p - q) * np.log(p / q)).sum())
    limit = noise_limit(len(p), rows, training_rows, columns)
    return Shift(psi, _js(p, q), limit, judge(psi, limit))


def smooth(counts: Array, shares: Array, training_rows: int) -> tuple[Array, Array]:
    """Return the shares of the rows in requests and in training, with half a row added to each bin.

    Bins that are empty in both are left out. The half row keeps logarithms finite.
    """
    expected = training_rows * np.asarray(shares, np.float64)
    occupied = counts + expected > 0
    counts, expected = counts[occupied] + 0.5, expected[occupied] + 0.5
    return counts / counts.sum(), expected / expected.sum()


def kolmogorov_smirnov(counts: Array, shares: Array) -> float:
    """Return the largest difference between the cumulative shares over ordered bins."""
    if not counts.sum() or not np.sum(shares):
        return 0.0
    difference = np.cumsum(counts) / counts.sum() - np.cumsum(shares) / np.sum(shares)
    return float(np.abs(difference).max())


def chi_square(counts: Array, shares: Array, training_rows: int) -> float:
    """Return the chi-square statistic for the hypothesis that both have the same shares."""
    expected = training_rows * np.asarray(shares, np.float64)
    rows = counts.sum()
    pooled = (counts + expected) / (rows + training_rows)
    occupied = pooled > 0
    total = 0.0
    for observed, size in ((counts, rows), (expected, training_rows)):
        mean = size * pooled[occupied]
        total += float(((observed[occupied] - mean) ** 2 / mean).sum()) if size else 0.0
    return total


def noise_limit(bins: int, rows: int, training_rows: int, columns: int = 1) -> float:
    """Return the population stability index that chance exceeds in `ALPHA` of the comparisons.

    Without drift the index is about chi-square with `bins` - 1 degrees of freedom, times
    1/rows + 1/training_rows. The last factor allows for the heavier tail with few rows: without it,
    2% of windows of 100 rows would exceed the 1% limit.

    Args:
        bins: number of bins.
        rows: number of rows in requests.
        training_rows: number of training rows.
        columns: number of columns judged together.
    """
    quantile = chi_square_quantile(1 - ALPHA / columns, bins - 1)
    return quantile * (1 / rows + 1 / training_rows) * (1 + bins / min(rows, training_rows))


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


def judge(psi: float, limit: float) -> Verdict:
    """Return the verdict on an index; up to its limit, an index is noise."""
    if psi > limit and psi >= WARN:
        return "alarm" if psi >= ALARM else "warn"
    return "too few rows" if limit > ALARM else "ok"


def _js(p: Array, q: Array) -> float:
    mixture = (p + q) / 2
    divergence = (p * np.log2(p / mixture) + q * np.log2(q / mixture)).sum() / 2
    return math.sqrt(max(0.0, float(divergence)))


def rank_shifts(shifts: Sequence[tuple[str, Shift]]) -> list[tuple[str, Shift]]:
    """Sort columns by the ratio of their index to its limit, the highest first."""
    return sorted(shifts, key=lambda item: item[1].psi / item[1].limit, reverse=True)

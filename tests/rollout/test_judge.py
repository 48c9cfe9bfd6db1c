"""Error rates of the sequential tests, from simulations with known rates."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from math import exp, log

import numpy as np
import pytest
from numpy.typing import NDArray

from rollout import judge
from rollout.judge import Floats
from rollout.verdicts import ALPHA, SPLIT

RUNS = 1000
CHUNK = 50
FAILED_THRESHOLD = 1 / (ALPHA * SPLIT["failed"])
MAX_EVENTS = 10**6

Counts = NDArray[np.int64]


def chunks(seed: int, runs: int = RUNS) -> Iterator[np.random.Generator]:
    """Yield a random generator for each chunk of `CHUNK` runs, which bounds memory."""
    for number in range(runs // CHUNK):
        yield np.random.default_rng((seed, number))


def e_paths(canary: Floats, control: Floats, share: Floats | float) -> Floats:
    """Return the e-value after each interval; all arrays have shape [runs, intervals]."""
    logs = judge.log_likelihood_ratios(canary, control, np.broadcast_to(share, canary.shape))
    return np.exp(judge.log_e_value(np.cumsum(logs, axis=1)))


def count_bad(bad: NDArray[np.bool_]) -> Counts:
    """Return the number of bad events up to each call, shape [runs, calls]."""
    return np.cumsum(bad, axis=1, dtype=np.int64)


def e_of_counts(canary: Counts, control: Counts) -> Floats:
    """Return e-values of bad-event counts in arms of equal size; equal pairs are computed once."""
    pairs, indices = np.unique(canary * MAX_EVENTS + control, return_inverse=True)
    logs = judge.log_likelihood_ratios(pairs // MAX_EVENTS, pairs % MAX_EVENTS, 0.5)
    e: Floats = np.exp(judge.log_e_value(logs))
    paths: Floats = e[indices.reshape(canary.shape)]
    return paths


def test_e_value_of_nine_failures_to_none_matches_the_closed_form() -> None:
    # ∫ θ⁹ dθ over (½, 1), divided by ½ and by (½)⁹.
    expected = (1 - 0.5**10) / 10 / 0.5 / 0.5**9
    log_e = judge.log_e_value(judge.log_likelihood_ratios(9, 0, 0.5))
    assert exp(float(log_e)) == pytest.approx(expected) == pytest.approx(102.3, abs=0.1)


def test_identical_versions_are_rolled_back_with_probability_at_most_alpha() -> None:
    rollbacks = 0
    for random in chunks(1):
        # Checked after each of 600 bad events: 20,000 calls per arm if 1.5% fail.
        canary = count_bad(random.random((CHUNK, 600)) < 0.5)
        control = np.arange(1, 601) - canary
        rollbacks += int((e_of_counts(canary, control) >= 1 / ALPHA).any(axis=1).sum())
    assert rollbacks <= 0.01 * RUNS + 3 * (0.01 * RUNS) ** 0.5


def test_false_rollbacks_stay_rare_when_shares_change() -> None:
    rollbacks = 0
    for random in chunks(2):
        # Calls per arm and interval; 30% of the calls fail in both arms.
        calls = random.integers(1, 40, (2, CHUNK, 200))
        canary, control = random.binomial(calls, 0.3).astype(float)
        share = calls[0] / calls.sum(axis=0)
        rollbacks += int((e_paths(canary, control, share) >= 1 / ALPHA).any(axis=1).sum())
    assert rollbacks <= 0.01 * RUNS + 3 * (0.01 * RUNS) ** 0.5


def test_better_canary_is_not_rolled_back() -> None:
    for random in chunks(3, 100):
        canary = (random.random((CHUNK, 500)) < 0.3).astype(float)
        assert (e_paths(canary, 1 - canary, 0.5) < 1 / ALPHA).all()


@pytest.mark.parametrize(
    ("rate", "calls", "at_most"),
    [(1.0, 30, 12), (0.5, 100, 25), (0.05, 900, 260), (0.01, 5000, 1600)],
)
def test_worse_canary_is_detected_early(rate: float, calls: int, at_most: int) -> None:
    """Bound the median number of calls per arm until the verdict; 0.1% of control calls fail."""
    detected_at: list[int] = []
    for random in chunks(4, 100):
        canary = count_bad(random.random((CHUNK, calls)) < rate)
        control = count_bad(random.random((CHUNK, calls)) < 0.001)
        is_detected = e_of_counts(canary, control) >= FAILED_THRESHOLD
        assert is_detected.any(axis=1).mean() > 0.9
        detected_at += (np.argmax(is_detected, axis=1) + 1).tolist()
    assert np.median(detected_at) <= at_most
    assert rate < 1 or max(detected_at) <= 20


def test_counting_calls_instead_of_requests_keeps_false_rollbacks_rare() -> None:
    """1% of the calls, of 16 requests each, fail in both arms."""
    rollbacks = {"calls": 0, "requests": 0}
    for random in chunks(5, 400):
        canary = count_bad(random.random((CHUNK, 400)) < 0.5)
        control = np.arange(1, 401) - canary
        for unit, size in (("calls", 1), ("requests", 16)):
            e = e_of_counts(size * canary, size * control)
            rollbacks[unit] += int((e >= 1 / ALPHA).any(axis=1).sum())
    assert rollbacks["requests"] > 0.5 * 400
    assert rollbacks["calls"] <= 0.01 * 400 + 3 * (0.01 * 400) ** 0.5


def test_only_excess_label_flips_cause_a_rollback() -> None:
    random = np.random.default_rng(6)
    log_e = functools.cache(judge.log_e_excess)
    rollbacks = 0
    for _ in range(200):
        flips = np.cumsum(random.random(300) < 0.05)
        logs = [log_e(int(flips[n - 1]), n, 0.05) for n in range(10, 301, 10)]
        rollbacks += max(logs) >= np.log(1 / ALPHA)
    assert rollbacks <= 8
    assert judge.log_e_excess(12, 30, 0.05) > np.log(1000)
    # Fractional events: each of 30 calls has 40% flipped rows.
    assert judge.log_e_excess(30 * 0.4, 30, 0.05) == judge.log_e_excess(12, 30, 0.05)


def test_bounds_hold_at_every_check() -> None:
    random = np.random.default_rng(7)
    upper, lower = map(functools.cache, (judge.upper_bound, judge.lower_bound))
    violations = 0
    for _ in range(100):
        bad = np.cumsum(random.random(500) < 0.02)
        violations += any(
            upper(int(bad[n - 1]), n, 0.05) < 0.02 or lower(int(bad[n - 1]), n, 0.05) > 0.02
            for n in range(20, 501, 40)
        )
    assert violations <= 0.1 * 100
    assert judge.upper_bound(0, 0, 0.05) == 1
    assert judge.lower_bound(0, 0, 0.05) == 0
    assert judge.upper_bound(5, 5, 0.05) == 1
    assert judge.lower_bound(0, 5, 0.05) == 0
    assert judge.upper_bound(0, 200, 0.025) == pytest.approx(0.044, abs=0.002)
    assert (
        judge.harm_bound((0, 200), (0, 200), 0.05)
        < 0.05
        < judge.harm_bound((9, 200), (0, 200), 0.05)
    )


def test_uneven_split_is_detected_and_even_split_is_not() -> None:
    assert judge.log_e_imbalance(700, 300, 0.5) > np.log(1000)
    assert judge.log_e_imbalance(505, 495, 0.5) < 0
    # A share of 75% for the canary leaves 25% for control.
    assert judge.log_e_imbalance(752, 248, 0.75) < 0


def test_e_values_are_formatted_without_exponents() -> None:
    values = (1.234, 102.4, 999.6, 12_345.0, 2e6)
    formatted = [judge.format_e_value(log(e)) for e in values]
    assert formatted == ["1.23", "102", "1,000", "12,345", "> 1,000,000"]

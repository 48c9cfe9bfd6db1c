"""The statistics hold: simulations with known truths, many runs at once."""

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
NEEDED = 1 / (ALPHA * SPLIT["failed"])
MAX_EVENTS = 10**6

Counts = NDArray[np.int64]


def chunks(seed: int, runs: int = RUNS) -> Iterator[np.random.Generator]:
    """Yield a generator for each `CHUNK` runs; memory is limited, and so is time."""
    for number in range(runs // CHUNK):
        yield np.random.default_rng((seed, number))


def e_paths(canary: Floats, control: Floats, share: Floats | float) -> Floats:
    """Return e after each interval, shape [runs, intervals], of bad events of that shape."""
    logs = judge.log_likelihood_ratios(canary, control, np.broadcast_to(share, canary.shape))
    return np.exp(judge.log_e_value(np.cumsum(logs, axis=1)))


def totals(bad: NDArray[np.bool_]) -> Counts:
    """Return the number of bad events until each call, shape [runs, calls]."""
    return np.cumsum(bad, axis=1, dtype=np.int64)


def e_of_totals(canary: Counts, control: Counts) -> Floats:
    """Return e of the bad events so far, in arms of equal size; equal pairs are computed once."""
    pairs, places = np.unique(canary * MAX_EVENTS + control, return_inverse=True)
    logs = judge.log_likelihood_ratios(pairs // MAX_EVENTS, pairs % MAX_EVENTS, 0.5)
    e: Floats = np.exp(judge.log_e_value(logs))
    paths: Floats = e[places.reshape(canary.shape)]
    return paths


def test_nine_failures_against_none_are_the_closed_form() -> None:
    # ∫ θ⁹ dθ over (½, 1), divided by ½ and by (½)⁹.
    expected = (1 - 0.5**10) / 10 / 0.5 / 0.5**9
    log_e = judge.log_e_value(judge.log_likelihood_ratios(9, 0, 0.5))
    assert exp(float(log_e)) == pytest.approx(expected) == pytest.approx(102.3, abs=0.1)


def test_identical_versions_are_rolled_back_at_most_as_often_as_stated() -> None:
    false = 0
    for random in chunks(1):
        # A look after each of 600 bad events: 20,000 calls per arm if 1.5 % fail.
        canary = totals(random.random((CHUNK, 600)) < 0.5)
        control = np.arange(1, 601) - canary
        false += int((e_of_totals(canary, control) >= 1 / ALPHA).any(axis=1).sum())
    assert false <= 0.01 * RUNS + 3 * (0.01 * RUNS) ** 0.5


def test_shares_may_change_from_interval_to_interval() -> None:
    false = 0
    for random in chunks(2):
        # Calls of each arm and interval; a third of all calls fails, in both arms.
        calls = random.integers(1, 40, (2, CHUNK, 200))
        canary, control = random.binomial(calls, 0.3).astype(float)
        share = calls[0] / calls.sum(axis=0)
        false += int((e_paths(canary, control, share) >= 1 / ALPHA).any(axis=1).sum())
    assert false <= 0.01 * RUNS + 3 * (0.01 * RUNS) ** 0.5


def test_a_better_canary_is_not_rolled_back() -> None:
    for random in chunks(3, 100):
        canary = (random.random((CHUNK, 500)) < 0.3).astype(float)
        assert (e_paths(canary, 1 - canary, 0.5) < 1 / ALPHA).all()


@pytest.mark.parametrize(
    ("rate", "calls", "at_most"),
    [(1.0, 30, 12), (0.5, 100, 25), (0.05, 900, 260), (0.01, 5000, 1600)],
)
def test_a_worse_canary_is_found_soon(rate: float, calls: int, at_most: int) -> None:
    """The median of the calls per arm until the verdict; control fails in 0.1 % of them."""
    found: list[int] = []
    for random in chunks(4, 100):
        canary = totals(random.random((CHUNK, calls)) < rate)
        control = totals(random.random((CHUNK, calls)) < 0.001)
        over = e_of_totals(canary, control) >= NEEDED
        assert over.any(axis=1).mean() > 0.9
        found += (np.argmax(over, axis=1) + 1).tolist()
    assert np.median(found) <= at_most
    assert rate < 1 or max(found) <= 20


def test_calls_are_counted_because_requests_of_a_call_fail_together() -> None:
    """1 % of the calls, of 16 requests each, fail in both arms."""
    false = {"calls": 0, "requests": 0}
    for random in chunks(5, 400):
        canary = totals(random.random((CHUNK, 400)) < 0.5)
        control = np.arange(1, 401) - canary
        for unit, size in (("calls", 1), ("requests", 16)):
            e = e_of_totals(size * canary, size * control)
            false[unit] += int((e >= 1 / ALPHA).any(axis=1).sum())
    assert false["requests"] > 0.5 * 400
    assert false["calls"] <= 0.01 * 400 + 3 * (0.01 * 400) ** 0.5


def test_expected_label_flips_do_not_roll_back_but_more_do() -> None:
    random = np.random.default_rng(6)
    log_e = functools.cache(judge.log_e_excess)
    false = 0
    for _ in range(200):
        flips = np.cumsum(random.random(300) < 0.05)
        logs = [log_e(int(flips[n - 1]), n, 0.05) for n in range(10, 301, 10)]
        false += max(logs) >= np.log(1 / ALPHA)
    assert false <= 8
    assert judge.log_e_excess(12, 30, 0.05) > np.log(1000)
    # Fractions: of 30 calls, each has 40 % flipped rows.
    assert judge.log_e_excess(30 * 0.4, 30, 0.05) == judge.log_e_excess(12, 30, 0.05)


def test_bounds_hold_at_every_look() -> None:
    random = np.random.default_rng(7)
    upper, lower = map(functools.cache, (judge.upper_bound, judge.lower_bound))
    wrong = 0
    for _ in range(100):
        bad = np.cumsum(random.random(500) < 0.02)
        wrong += any(
            upper(int(bad[n - 1]), n, 0.05) < 0.02 or lower(int(bad[n - 1]), n, 0.05) > 0.02
            for n in range(20, 501, 40)
        )
    assert wrong <= 0.1 * 100
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


def test_an_uneven_split_is_noticed_and_an_even_one_is_not() -> None:
    assert judge.log_e_imbalance(700, 300, 0.5) > np.log(1000)
    assert judge.log_e_imbalance(505, 495, 0.5) < 0
    # 75 % to the canary leave 25 % for the control.
    assert judge.log_e_imbalance(752, 248, 0.75) < 0


def test_e_values_are_shown_without_exponents() -> None:
    values = (1.234, 102.4, 999.6, 12_345.0, 2e6)
    found = [judge.format_e_value(log(e)) for e in values]
    assert found == ["1.23", "102", "1,000", "12,345", "> 1,000,000"]

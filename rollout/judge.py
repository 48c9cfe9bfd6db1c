"""Sequential tests of a canary against its control, valid however often they are checked.

Each test is an e-value: a nonnegative statistic whose expectation is at most 1, at any stopping
time, if the canary is no worse. By Ville's inequality, the probability that it ever reaches 1/α is
at most α. docs/rollout.md derives them.

References:
    Lindon and Malek (2022), "Anytime-Valid Inference for Multinomial Count Data", NeurIPS.
    Ramdas, Grünwald, Vovk and Shafer (2023), "Game-Theoretic Statistics and Safe Anytime-Valid
    Inference", Statistical Science 38(4).
    Robbins (1970), "Statistical Methods Related to the Law of the Iterated Logarithm".
    Hoeffding (1963), "Probability Inequalities for Sums of Bounded Random Variables", theorem 4.
"""

from __future__ import annotations

from math import exp, inf, lgamma, log

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Nodes of a Gauss–Legendre rule on (0, 1): exact for up to 255 bad events if both arms have the
# same number of calls, and a valid mixture in any case.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
_UNIT: Floats = (_NODES + 1) / 2
_LOG_WEIGHTS: Floats = np.log(_WEIGHTS / 2)
# Prior: if both arms have the same number of calls, the canary's share θ of the bad events is
# uniform on (½, 1), and θ/(1−θ) is the ratio of the arms' rates.
RATIOS: Floats = (1 + _UNIT) / (1 - _UNIT)
_LOG_RATIOS: Floats = np.log(RATIOS)
_BISECTIONS = 40


def log_likelihood_ratios(canary: ArrayLike, control: ArrayLike, share: ArrayLike) -> Floats:
    """Return log likelihood ratios of `RATIOS` against equal rates, for an interval's bad events.

    Given their total, the canary's bad events are binomial with probability ρw / (ρw + 1 − w) if
    its rate is ρ times the control's. The log ratios of several intervals can be added, even
    if their shares differ.

    Args:
        canary: bad events in the canary, shape [...].
        control: bad events in the control, shape [...].
        share: the canary's share w of all calls, shape [...].

    Returns:
        Shape [..., nodes].
    """
    k, c, w = (np.asarray(value, dtype=float)[..., None] for value in (canary, control, share))
    result: Floats = k * _LOG_RATIOS - (k + c) * np.log(RATIOS * w + (1 - w))
    return result


def log_e_value(log_ratios: Floats) -> Floats:
    """Return the logarithm of the likelihood ratios' mixture: [..., nodes] becomes [...]."""
    return _log_mean_exp(log_ratios)


def log_e_excess(bad: float, total: float, rate: float) -> float:
    """Return the logarithm of the e-value against a rate of at most `rate`, 0 < rate < 1.

    A bad event may be fractional, such as a fraction of a call's rows; by convexity, the
    expectation is then smaller still.
    """
    rates = rate + (1 - rate) * _UNIT
    logs = bad * np.log(rates / rate) + (total - bad) * np.log((1 - rates) / (1 - rate))
    return float(_log_mean_exp(logs))


def log_e_imbalance(first: float, second: float, share: float) -> float:
    """Return the logarithm of the e-value against `first` having this share of the total."""
    return _log_beta(first + 1, second + 1) - first * log(share) - second * log(1 - share)


def upper_bound(bad: float, total: float, alpha: float) -> float:
    """Return a bound that a rate ever exceeds with probability at most alpha."""
    return _bound(bad, total, alpha, 1.0)


def lower_bound(bad: float, total: float, alpha: float) -> float:
    """Return a bound that a rate ever falls below with probability at most alpha."""
    return _bound(bad, total, alpha, 0.0)


def harm_bound(canary: tuple[float, float], control: tuple[float, float], alpha: float) -> float:
    """Return an upper bound on the canary's rate minus the control's; both are (bad, total)."""
    return upper_bound(*canary, alpha / 2) - lower_bound(*control, alpha / 2)


def _bound(bad: float, total: float, alpha: float, end: float) -> float:
    """Return the rate, between the observed one and `end`, at which a mixture reaches 1/alpha."""
    if total <= 0:
        return end
    mixture = _log_beta(bad + 1, total - bad + 1)
    inside, outside = bad / total, end
    if mixture - _log_likelihood(bad, total, outside) < -log(alpha):
        return end
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        if mixture - _log_likelihood(bad, total, middle) < -log(alpha):
            inside = middle
        else:
            outside = middle
    return outside


def _log_likelihood(bad: float, total: float, rate: float) -> float:
    return _times_log(bad, rate) + _times_log(total - bad, 1 - rate)


def _times_log(count: float, value: float) -> float:
    if count <= 0:
        return 0.0
    return count * log(value) if value > 0 else -inf


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _log_mean_exp(logs: Floats) -> Floats:
    weighted = logs + _LOG_WEIGHTS
    top = weighted.max(axis=-1, keepdims=True)
    result: Floats = (top + np.log(np.exp(weighted - top).sum(axis=-1, keepdims=True)))[..., 0]
    return result


def format_e_value(log_e: float) -> str:
    """Format an e-value for display; values above 10⁶ become "> 1,000,000"."""
    if log_e > log(1e6):
        return "> 1,000,000"
    return f"{exp(log_e):,.3g}" if log_e < log(999.5) else f"{exp(log_e):,.0f}"

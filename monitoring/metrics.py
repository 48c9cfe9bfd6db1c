"""Metrics of labelled rows with bootstrap intervals, and estimates without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from monitoring.statistics import Floats

CALIBRATION_BINS = 10
REPLICATES = 200
INTERVAL_QUANTILES = (0.025, 0.975)
# The 97.5% quantile of the normal distribution.
NORMAL_QUANTILE = 1.96
EPSILON = float(np.finfo(np.float64).eps)
LOWER_IS_BETTER = frozenset(("log_loss", "brier", "calibration_error"))
METRICS = ("log_loss", "brier", "auc", "accuracy", "calibration_error")


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95% interval."""

    value: float
    low: float
    high: float


class LabelledRows:
    """Labelled rows, sorted once so that each bootstrap replicate only sums weights."""

    def __init__(
        self, labels: Floats, probabilities: Floats, weights: Floats, threshold: float
    ) -> None:
        """Sort the rows.

        Args:
            labels: `[rows]`, 0 or 1.
            probabilities: `[rows]`, of class 1.
            weights: `[rows]`, above 0.
            threshold: smallest probability that is predicted as class 1.
        """
        order = np.argsort(probabilities, kind="stable")
        self.labels, self.weights = labels[order], weights[order]
        p = self.probabilities = probabilities[order]
        clipped = np.clip(p, EPSILON, 1 - EPSILON)
        self._loss = -np.where(self.labels == 1, np.log(clipped), np.log(1 - clipped))
        self._square = (p - self.labels) ** 2
        self._correct = ((p >= threshold) == (self.labels == 1)).astype(np.float64)
        # Group of each row; rows with equal probabilities share a group.
        self._group = np.cumsum(np.diff(p, prepend=p[:1]) > 0)

    def metrics(self, weights: Floats | None = None) -> dict[str, float]:
        """Return each metric of `METRICS`; the AUC is NaN if a class has no rows.

        The calibration error uses ten bins of equal weight, as in the training job.
        """
        w = self.weights if weights is None else weights
        total = w.sum()
        return {
            "log_loss": float(w @ self._loss / total),
            "brier": float(w @ self._square / total),
            "auc": self._auc(w),
            "accuracy": float(w @ self._correct / total),
            "calibration_error": self._calibration_error(w),
        }

    def estimates(self, seed: int = 0) -> dict[str, Estimate]:
        """Return each metric with its percentile bootstrap interval."""
        random = np.random.default_rng(seed)
        rows = len(self.labels)
        replicates = []
        for _ in range(REPLICATES):
            counts = np.bincount(random.integers(rows, size=rows), minlength=rows)
            replicates.append(list(self.metrics(self.weights * counts).values()))
        values = np.array(replicates)
        estimates = {}
        for index, (name, value) in enumerate(self.metrics().items()):
            finite = values[np.isfinite(values[:, index]), index]
            low, high = np.quantile(finite, INTERVAL_QUANTILES) if len(finite) else (np.nan, np.nan)
            estimates[name] = Estimate(value, float(low), float(high))
        return estimates

    def calibration(self, weights: Floats | None = None) -> tuple[Floats, Floats, Floats]:
        """Return the mean probability, share of class 1 and weight of up to ten bins."""
        w = self.weights if weights is None else weights
        by_group = np.bincount(self._group, w)
        cumulative = np.cumsum(by_group)
        rank = (cumulative - by_group / 2) / cumulative[-1]
        bins = np.minimum((rank * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)[self._group]
        weight: Floats = np.bincount(bins, w, CALIBRATION_BINS).astype(np.float64)
        predicted = np.bincount(bins, w * self.probabilities, CALIBRATION_BINS)
        observed = np.bincount(bins, w * self.labels, CALIBRATION_BINS)
        non_empty = weight > 0
        weight = weight[non_empty]
        return predicted[non_empty] / weight, observed[non_empty] / weight, weight

    def roc(self) -> tuple[Floats, Floats]:
        """Return false and true positive rates from (0, 0) to (1, 1)."""
        positives = np.bincount(self._group, self.weights * self.labels)[::-1]
        negatives = np.bincount(self._group, self.weights * (1 - self.labels))[::-1]
        false, true = (np.cumsum(np.append(0.0, counts)) for counts in (negatives, positives))
        return false / max(false[-1], EPSILON), true / max(true[-1], EPSILON)

    def _auc(self, weights: Floats) -> float:
        positives = np.bincount(self._group, weights * self.labels)
        negatives = np.bincount(self._group, weights * (1 - self.labels))
        pairs = positives.sum() * negatives.sum()
        if pairs == 0:
            return float("nan")
        # Count pairs in which class 1 scores higher; ties count half.
        below = np.cumsum(negatives) - negatives / 2
        return float(positives @ below / pairs)

    def _calibration_error(self, weights: Floats) -> float:
        predicted, observed, weight = self.calibration(weights)
        return float(weight @ np.abs(observed - predicted) / weight.sum())


def expected_metrics(
    probabilities: Floats, weights: Floats, threshold: float
) -> Mapping[str, Estimate]:
    """Estimate accuracy and log-loss without labels, assuming that only the inputs have shifted.

    Confidence-based performance estimation (Kivimäki et al. 2025, "Performance estimation in binary
    classification using calibrated confidence"): if a model is calibrated, its probabilities give
    each row's expected result. This holds under covariate shift but does not detect a change in
    the relation between inputs and label. The intervals are those of the realised metric, a
    weighted sum of independent rows.
    """
    p = np.clip(probabilities, EPSILON, 1 - EPSILON)
    is_positive = p >= threshold
    correct = np.where(is_positive, p, 1 - p)
    loss_1, loss_0 = -np.log(p), -np.log(1 - p)
    # For each metric, a row's result if its label is class 1, and if it is class 0.
    results = {"accuracy": (is_positive * 1.0, 1.0 - is_positive), "log_loss": (loss_1, loss_0)}
    expected = {"accuracy": correct, "log_loss": p * loss_1 + (1 - p) * loss_0}
    total = weights.sum()
    estimates = {}
    for name, (if_1, if_0) in results.items():
        value = float(weights @ expected[name] / total)
        variance = p * (1 - p) * (if_1 - if_0) ** 2
        error = NORMAL_QUANTILE * float(np.sqrt(weights**2 @ variance)) / total
        estimates[name] = Estimate(value, value - error, value + error)
    return estimates

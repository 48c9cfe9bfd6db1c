from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn import metrics as sklearn

from training.evaluation.metric_names import METRICS
from training.evaluation.metrics import Floats, bootstrap, choose_threshold, evaluate
from training.settings import ThresholdRule

Rows = tuple[Floats, Floats, Floats]


def make_rows(count: int = 300, seed: int = 0, digits: int = 2) -> Rows:
    """Return labels, probabilities with many ties, and integer weights, some of them 0."""
    generator = np.random.default_rng(seed)
    chance = generator.random(count)
    labels = (generator.random(count) < chance**3).astype(np.float64)
    probabilities = np.round(chance**2, digits)
    return labels, probabilities, generator.integers(0, 4, count).astype(np.float64)


def scikit_learn_metrics(
    labels: Floats, probabilities: Floats, threshold: float, weights: Floats | None
) -> dict[str, float]:
    predicted = (probabilities >= threshold).astype(np.float64)
    return {
        "accuracy": sklearn.accuracy_score(labels, predicted, sample_weight=weights),
        "precision": sklearn.precision_score(
            labels, predicted, sample_weight=weights, zero_division=0
        ),
        "recall": sklearn.recall_score(labels, predicted, sample_weight=weights),
        "f1": sklearn.f1_score(labels, predicted, sample_weight=weights),
        "auc": sklearn.roc_auc_score(labels, probabilities, sample_weight=weights),
        "average_precision": sklearn.average_precision_score(
            labels, probabilities, sample_weight=weights
        ),
        "log_loss": sklearn.log_loss(labels, probabilities, sample_weight=weights),
        "brier": sklearn.brier_score_loss(labels, probabilities, sample_weight=weights),
    }


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 1.0, 1.1])
@pytest.mark.parametrize("weighted", ["unweighted", "integers", "fractions"])
@pytest.mark.parametrize("digits", [1, 2, 17])
def test_metrics_match_scikit_learn(threshold: float, weighted: str, digits: int) -> None:
    labels, probabilities, integers = make_rows(digits=digits)
    weights = {"unweighted": None, "integers": integers, "fractions": integers / 7 + 0.01}[weighted]
    actual = evaluate(labels, probabilities, threshold, weights)
    assert tuple(actual) == METRICS
    expected = scikit_learn_metrics(labels, probabilities, threshold, weights)
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, rel=1e-10, abs=1e-12), name


def test_integer_weight_equals_repeated_rows() -> None:
    labels, probabilities, weights = make_rows()
    repeats = weights.astype(int)
    repeated = evaluate(np.repeat(labels, repeats), np.repeat(probabilities, repeats), 0.4)
    assert evaluate(labels, probabilities, 0.4, weights) == pytest.approx(repeated, rel=1e-12)


def test_metrics_ignore_row_order() -> None:
    labels, probabilities, weights = make_rows()
    order = np.random.default_rng(1).permutation(len(labels))
    shuffled = evaluate(labels[order], probabilities[order], 0.4, weights[order])
    assert evaluate(labels, probabilities, 0.4, weights) == pytest.approx(shuffled, rel=1e-12)


def test_calibration_error_uses_ten_bins_of_equal_size() -> None:
    labels, probabilities, _ = make_rows(1000, digits=17)
    order = np.argsort(probabilities)
    gaps = [abs(labels[rows].mean() - probabilities[rows].mean()) for rows in np.split(order, 10)]
    actual = evaluate(labels, probabilities, 0.5)["calibration_error"]
    assert actual == pytest.approx(np.mean(gaps))


def test_equal_probabilities_share_a_calibration_bin() -> None:
    scores = np.linspace(0.05, 0.95, 10)
    positives = np.array([2, 0, 4, 1, 7, 3, 8, 6, 10, 8])  # out of ten rows per score
    labels = (np.arange(10) < positives[:, np.newaxis]).astype(np.float64)
    actual = evaluate(labels.ravel(), np.repeat(scores, 10), 0.5)["calibration_error"]
    assert actual == pytest.approx(np.mean(np.abs(positives / 10 - scores)))


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.0, 1.0, 0.0, 1.0], {"accuracy": 1, "auc": 1, "log_loss": 0, "brier": 0}),
        ([1.0, 0.0, 1.0, 0.0], {"accuracy": 0, "auc": 0, "log_loss": 36.04, "brier": 1}),
        ([0.5, 0.5, 0.5, 0.5], {"precision": 0.5, "auc": 0.5, "calibration_error": 0}),
        ([0.1, 0.2, 0.1, 0.2], {"precision": 0, "recall": 0, "f1": 0, "average_precision": 1}),
    ],
)
def test_metrics_of_extreme_probabilities_are_finite(
    probabilities: list[float], expected: dict[str, float]
) -> None:
    metrics = evaluate(np.array([0.0, 1.0, 0.0, 1.0]), np.array(probabilities), 0.5)
    assert np.isfinite(list(metrics.values())).all()
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=0.01)


def test_intervals_match_resampling() -> None:
    labels, probabilities, weights = make_rows(400)
    intervals = bootstrap(labels, probabilities, 0.4, weights, seed=0, replicates=400)
    generator = np.random.default_rng(1)
    resampled = []
    for _ in range(400):
        i = generator.integers(len(labels), size=len(labels))
        resampled.append(scikit_learn_metrics(labels[i], probabilities[i], 0.4, weights[i]))
    for name in resampled[0]:
        expected = np.quantile([metrics[name] for metrics in resampled], [0.025, 0.975])
        width = expected[1] - expected[0]
        assert intervals[name] == pytest.approx(expected, abs=0.2 * width), name


def test_intervals_cover_true_accuracy_at_nominal_rate() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        probabilities = generator.random(200)
        labels = (generator.random(200) < probabilities).astype(np.float64)
        low, high = bootstrap(labels, probabilities, 0.5, seed=seed)["accuracy"]
        hits += low <= 0.75 <= high  # the mean of max(p, 1 − p)
    assert 90 <= hits <= 99


def test_seed_determines_intervals() -> None:
    labels, probabilities, weights = make_rows()
    first, same, other = (
        bootstrap(labels, probabilities, 0.4, weights, seed=seed) for seed in (0, 0, 1)
    )
    assert first == same
    assert tuple(first) == METRICS
    assert first != other


def test_equal_weights_do_not_change_intervals() -> None:
    labels, probabilities, _ = make_rows()
    plain = bootstrap(labels, probabilities, 0.4, seed=0)
    weighted = bootstrap(labels, probabilities, 0.4, np.full(len(labels), 2.0), seed=0)
    assert weighted == {name: pytest.approx(bounds) for name, bounds in plain.items()}


def test_resamples_of_one_class_are_ignored() -> None:
    intervals = bootstrap(np.array([0.0, 1.0]), np.array([0.2, 0.9]), 0.5, seed=0)
    assert intervals["auc"] == intervals["accuracy"] == (1.0, 1.0)
    rare = np.array([1.0] + 50 * [0.0])
    intervals = bootstrap(rare, np.linspace(0.9, 0.1, 51), 0.5, seed=0)
    assert np.isfinite(list(intervals.values())).all()


def test_bootstrap_of_many_rows_takes_seconds() -> None:
    labels, probabilities, weights = make_rows(200_000, digits=17)
    start = time.process_time()
    bootstrap(labels, probabilities, 0.4, weights, seed=0)
    assert time.process_time() - start < 10


def score(labels: Floats, predicted: Floats, rule: str, weights: Floats | None) -> float:
    if rule == "f1":
        return float(sklearn.f1_score(labels, predicted, sample_weight=weights, zero_division=0))
    recalls = sklearn.recall_score(labels, predicted, average=None, sample_weight=weights)
    return float(recalls.sum() - 1)


@pytest.mark.parametrize("rule", ["f1", "youden"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_chosen_threshold_is_optimal(rule: ThresholdRule, weighted: bool, seed: int) -> None:
    labels, probabilities, row_weights = make_rows(60, seed)
    weights = row_weights if weighted else None
    threshold = choose_threshold(labels, probabilities, rule, weights)
    best = max(
        score(labels, (probabilities >= t).astype(np.float64), rule, weights)
        for t in [*probabilities, 1.1]
    )
    chosen = (probabilities >= threshold).astype(np.float64)
    assert score(labels, chosen, rule, weights) == pytest.approx(best)


@pytest.mark.parametrize(
    ("labels", "probabilities", "threshold"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.5),
        ([0, 1], [0.25, 0.5], 0.375),
        ([0, 1], [0.0, 1.0], 0.5),
        ([1, 0], [0.2, 0.8], 0.1),  # reversed: all rows are predicted as class 1
        ([0, 1], [0.4, 0.4], 0.2),
        ([0, 1], [0.0, 0.0], 0.0),
    ],
)
@pytest.mark.parametrize("rule", ["f1", "youden"])
def test_threshold_is_midway_between_scores(
    labels: list[float], probabilities: list[float], threshold: float, rule: ThresholdRule
) -> None:
    chosen = choose_threshold(np.array(labels, np.float64), np.array(probabilities), rule)
    assert chosen == pytest.approx(threshold, abs=1e-7)


def test_tied_threshold_nearest_to_one_half_is_chosen() -> None:
    labels = np.array([1.0, 0.0, 1.0, 0.0])
    probabilities = np.array([0.9, 0.7, 0.4, 0.1])
    # Predicting class 1 for one row (0.8) or three (0.25) gives recall + specificity − 1 = 0.5.
    assert choose_threshold(labels, probabilities, "youden") == pytest.approx(0.25)


def test_threshold_separates_adjacent_scores_in_float32_and_float64() -> None:
    low = np.float32(0.5)
    for _ in range(10):
        high = np.nextafter(low, np.float32(1))
        scores = np.array([low, high])
        threshold = choose_threshold(np.array([0.0, 1.0]), scores.astype(np.float64), "f1")
        assert (scores >= np.float32(threshold)).tolist() == [False, True]
        assert (scores.astype(np.float64) >= threshold).tolist() == [False, True]
        low = high

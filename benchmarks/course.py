"""The course's own exercise, as published and with its error corrected.

The exercise fits `make_classification(n_samples=500, n_features=5, n_classes=2)`, 30% held out, in
2000 iterations at α = 0.0001. As published, it arranges X as one sample per column with
`reshape(-1, m)`, which scrambles samples and features; the correction is a transpose.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import tensorflow as tf
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

from benchmarks import report
from training.features.columns import Floats
from training.fitting.feature_blocks import Block
from training.fitting.minimize import Stopping, descend
from training.fitting.objective import Objective
from training.fitting.penalty import Penalty
from training.fitting.solvers import GradientDescent
from training.workers.collectives import Workers

SEEDS = 20
ITERATIONS = 2000


def reshape_like_course(features: Floats) -> Floats:
    """Return X as scrambled by the course's `reshape(-1, m)`, transposed to one sample per row."""
    return features.reshape(-1, len(features)).T


def make_descent(
    learning_rate: float, prepare: Callable[[Floats], Floats] = lambda x: x
) -> Callable[[Floats, Floats, Floats], Floats]:
    """Return a function that fits and predicts as the exercise does."""

    def fit_and_predict(train: Floats, labels: Floats, test: Floats) -> Floats:
        objective = Objective(
            [Block(tf.constant(prepare(train)), tf.constant(labels), tf.ones_like(labels))],
            train.shape[1],
            total_weight=len(labels),
            penalty=Penalty(),
            loss="cross-entropy",
            workers=Workers(),
        )
        theta = descend(GradientDescent(learning_rate), objective, Stopping(ITERATIONS, 0.0)).theta
        predictions: Floats = (prepare(test) @ theta[:-1] + theta[-1] > 0).astype(np.float64)
        return predictions

    return fit_and_predict


def fit_scikit_learn(train: Floats, labels: Floats, test: Floats) -> Floats:
    predictions: Floats = LogisticRegression().fit(train, labels).predict(test)
    return predictions


VARIANTS = {
    "as published, `reshape(-1, m)`, α = 0.0001": make_descent(0.0001, reshape_like_course),
    "transposed, α = 0.0001": make_descent(0.0001),
    "transposed, α = 0.1": make_descent(0.1),
    "scikit-learn's LogisticRegression": fit_scikit_learn,
}


def measure_accuracies(
    fit_and_predict: Callable[[Floats, Floats, Floats], Floats], seeds: int = SEEDS
) -> list[float]:
    """Return the accuracy on the held-out rows for each seed."""
    scores = []
    for seed in range(seeds):
        features, labels = make_classification(
            n_samples=500, n_features=5, n_classes=2, random_state=seed
        )
        train, test, train_labels, test_labels = train_test_split(
            features, labels.astype(np.float64), test_size=0.3, random_state=seed
        )
        predictions = fit_and_predict(train, train_labels, test)
        scores.append(float(accuracy_score(test_labels, predictions)))
    return scores


@click.command()
@click.option("--seeds", default=SEEDS, show_default=True, help="Number of generated tables.")
@report.write_option
def main(seeds: int, folder: Path | None) -> None:
    """Measure every variant of the course's exercise."""
    rows = []
    for name, variant in VARIANTS.items():
        scores = measure_accuracies(variant, seeds)
        spread = f"{min(scores):.2f} to {max(scores):.2f}"
        rows.append([name, f"{statistics.mean(scores):.3f}", spread])
    report.write(
        "course",
        f"Accuracy on the held-out rows of the course's exercise, {seeds} seeds.",
        ["variant", "mean", "range"],
        rows,
        ["tensorflow", "scikit-learn"],
        folder,
    )


if __name__ == "__main__":
    main()

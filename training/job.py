"""The job itself: read → fit → evaluate → publish."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from training.dataset import Table, split
from training.evaluation import evaluate
from training.export import TrainedModel, export, predict
from training.logistic_regression import Fit, Loss, optimize
from training.publish import publish

THRESHOLD = 0.5


@dataclass(frozen=True)
class FitSettings:
    """What a fit depends on besides the table.

    Attributes:
        held_out: share of the rows kept for evaluation.
        seed: of the split.
        iterations: gradient descent updates.
        learning_rate: α; None takes a safe one.
        l2: λ, scikit-learn's 1/C.
        loss: which loss of a row to minimise the mean of.
    """

    held_out: float = 0.3
    seed: int = 0
    iterations: int = 2000
    learning_rate: float | None = None
    l2: float = 1.0
    loss: Loss = "cross-entropy"


def fit(
    table: Table, settings: FitSettings, report: Callable[[int, float], None]
) -> tuple[TrainedModel, Fit]:
    """Fit the table and evaluate the fit on the rows held out.

    Args:
        table: all rows.
        settings: how to split and fit.
        report: called now and then with the number of updates done and the cost.

    Returns:
        The model, its metrics those of its serving graph, and how the descent went.

    Raises:
        FloatingPointError: the learning rate is too large.
    """
    train, test = split(table, settings.held_out, settings.seed)
    mean, deviation = train.features.mean(axis=0), train.features.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)  # a constant column has nothing to scale
    descent = optimize(
        (train.features - mean) / scale,
        train.labels,
        iterations=settings.iterations,
        learning_rate=settings.learning_rate,
        l2=settings.l2,
        loss=settings.loss,
        report=report,
    )
    model = TrainedModel(
        columns=table.columns,
        mean=mean,
        scale=scale,
        minimum=train.features.min(axis=0),
        maximum=train.features.max(axis=0),
        class_means=np.stack([train.features[train.labels == c].mean(axis=0) for c in (0, 1)]),
        weights=descent.weights,
        bias=descent.bias,
        class_names=table.class_names,
        threshold=THRESHOLD,
        trained_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        metrics={},
    )
    metrics = evaluate(test.labels, predict(model, test.features), THRESHOLD)
    return dataclasses.replace(model, metrics=metrics), descent


def publish_model(model: TrainedModel, models: Path, name: str) -> Path:
    """Publish the model as the next version of `models/name` and return its directory."""
    return publish(lambda directory: export(model, directory), models, name)

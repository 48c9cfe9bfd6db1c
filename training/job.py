"""The job itself: read → fit → evaluate → gate → publish."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from training import manifest, warmup
from training.dataset import Table, split
from training.evaluation import evaluate
from training.export import TrainedModel, export, predict
from training.gate import Rules, Verdict, check_export, judge
from training.logistic_regression import Fit, Loss, optimize
from training.publish import keep_newest, publish, versions

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


@dataclass(frozen=True)
class Candidate:
    """What a fit gives.

    Attributes:
        model: the model; its metrics are those of its serving graph on the rows held out.
        descent: how the fit went.
        held_out: the rows held out.
        facts: for the manifest: the data's fingerprint, the settings, the libraries.
    """

    model: TrainedModel
    descent: Fit
    held_out: Table
    facts: Mapping[str, Any]


def fit(table: Table, settings: FitSettings, report: Callable[[int, float], None]) -> Candidate:
    """Fit the table and evaluate the fit on the rows held out.

    Args:
        table: all rows.
        settings: how to split and fit.
        report: called now and then with the number of updates done and the cost.

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
    facts = {
        "data": manifest.fingerprint(table),
        "settings": dataclasses.asdict(settings),
        "libraries": manifest.libraries(),
        "trained_at": model.trained_at,
        "metrics": metrics,
    }
    return Candidate(dataclasses.replace(model, metrics=metrics), descent, test, facts)


def gate_and_publish(
    candidate: Candidate,
    rules: Rules,
    *,
    models: Path,
    name: str,
    force: bool = False,
    keep: int | None = None,
) -> tuple[Path, Verdict]:
    """Publish a candidate as the next version of `models/name`, if the gate lets it pass.

    Args:
        candidate: what a fit gave.
        rules: what is asked of it.
        models: the directory of all models.
        name: the model's name.
        force: publish it whatever its metrics; it must load and answer all the same.
        keep: how many versions to keep, the new one included; None keeps all.

    Returns:
        The version directory and the verdict.

    Raises:
        RefusedError: the gate did not let it pass; nothing is published.
        OSError: nothing is published, because a directory cannot be written.
    """
    model, base_path = candidate.model, models / name
    newest = versions(base_path)[-1:]
    published = base_path / str(newest[0]) if newest else None
    verdict = judge(model, candidate.held_out, published, rules, force)

    def write(directory: Path) -> None:
        export(model, directory)
        warmup.write(model, directory)
        rows = candidate.held_out.features
        check_export(directory, rows, model.probability(rows))
        manifest.write(directory, {**candidate.facts, "gate": verdict.as_json()})

    version = publish(write, models, name)
    if keep is not None:
        keep_newest(models, name, keep)
    return version, verdict

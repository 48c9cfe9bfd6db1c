"""Candidates for publication: fits, evaluated on the held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np

from training.data.choose import ColumnUse
from training.data.held_out import Examples, held_out_examples
from training.data.leakage import leakage_warnings
from training.evaluation.distributions import distributions
from training.evaluation.golden import golden
from training.evaluation.metrics import bootstrap, choose_threshold, evaluate
from training.evaluation.reference import reference
from training.evaluation.report import Coefficient, Report
from training.export.serving_module import TrainedModel
from training.features.columns import Floats
from training.features.encoder import Encoder
from training.fitting.minimize import Fit
from training.fitting.problem import Problem
from training.publishing.manifest import Data, FitSummary, Manifest, libraries
from training.settings import FitSettings


@dataclass(frozen=True)
class Candidate:
    """A fitted model, with its evaluation and records.

    Attributes:
        model: the model; its metrics are those of the held-out rows.
        fit: the fit that gave the parameters.
        held_out: the held-out rows.
        report: the report without the gate's verdict.
        manifest: the manifest without the gate's verdict and the files.
        fingerprint: the table's fingerprint, see `Data`.
        columns: the columns that are used, and how that was decided.
        left_out: the columns that are not used, and why.
    """

    model: TrainedModel
    fit: Fit
    held_out: Examples
    report: Report
    manifest: Manifest
    fingerprint: Mapping[str, Any]
    columns: tuple[ColumnUse, ...]
    left_out: tuple[ColumnUse, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about the data and the fit, one sentence each."""
        return self.manifest.warnings


def evaluate_fit(problem: Problem, fitted: Fit, settings: FitSettings, name: str) -> Candidate:
    """Evaluate a fit on the held-out rows."""
    table = problem.table
    held_out = held_out_examples(table, problem.workers, fitted.theta)
    model = TrainedModel(
        columns=table.columns,
        weights=fitted.theta[:-1],
        bias=float(fitted.theta[-1]),
        label_name=table.label_name,
        class_names=table.class_names,
        threshold=_threshold(problem, fitted, settings),
        trained_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        metrics={},
        reference=reference(problem, fitted.theta, held_out.expected.contributions),
        golden=next(filter(None, problem.workers.gather(golden(table, fitted.theta))), ""),
        missing_marks=table.missing_marks,
    )
    scored = (held_out.labels, held_out.probabilities, model.threshold)
    metrics = evaluate(*scored, held_out.weights)
    summary = summarize(problem, fitted)
    warnings = [*table.warnings, *leakage_warnings(table)]
    if not fitted.converged:
        warnings.append(not_converged(fitted, summary, settings))
    manifest = Manifest(
        trained_at=model.trained_at,
        data=Data.of(table.fingerprint, table.label_name),
        rows=dict(table.rows),
        settings=settings,
        fit=summary,
        libraries=libraries(),
        threshold=model.threshold,
        metrics=metrics,
        intervals=bootstrap(*scored, held_out.weights, seed=settings.seed),
        warnings=tuple(warnings),
    )
    report = Report(
        model=name,
        label_name=table.label_name,
        class_names=model.class_names,
        manifest=manifest,
        costs=np.array(fitted.progress.costs),
        validation_costs=np.array(fitted.progress.validation_costs),
        coefficients=_coefficients(model, problem.standard_errors(fitted.theta)),
        columns=distributions(model.columns, held_out.frame),
        left_out=table.left_out,
        labels=held_out.labels,
        probabilities=scored[1],
        sample_weights=held_out.weights,
    )
    return Candidate(
        model=replace(model, metrics=metrics, intervals=manifest.intervals),
        fit=fitted,
        held_out=held_out,
        report=report,
        manifest=manifest,
        fingerprint=table.fingerprint,
        columns=table.used,
        left_out=table.left_out,
    )


def summarize(problem: Problem, fitted: Fit) -> FitSummary:
    """Return how a fit ended, with the cost and gradient at the parameters it returned."""
    state = fitted.progress.state
    cost, gradient = problem.objective.cost_and_gradient(fitted.theta)
    rate = state.memory.get("learning_rate")
    return FitSummary(
        steps=state.steps,
        stopped_by=fitted.reason,
        converged=fitted.converged,
        cost=cost,
        gradient=float(np.abs(gradient).max()),
        learning_rate=None if rate is None else float(rate),
    )


def not_converged(fitted: Fit, summary: FitSummary, settings: FitSettings) -> str:
    """Return the warning that a fit reached its iteration limit, and how to avoid that."""
    left = f"the largest derivative of the cost is {summary.gradient:.2g}"
    if settings.optimizer == "sgd":
        left = f"the cost still changed by {fitted.progress.state.criterion:.2g}"
    others = "" if settings.optimizer in ("newton", "lbfgs") else " or --optimizer lbfgs"
    return (
        f"not converged: after {summary.steps:,} {settings.step_name}s, {left} "
        f"(tolerance {settings.tolerance:g}); use more --iterations{others}"
    )


def _threshold(problem: Problem, fitted: Fit, settings: FitSettings) -> float:
    if not isinstance(settings.threshold, str):
        return settings.threshold
    # Use training rows: the held-out rows evaluate the result, threshold included.
    probabilities, labels, weights = problem.sample_predictions(fitted.theta)
    return choose_threshold(labels, probabilities, settings.threshold, weights)


def _coefficients(model: TrainedModel, errors: Floats | None) -> list[Coefficient]:
    return [
        Coefficient(
            column=model.columns[feature.column].name,
            feature=feature.name,
            weight=float(weight),
            standard_error=None if errors is None else float(errors[position]),
            log_odds_ratio=float(weight / feature.scale),
        )
        for position, (feature, weight) in enumerate(
            zip(Encoder(model.columns).features, model.weights, strict=True)
        )
    ]

"""Candidates for publication: fits evaluated on the held-out rows."""

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
from training.evaluation.golden import golden_rows
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
    """A fitted model with its evaluation and records.

    Attributes:
        model: the model, with its metrics on the held-out rows.
        fit: the fit that produced the parameters.
        held_out: the held-out rows.
        report: the report without the gate's verdict.
        manifest: the manifest without the gate's verdict and the files.
        fingerprint: the table's fingerprint, see `Data`.
        columns: the columns that are used, and why.
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


def evaluate_fit(problem: Problem, fit: Fit, settings: FitSettings, name: str) -> Candidate:
    """Evaluate a fit on the held-out rows."""
    table = problem.table
    held_out = held_out_examples(table, problem.workers, fit.theta)
    model = TrainedModel(
        columns=table.columns,
        weights=fit.theta[:-1],
        bias=float(fit.theta[-1]),
        label_name=table.label_name,
        class_names=table.class_names,
        threshold=_resolve_threshold(problem, fit, settings),
        trained_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        metrics={},
        reference=reference(problem, fit.theta, held_out.expected.contributions),
        golden=next(filter(None, problem.workers.gather(golden_rows(table, fit.theta))), ""),
        missing_marks=table.missing_marks,
    )
    predictions = (held_out.labels, held_out.probabilities, model.threshold)
    metrics = evaluate(*predictions, held_out.weights)
    summary = _summarize(problem, fit)
    warnings = [*table.warnings, *leakage_warnings(table)]
    if not fit.converged:
        warnings.append(_convergence_warning(fit, summary, settings))
    manifest = Manifest(
        trained_at=model.trained_at,
        data=Data.from_fingerprint(table.fingerprint, table.label_name),
        rows=dict(table.rows),
        settings=settings,
        fit=summary,
        libraries=libraries(),
        threshold=model.threshold,
        metrics=metrics,
        intervals=bootstrap(*predictions, held_out.weights, seed=settings.seed),
        warnings=tuple(warnings),
    )
    report = Report(
        model=name,
        label_name=table.label_name,
        class_names=model.class_names,
        manifest=manifest,
        costs=np.array(fit.progress.costs),
        validation_costs=np.array(fit.progress.validation_costs),
        coefficients=_coefficients(model, problem.standard_errors(fit.theta)),
        columns=distributions(model.columns, held_out.frame),
        left_out=table.left_out,
        labels=held_out.labels,
        probabilities=held_out.probabilities,
        sample_weights=held_out.weights,
    )
    return Candidate(
        model=replace(model, metrics=metrics, intervals=manifest.intervals),
        fit=fit,
        held_out=held_out,
        report=report,
        manifest=manifest,
        fingerprint=table.fingerprint,
        columns=table.used,
        left_out=table.left_out,
    )


def _summarize(problem: Problem, fit: Fit) -> FitSummary:
    """Summarize how a fit ended, with the cost and gradient at its final parameters."""
    state = fit.progress.state
    cost, gradient = problem.objective.cost_and_gradient(fit.theta)
    rate = state.memory.get("learning_rate")
    return FitSummary(
        steps=state.steps,
        stopped_by=fit.reason,
        converged=fit.converged,
        cost=cost,
        gradient=float(np.abs(gradient).max()),
        learning_rate=None if rate is None else float(rate),
    )


def _convergence_warning(fit: Fit, summary: FitSummary, settings: FitSettings) -> str:
    """Return a warning that the fit reached its iteration limit, and how to avoid that."""
    distance = f"the largest derivative of the cost is {summary.gradient:.2g}"
    if settings.optimizer == "sgd":
        distance = f"the cost still changed by {fit.progress.state.criterion:.2g}"
    alternative = "" if settings.optimizer in ("newton", "lbfgs") else " or --optimizer lbfgs"
    return (
        f"not converged: after {summary.steps:,} {settings.step_name}s, {distance} "
        f"(tolerance {settings.tolerance:g}); use more --iterations{alternative}"
    )


def _resolve_threshold(problem: Problem, fit: Fit, settings: FitSettings) -> float:
    if not isinstance(settings.threshold, str):
        return settings.threshold
    # Use training rows, because the held-out rows evaluate the result, including the threshold.
    probabilities, labels, weights = problem.sample_predictions(fit.theta)
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

"""The job itself: read → fit → evaluate → gate → publish."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from training.data.choose import ColumnUse
from training.data.held_out import Examples, held_out_examples
from training.data.leakage import leakage_warnings
from training.data.reading import Source
from training.data.split import Split
from training.data.table import Choice, read_table
from training.evaluation.metrics import bootstrap, choose_threshold, evaluate
from training.evaluation.report import Coefficient, Report, render
from training.export import warmup
from training.export.serving_module import TrainedModel, export
from training.export.tensorboard import write_logs
from training.features.columns import Floats
from training.features.encoder import Encoder
from training.fitting import checkpoint
from training.fitting.interruption import StopSignals
from training.fitting.minimize import Fit, InterruptedFitError
from training.fitting.problem import Problem
from training.publishing import manifest
from training.publishing.export_check import check_export
from training.publishing.gate import Rules, Verdict, judge
from training.publishing.versions import keep_newest, publish, versions
from training.settings import FitSettings
from training.workers.collectives import Workers

REPORT_FILE = "report.html"
VALIDATION_SHARE = 0.1
DEFAULT_MEMORY = 2 << 30


@dataclass(frozen=True)
class Observer:
    """Whom to tell how it goes; by default nobody.

    Attributes:
        stage: called with what begins now.
        read: called now and then with the number of rows read.
        stepped: called after each step with their number and the cost.
        evaluated: called with the result before the gate judges it.
    """

    stage: Callable[[str], None] = lambda stage: None
    read: Callable[[int], None] = lambda rows: None
    stepped: Callable[[int, float], None] = lambda steps, cost: None
    evaluated: Callable[[Candidate], None] = lambda candidate: None


@dataclass(frozen=True)
class Target:
    """Where a result goes, and what is asked of it.

    Attributes:
        models: the directory of all models.
        name: the model's name; versions are at `models/name/<integer>`.
        rules: of the gate.
        force: publish it whatever its metrics; it must load and answer all the same.
        keep: how many versions to keep, the new one included; None keeps all.
        tensorboard: where to write logs for TensorBoard, if anywhere.
    """

    models: Path
    name: str
    rules: Rules = field(default_factory=Rules)
    force: bool = False
    keep: int | None = None
    tensorboard: Path | None = None


@dataclass(frozen=True)
class Candidate:
    """What a fit gives.

    Attributes:
        model: the model; its metrics are those of the rows held out.
        fit: how the fit went.
        held_out: the rows held out.
        report: for people.
        facts: for the manifest: the data's fingerprint, the settings, the libraries.
        columns, left_out: how each column was chosen to be used, or not.
        warnings: what is suspicious about the table, for people.
    """

    model: TrainedModel
    fit: Fit
    held_out: Examples
    report: Report
    facts: Mapping[str, Any]
    columns: tuple[ColumnUse, ...]
    left_out: tuple[ColumnUse, ...]
    warnings: tuple[str, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """What a fit that resumes this one must agree with."""
        return _identity(self.facts["data"], self.facts["settings"])


@dataclass(frozen=True)
class Published:
    """A candidate, its version directory, and what the gate found."""

    candidate: Candidate
    version: Path
    verdict: Verdict


def run(
    source: Source,
    choice: Choice,
    settings: FitSettings,
    target: Target,
    *,
    memory: int = DEFAULT_MEMORY,
    workers: Workers | None = None,
    signals: StopSignals | None = None,
    resume: bool = False,
    observer: Observer | None = None,
) -> Published | None:
    """Do the whole job.

    Args:
        source: see `fit`, as for what has the same name there.
        choice: see `fit`.
        settings: see `fit`.
        target: where the result goes.
        memory: see `fit`.
        workers: see `fit`.
        signals: see `fit`.
        resume: whether to go on with the fit that was interrupted.
        observer: see `fit`.

    Returns:
        What was published; None if that is another worker's task.

    Raises:
        InterruptedFitError: somebody asked to stop; a checkpoint is saved.
        RefusedError: the gate did not let the result pass.
        DataError, DivergedError, ResumeError, WorkersError, OSError: see `fit`.
    """
    workers = workers or Workers()
    saved = checkpoint.path_for(target.models, target.name)
    candidate = fit(
        source,
        choice,
        settings,
        name=target.name,
        memory=memory,
        workers=workers,
        signals=signals,
        saved=saved,
        resume=resume,
        observer=observer,
    )
    try:
        if workers.index:
            return None
        published = _finish(candidate, target, observer or Observer())
    except KeyboardInterrupt:
        checkpoint.save(saved, candidate.fit.progress, candidate.identity)
        raise InterruptedFitError(candidate.fit.progress) from None
    finally:
        workers.barrier()  # the first worker would miss those that leave early
    saved.unlink(missing_ok=True)
    return published


def _finish(candidate: Candidate, target: Target, observer: Observer) -> Published:
    observer.evaluated(candidate)
    if target.tensorboard is not None:
        progress = candidate.fit.progress
        write_logs(target.tensorboard, candidate.model, progress.costs, progress.validation_costs)
    observer.stage("checking and publishing")
    version, verdict = gate_and_publish(candidate, target)
    return Published(candidate, version, verdict)


def fit(
    source: Source,
    choice: Choice,
    settings: FitSettings,
    *,
    name: str = "model",
    memory: int = DEFAULT_MEMORY,
    workers: Workers | None = None,
    signals: StopSignals | None = None,
    saved: Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
) -> Candidate:
    """Read a table, fit it, and evaluate the fit on the rows held out.

    Args:
        source: where the rows come from.
        choice: what to use of it.
        settings: how to split and fit.
        name: the model's name, for the report.
        memory: how many bytes of features to keep; more are read from disk in each step.
        workers: who else fits; all get the same result.
        signals: tells whether somebody asked to stop.
        saved: where to save a checkpoint if somebody asks to stop.
        resume: whether to go on from the checkpoint that is there.
        observer: whom to tell how it goes.

    Raises:
        DataError: the table cannot be used.
        DivergedError: the learning rate is too large.
        ResumeError: the checkpoint is another fit's.
        InterruptedFitError: somebody asked to stop.
        WorkersError: another worker is gone.
        OSError: there is no space for the rows.
    """
    workers, signals = workers or Workers(), signals or StopSignals()
    observer = observer or Observer()
    validation = VALIDATION_SHARE if settings.patience is not None else 0.0
    split = Split(settings.held_out, validation, settings.seed)
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        observer.stage("reading")
        table = read_table(source, choice, split, Path(folder), workers, memory, observer.read)
        identity = _identity(table.fingerprint, asdict(settings))
        progress = checkpoint.load(saved, identity) if saved and resume else None
        problem = Problem(table, settings, memory, workers)
        fitted = None
        try:
            observer.stage("fitting")
            with signals.deferred():
                fitted = problem.fit(progress, observer.stepped, lambda: signals.requested)
            observer.stage("evaluating")
            return _evaluated(problem, fitted, settings, name)
        except KeyboardInterrupt as interrupted:
            if isinstance(interrupted, InterruptedFitError):
                progress = interrupted.progress
            elif fitted is not None:
                progress = fitted.progress
            else:
                raise  # a second signal, which does not wait
            if saved and workers.index == 0:
                checkpoint.save(saved, progress, identity)
            raise InterruptedFitError(progress) from None


def _identity(data: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": dict(data), **settings}


def _evaluated(problem: Problem, fitted: Fit, settings: FitSettings, name: str) -> Candidate:
    table = problem.table
    held_out = held_out_examples(table, problem.workers, fitted.theta)
    model = TrainedModel(
        columns=table.columns,
        weights=fitted.theta[:-1],
        bias=float(fitted.theta[-1]),
        class_names=table.class_names,
        threshold=_threshold(problem, fitted, settings),
        trained_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        metrics={},
        label_name=table.label_name,
    )
    scored = (held_out.labels, held_out.probabilities, model.threshold)
    metrics = evaluate(*scored, held_out.weights)
    intervals = bootstrap(*scored, held_out.weights, seed=settings.seed)
    facts: dict[str, Any] = {
        "data": dict(table.fingerprint),
        "rows": dict(table.rows),
        "settings": asdict(settings),
        "fit": {
            "steps": fitted.progress.state.steps,
            "stopped_by": fitted.reason,
            "cost": fitted.progress.costs[-1],
        },
        "libraries": manifest.libraries(),
        "trained_at": model.trained_at,
        "threshold": model.threshold,
        "metrics": metrics,
        "intervals": intervals,
    }
    report = Report(
        model=name,
        trained_at=model.trained_at,
        class_names=model.class_names,
        rows={"training": table.rows["train"], "held out": table.rows["held_out"]},
        settings={**facts["settings"], **facts["fit"], "source": table.fingerprint["source"]},
        metrics=metrics,
        intervals=intervals,
        threshold=model.threshold,
        threshold_rule=str(settings.threshold),
        costs=np.array(fitted.progress.costs),
        validation_costs=np.array(fitted.progress.validation_costs),
        coefficients=_coefficients(model, problem.standard_errors(fitted.theta)),
        labels=held_out.labels,
        probabilities=scored[1],
        sample_weights=held_out.weights,
    )
    return Candidate(
        replace(model, metrics=metrics),
        fitted,
        held_out,
        report,
        facts,
        columns=table.used,
        left_out=table.left_out,
        warnings=(*table.warnings, *leakage_warnings(table)),
    )


def _threshold(problem: Problem, fitted: Fit, settings: FitSettings) -> float:
    if not isinstance(settings.threshold, str):
        return settings.threshold
    # On rows that were trained on: those held out are to judge the result, threshold included.
    probabilities, labels, weights = problem.sample_predictions(fitted.theta)
    return choose_threshold(labels, probabilities, settings.threshold, weights)


def _coefficients(model: TrainedModel, errors: Floats | None) -> list[Coefficient]:
    return [
        Coefficient(
            column=model.columns[feature.column].name,
            feature=feature.name,
            weight=float(weight),
            standard_error=None if errors is None else float(errors[position]),
            odds_ratio=float(np.exp(np.clip(weight / feature.scale, -700, 700))),
        )
        for position, (feature, weight) in enumerate(
            zip(Encoder(model.columns).features, model.weights, strict=True)
        )
    ]


def gate_and_publish(candidate: Candidate, target: Target) -> tuple[Path, Verdict]:
    """Publish a candidate as the model's next version, if the gate lets it pass.

    Returns:
        The version directory and the verdict.

    Raises:
        RefusedError: the gate did not let it pass; nothing is published.
        OSError: nothing is published, because a directory cannot be written.
    """
    model, models, name = candidate.model, target.models, target.name
    newest = versions(models / name)[-1:]
    published = models / name / str(newest[0]) if newest else None
    data = candidate.facts["data"]
    verdict = judge(model, candidate.held_out, data, published, target.rules, target.force)

    def write(directory: Path) -> None:
        export(model, directory)
        warmup.write(model, directory)
        check_export(directory, candidate.held_out, model)
        (directory / REPORT_FILE).write_text(render(candidate.report), encoding="utf-8")
        manifest.write(directory, {**candidate.facts, "gate": verdict.as_json()})

    version = publish(write, models, name)
    if target.keep is not None:
        keep_newest(models, name, target.keep)
    return version, verdict

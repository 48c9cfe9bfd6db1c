"""The training job: read → fit → evaluate → gate → publish."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from training.data.choose import Choice
from training.data.reading import Source
from training.data.split import Split
from training.data.table import read_table
from training.evaluation.candidate import Candidate, evaluate_fit
from training.evaluation.reference import REFERENCE_FILE
from training.evaluation.report import REPORT_FILE, render
from training.export import warmup
from training.export.serving_module import export
from training.export.tensorboard import write_logs
from training.fitting import checkpoint
from training.fitting.interruption import StopSignals
from training.fitting.minimize import saved_on_interrupt
from training.fitting.problem import Problem
from training.publishing import manifest
from training.publishing.export_check import check_export
from training.publishing.fresh_process import FreshProcess
from training.publishing.gate import Rules, judge
from training.publishing.manifest import Verdict
from training.publishing.versions import keep_newest, publish, versions
from training.settings import FitSettings
from training.workers.collectives import Workers

__all__ = ["Candidate", "Observer", "PublishedVersion", "Target", "fit", "gate_and_publish", "run"]

VALIDATION_FRACTION = 0.1
DEFAULT_MEMORY = 2 << 30


@dataclass(frozen=True)
class Observer:
    """Progress callbacks; no-ops by default.

    Attributes:
        stage: called with the name of each stage when it begins.
        read: called with the number of rows read so far.
        stepped: called after each step with the number of steps and the cost.
        evaluated: called with the candidate before the gate judges it.
        judged: called with the gate's verdict on a candidate that passed or was forced.
    """

    stage: Callable[[str], None] = lambda stage: None
    read: Callable[[int], None] = lambda rows: None
    stepped: Callable[[int, float], None] = lambda steps, cost: None
    evaluated: Callable[[Candidate], None] = lambda candidate: None
    judged: Callable[[Verdict], None] = lambda verdict: None


@dataclass(frozen=True)
class Target:
    """Where and under which conditions to publish a candidate.

    Attributes:
        models: directory of all models.
        name: the model's name; versions are at `models/name/<integer>`.
        rules: the gate's rules.
        force: publish whatever the metrics are; the version must still load and answer.
        keep: number of versions to keep, the new one included; None keeps all.
        tensorboard: directory for TensorBoard's logs; None writes none.
        reason: why the model is trained, for the manifest.
    """

    models: Path
    name: str
    rules: Rules = field(default_factory=Rules)
    force: bool = False
    keep: int | None = None
    tensorboard: Path | None = None
    reason: str = ""

    @property
    def newest_version(self) -> Path | None:
        """The directory of the newest version, if there is one."""
        newest = versions(self.models / self.name)[-1:]
        return self.models / self.name / str(newest[0]) if newest else None


@dataclass(frozen=True)
class PublishedVersion:
    """A candidate, its version directory, and the gate's verdict."""

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
    process: FreshProcess | None = None,
) -> PublishedVersion | None:
    """Run the whole job; arguments as for `fit` and `gate_and_publish`.

    Returns:
        The published version; None in workers other than the first.

    Raises:
        InterruptedFitError: the job was interrupted; a checkpoint is saved.
        RefusedError: the gate refused the candidate.
        DataError, DivergedError, ResumeError, WorkersError, OSError: see `fit`.
    """
    workers, observer = workers or Workers(), observer or Observer()
    checkpoint_path = checkpoint.path_for(target.models, target.name)
    candidate = fit(
        source,
        choice,
        settings,
        name=target.name,
        memory=memory,
        workers=workers,
        signals=signals,
        checkpoint_path=checkpoint_path,
        resume=resume,
        observer=observer,
    )
    with (
        _barrier_on_exit(workers),
        saved_on_interrupt(checkpoint_path, _identity(candidate.fingerprint, settings)) as work,
    ):
        if workers.index:
            return None
        work.progress = candidate.fit.progress
        observer.evaluated(candidate)
        if target.tensorboard is not None:
            progress = candidate.fit.progress
            logs = (progress.costs, progress.validation_costs)
            write_logs(target.tensorboard, candidate.model, *logs)
        observer.stage("checking and publishing")
        version, verdict = gate_and_publish(candidate, target, process)
        observer.judged(verdict)
    checkpoint_path.unlink(missing_ok=True)
    return PublishedVersion(candidate, version, verdict)


def fit(
    source: Source,
    choice: Choice,
    settings: FitSettings,
    *,
    name: str = "model",
    memory: int = DEFAULT_MEMORY,
    workers: Workers | None = None,
    signals: StopSignals | None = None,
    checkpoint_path: Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
) -> Candidate:
    """Read a table, fit it, and evaluate the fit on the held-out rows.

    If the features need more than `memory` bytes, each step encodes them again. All workers
    return the same candidate.

    Raises:
        DataError: the table cannot be used.
        DivergedError: the learning rate is too large.
        ResumeError: the checkpoint belongs to another fit.
        InterruptedFitError: the fit was interrupted; a checkpoint is saved.
        WorkersError: another worker has ended.
        OSError: the disk is full.
    """
    workers, signals = workers or Workers(), signals or StopSignals()
    observer = observer or Observer()
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        observer.stage("reading")
        split = _split(settings)
        table = read_table(source, choice, split, Path(folder), workers, memory, observer.read)
        problem = Problem(table, settings, memory, workers)

        identity = _identity(table.fingerprint, settings)
        progress = None
        if checkpoint_path is not None and resume:
            progress = checkpoint.load(checkpoint_path, identity)
        path = None if workers.index else checkpoint_path
        with saved_on_interrupt(path, identity) as work:
            observer.stage("fitting")
            with signals.deferred():
                fitted = problem.fit(progress, observer.stepped, lambda: signals.requested)
            work.progress = fitted.progress
            observer.stage("evaluating")
            return evaluate_fit(problem, fitted, settings, name)


def gate_and_publish(
    candidate: Candidate, target: Target, process: FreshProcess | None = None
) -> tuple[Path, Verdict]:
    """Publish a candidate as the model's next version if it passes the gate.

    `process` checks the export; None starts one.

    Raises:
        RefusedError: the gate refused it; nothing is published.
        OSError: a directory cannot be written; nothing is published.
    """
    verdict = judge(candidate, target.newest_version, target.rules, target.force)

    def write(directory: Path) -> None:
        export(candidate.model, directory)
        warmup.write(candidate.model, directory)
        check_export(directory, candidate.held_out, candidate.model, process)
        page = render(candidate.report, verdict)
        (directory / REPORT_FILE).write_text(page, encoding="utf-8")
        (directory / REFERENCE_FILE).write_text(candidate.model.reference + "\n", encoding="utf-8")
        complete = replace(candidate.manifest, verdict=verdict, reason=target.reason)
        manifest.write(directory, complete)

    version = publish(write, target.models, target.name)
    if target.keep is not None:
        keep_newest(target.models, target.name, target.keep)
    return version, verdict


def _split(settings: FitSettings) -> Split:
    validation = VALIDATION_FRACTION if settings.patience is not None else 0.0
    return Split(settings.held_out, validation, settings.seed)


def _identity(fingerprint: Mapping[str, Any], settings: FitSettings) -> dict[str, Any]:
    """Return the data and settings that must be equal to resume a fit."""
    # Settings come first: another seed also changes the fingerprint, but is the reason to report.
    return {**asdict(settings), **{f"data {name}": value for name, value in fingerprint.items()}}


@contextmanager
def _barrier_on_exit(workers: Workers) -> Iterator[None]:
    """Keep all workers running until the first is done, since it would fail without them."""
    try:
        yield
    finally:
        workers.barrier()

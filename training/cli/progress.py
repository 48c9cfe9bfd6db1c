"""The terminal output of a fit: a progress bar while it runs, then a summary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from training.evaluation.candidate import Candidate
from training.evaluation.metric_names import SUMMARY_METRICS
from training.pipeline import Observer
from training.publishing.manifest import Verdict
from training.settings import FitSettings

COSTS_SHOWN = 8
MAX_NAMES = 40


class _Rate(ProgressColumn):
    """Rows or steps per second."""

    def render(self, task: Task) -> Text:
        """Return the rate."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def show_progress(console: Console, settings: FitSettings) -> Iterator[Observer]:
    """Show the progress of the job on a console."""
    max_steps = settings.max_steps
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, detail="")

        def stage(name: str) -> None:
            total = max_steps if name == "fitting" else None
            progress.tasks[0].total = total  # reset() and update() cannot set None
            progress.reset(task, description=name, detail="")

        def read(rows: int) -> None:
            progress.update(task, completed=rows, detail=f"{rows:,} rows")

        def stepped(steps: int, cost: float) -> None:
            progress.update(
                task, completed=steps, detail=f"{steps:,} of {max_steps:,}, cost {cost:.5f}"
            )

        def evaluated(candidate: Candidate) -> None:
            _print_columns(console, candidate)
            _print_summary(console, candidate, settings)
            for warning in candidate.warnings:  # even if the gate refuses, even if quiet
                _print_always(console, f"Warning: {warning}")

        def judged(verdict: Verdict) -> None:
            _print_verdict(console, verdict)

        yield Observer(stage, read, stepped, evaluated, judged)


def _print_columns(console: Console, candidate: Candidate) -> None:
    """Print the row counts, the classes, and the used and unused columns."""
    rows, model = candidate.manifest.rows, candidate.model
    by_kind: dict[str, list[str]] = {}
    for column in model.columns:
        by_kind.setdefault(column.kind, []).append(column.name)
    kinds = ", ".join(f"{len(names)} {kind}" for kind, names in by_kind.items())
    lines = [
        f"{rows['read']:,} rows, {len(model.columns)} columns ({kinds}); "
        f"{rows['train']:,} to train on, {rows['held_out']:,} held out",
        f"label {model.label_name}: class 0 is {model.class_names[0]}, "
        f"class 1 is {model.class_names[1]}",
    ]
    if len(by_kind) > 1:
        lines += [f"{kind}: {_join_names(names)}" for kind, names in by_kind.items()]
    if candidate.left_out:
        unused = [f"{column.name} ({column.reason})" for column in candidate.left_out]
        lines.append(f"not used: {_join_names(unused)}")
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)


def _print_summary(console: Console, candidate: Candidate, settings: FitSettings) -> None:
    """Print some points of the cost curve and the metrics on the held-out rows."""
    costs, fit = candidate.fit.progress.costs, candidate.manifest.fit
    curve = Table(settings.step_name, "cost")
    # Only sgd has no cost before its first step.
    first_step = 1 if settings.optimizer == "sgd" else 0
    indices = range(0, len(costs), max(1, len(costs) // COSTS_SHOWN))
    for index in sorted({*indices, len(costs) - 1}):
        curve.add_row(str(first_step + index), f"{costs[index]:.6f}")
    console.print(curve)
    rate = "" if fit.learning_rate is None else f"; learning rate {fit.learning_rate:.4g}"
    console.print(f"{fit.ending}{rate}", highlight=False)
    held_out = Table("held-out rows", "", "95% interval")
    for name, value in candidate.manifest.metrics.items():
        low, high = candidate.manifest.intervals[name]
        held_out.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    console.print(held_out)


def _print_verdict(console: Console, verdict: Verdict) -> None:
    """Print the gate's rule and the comparison with the published version."""
    lines = [f"gate {'passed' if verdict.passed else 'not passed'}: {verdict.rule}"]
    comparison = verdict.comparison
    if comparison is not None:
        values = ", ".join(
            f"{name} {comparison.metrics[name]:.4f} (was {comparison.published_metrics[name]:.4f})"
            for name in SUMMARY_METRICS
        )
        lines.append(
            f"compared with version {comparison.version} on {comparison.rows:,} rows new to both: "
            f"{values}; {100 * (comparison.label_flips or 0):.1f}% of the labels change"
        )
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)


def _print_always(console: Console, line: str) -> None:
    """Print a line even if the console is quiet."""
    if console.quiet:
        click.echo(line, err=True)
    else:
        console.print(escape(line), highlight=False, soft_wrap=True)


def _join_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more

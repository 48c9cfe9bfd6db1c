"""What a person sees of a fit: bars while it runs, a summary when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

from training.pipeline import Candidate, Observer
from training.settings import FitSettings

COSTS_SHOWN = 8


class _Rate(ProgressColumn):
    """Rows or steps a second."""

    def render(self, task: Task) -> Text:
        """Return the text."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def observer(console: Console, settings: FitSettings) -> Iterator[Observer]:
    """Show how the job goes."""
    most_steps = settings.most_steps
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
            total = most_steps if name == "fitting" else None
            progress.reset(task, total=total, description=name, detail="")
            progress.update(task, total=total)

        def read(rows: int) -> None:
            progress.update(task, completed=rows, detail=f"{rows:,} rows")

        def stepped(steps: int, cost: float) -> None:
            progress.update(
                task, completed=steps, detail=f"{steps:,} of {most_steps:,}, cost {cost:.5f}"
            )

        def evaluated(candidate: Candidate) -> None:
            _print_columns(console, candidate)
            _print_summary(console, candidate)

        yield Observer(stage, read, stepped, evaluated)


def _print_columns(console: Console, candidate: Candidate) -> None:
    """Print what was read."""
    rows = candidate.facts["rows"]
    kinds = [column.kind for column in candidate.model.columns]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    names = candidate.model.class_names
    console.print(
        f"{rows['read']:,} rows, {len(kinds)} columns ({counted}); "
        f"{rows['train']:,} to train on, {rows['held_out']:,} held out; "
        f"class 0 is {escape(names[0])}, class 1 is {escape(names[1])}",
        highlight=False,
        soft_wrap=True,
    )


def _print_summary(console: Console, candidate: Candidate) -> None:
    """Print the cost curve's numbers and the metrics of the held-out rows."""
    costs = candidate.fit.progress.costs
    reasons = {
        "tolerance": "the tolerance was reached",
        "iterations": "all iterations were done",
        "early stopping": "the validation cost fell no more",
        "precision": "the cost can be lowered no more in this precision",
    }
    curve = Table("iteration", "cost", caption=f"stopped: {reasons[candidate.fit.reason]}")
    shown = range(0, len(costs), max(1, len(costs) // COSTS_SHOWN))
    for iteration in sorted({*shown, len(costs) - 1}):
        curve.add_row(str(iteration), f"{costs[iteration]:.6f}")
    console.print(curve)
    held_out = Table("held-out rows", "", "95 % interval")
    for name, value in candidate.model.metrics.items():
        low, high = candidate.facts["intervals"][name]
        held_out.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    console.print(held_out)

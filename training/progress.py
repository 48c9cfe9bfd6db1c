"""What a person sees of a fit: a progress bar while it runs, a summary when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from training.export import TrainedModel
from training.logistic_regression import Fit

COSTS_SHOWN = 8


@contextmanager
def cost_bar(console: Console, iterations: int) -> Iterator[Callable[[int, float], None]]:
    """Show a bar with the cost; yields the function to report progress to."""
    columns = (
        TextColumn("fit"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cost {task.fields[cost]:.5f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("fit", total=iterations, cost=float("nan"))
        yield lambda done, cost: progress.update(task, completed=done, cost=cost)


def print_summary(console: Console, model: TrainedModel, descent: Fit) -> None:
    """Print the cost curve's numbers and the metrics of the held-out rows."""
    curve = Table("iteration", "cost", title=f"α = {descent.learning_rate:.4g}")
    iterations = len(descent.costs)
    shown = range(0, iterations, max(1, iterations // COSTS_SHOWN))
    for iteration in sorted({*shown, iterations - 1}):
        curve.add_row(str(iteration), f"{descent.costs[iteration]:.6f}")
    console.print(curve)
    held_out = Table(*model.metrics, title="held-out rows")
    held_out.add_row(*(f"{value:.4f}" for value in model.metrics.values()))
    console.print(held_out)

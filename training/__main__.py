"""The training job's command line: `python -m training`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from training.publish import versions

if TYPE_CHECKING:
    from training.logistic_regression import Loss

# TensorFlow's own start-up notes are not for people who train a model.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@click.group()
def main() -> None:
    """Train a logistic regression and publish it as a SavedModel version."""


@main.command(context_settings={"show_default": True})
@click.option(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    default="models",
    help="Directory of all models; the version goes to MODELS/NAME/<next integer>.",
)
@click.option("--name", default="breast_cancer", help="Name of the model.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.3,
    help="Share of the rows kept for evaluation.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of the split.")
@click.option(
    "--iterations", type=click.IntRange(1), default=2000, help="Gradient descent updates."
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    show_default="the largest that cannot diverge",
    help="Step size α.",
)
@click.option("--l2", type=click.FloatRange(0), default=1.0, help="Ridge penalty λ (1/C).")
@click.option(
    "--loss",
    type=click.Choice(["cross-entropy", "squared"]),
    default="cross-entropy",
    help="Loss of a row; the cost is its mean.",
)
@click.option(
    "--unless-published", is_flag=True, help="Do nothing if the model has a version already."
)
def fit(
    models: Path,
    name: str,
    held_out: float,
    seed: int,
    iterations: int,
    learning_rate: float | None,
    l2: float,
    loss: Loss,
    unless_published: bool,
) -> None:
    """Train on scikit-learn's breast cancer table (569 rows, 30 columns) and publish the result."""
    if not _is_directory_name(name):
        raise click.BadParameter(
            f"{name!r} cannot name a directory of its own", param_hint="--name"
        )
    published = versions(models / name)
    if unless_published and published:
        click.echo(f"{models / name} has version {published[-1]}; nothing to train")
        return

    # Only now, so that --help and the early returns do not wait seconds for TensorFlow.
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting TensorFlow"):
        from training.dataset import breast_cancer
        from training.job import FitSettings, publish_model
        from training.job import fit as fit_table
        from training.progress import cost_bar, print_summary

    settings = FitSettings(held_out, seed, iterations, learning_rate, l2, loss)
    table = breast_cancer()
    console.print(f"{name}: {len(table)} rows, {len(table.columns)} columns")
    try:
        with cost_bar(console, iterations) as report:
            model, descent = fit_table(table, settings, report)
        version = publish_model(model, models, name)
    except (FloatingPointError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot publish to {models / name}: {error}") from error
    print_summary(console, model, descent)
    click.echo(version)


def _is_directory_name(name: str) -> bool:
    return bool(name) and not name.startswith(".") and Path(name).name == name


if __name__ == "__main__":
    sys.exit(main(prog_name="python -m training"))

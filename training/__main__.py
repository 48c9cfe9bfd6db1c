"""The training job's command line: `python -m training`."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from training import manifest
from training.publish import LONGEST_NAME, republish, versions

if TYPE_CHECKING:
    from training.logistic_regression import Loss

# TensorFlow's own start-up notes are not for people who train a model.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


METRICS = ("accuracy", "log_loss", "auc")
# Exit status of a fit whose result the gate did not let pass.
REFUSED = 3

MODELS = click.option(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    default="models",
    show_default=True,
    help="Directory of all models; versions are at MODELS/NAME/<integer>.",
)
NAME = click.option("--name", default="breast_cancer", show_default=True, help="Name of the model.")


@click.group()
def main() -> None:
    """Train a logistic regression and publish it as a SavedModel version."""


@main.command(context_settings={"show_default": True})
@MODELS
@NAME
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
    "--floor",
    "floors",
    multiple=True,
    metavar="METRIC=VALUE",
    help="Refuse the result if a metric (accuracy, log_loss, auc) is not at least as good; "
    "may be given several times.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=0.01,
    help="Refuse the result if its log-loss exceeds the published version's by more.",
)
@click.option("--force", is_flag=True, help="Publish whatever the metrics; the version records it.")
@click.option(
    "--keep", type=click.IntRange(1), help="Keep only so many versions, the new one included."
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
    floors: tuple[str, ...],
    tolerance: float,
    force: bool,
    keep: int | None,
    unless_published: bool,
) -> None:
    """Train on scikit-learn's breast cancer table (569 rows, 30 columns) and publish the result."""
    if not _is_directory_name(name):
        raise click.BadParameter(
            f"{name!r} cannot name a directory of its own", param_hint="--name"
        )
    parsed_floors = dict(_floor(text) for text in floors)
    for option, value in (("--l2", l2), ("--learning-rate", learning_rate)):
        if value is not None and not math.isfinite(value):
            raise click.BadParameter(f"expected a finite number, got {value}", param_hint=option)
    published = [v for v in versions(models / name) if _has_model(models / name / str(v))]
    if unless_published and published:
        click.echo(f"{models / name} has version {published[-1]}; nothing to train")
        return

    # Only now, so that --help and the early returns do not wait seconds for TensorFlow.
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting TensorFlow"):
        from training.dataset import breast_cancer
        from training.gate import RefusedError, Rules
        from training.job import FitSettings, gate_and_publish
        from training.job import fit as fit_table
        from training.progress import cost_bar, print_summary

    settings = FitSettings(held_out, seed, iterations, learning_rate, l2, loss)
    table = breast_cancer()
    console.print(f"{name}: {len(table)} rows, {len(table.columns)} columns")
    try:
        with cost_bar(console, iterations) as report:
            candidate = fit_table(table, settings, report)
        print_summary(console, candidate.model, candidate.descent)
        with console.status("checking the exported version"):
            version, verdict = gate_and_publish(
                candidate,
                Rules(parsed_floors, tolerance),
                models=models,
                name=name,
                force=force,
                keep=keep,
            )
    except RefusedError as error:
        click.echo(f"Refused: {error}", err=True)
        sys.exit(REFUSED)
    except (FloatingPointError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot publish to {models / name}: {error}") from error
    if verdict.forced:
        click.echo(f"Forced: {verdict.reason}", err=True)
    click.echo(version)


@main.command("versions")
@MODELS
@NAME
def list_versions(models: Path, name: str) -> None:
    """List the published versions, oldest first."""
    for number in versions(models / name):
        facts = manifest.read(models / name / str(number)) or {}
        metrics = "  ".join(f"{key} {value:.4f}" for key, value in facts.get("metrics", {}).items())
        notes = [f"rollback to {facts['rollback_to']}"] if "rollback_to" in facts else []
        if facts.get("gate", {}).get("forced"):
            notes.append(f"forced: {facts['gate']['reason']}")
        trained_at = facts.get("trained_at", "no manifest")
        click.echo("  ".join([str(number), trained_at, metrics, *notes]).rstrip())


@main.command()
@MODELS
@NAME
@click.argument("number", type=int, required=False)
def verify(models: Path, name: str, number: int | None) -> None:
    """Compare every file of a version, or of all, with its manifest."""
    for version in [number] if number is not None else versions(models / name):
        try:
            count = manifest.verify(models / name / str(version))
        except manifest.VerifyError as error:
            raise click.ClickException(str(error)) from error
        click.echo(f"{models / name / str(version)}: {count} files as published")


@main.command()
@MODELS
@NAME
@click.option("--to", "number", type=int, help="Version to go back to; otherwise the one before.")
def rollback(models: Path, name: str, number: int | None) -> None:
    """Publish a copy of an older version as the newest; nothing is removed."""
    published = versions(models / name)
    if number is None and len(published) < 2:
        raise click.ClickException(f"{models / name} has no version before the newest")
    number = published[-2] if number is None else number
    if number not in published:
        raise click.ClickException(f"{models / name} has no version {number}")
    try:
        manifest.verify(models / name / str(number))
        click.echo(republish(models, name, number, lambda copy: _note_rollback(copy, number)))
    except (manifest.VerifyError, OSError) as error:
        raise click.ClickException(f"cannot go back to {number}: {error}") from error


def _note_rollback(copy: Path, number: int) -> None:
    facts = manifest.read(copy) or {}
    manifest.write(copy, {**facts, "rollback_to": number})


def _floor(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        if name not in METRICS:
            raise ValueError
        return name, float(value)
    except ValueError:
        raise click.BadParameter(
            f"expected METRIC=VALUE with a metric of {', '.join(METRICS)}, got {text!r}",
            param_hint="--floor",
        ) from None


def _is_directory_name(name: str) -> bool:
    return (
        bool(name)
        and not name.startswith(".")
        and Path(name).name == name
        and len(os.fsencode(name)) <= LONGEST_NAME
    )


def _has_model(version: Path) -> bool:
    return (version / "saved_model.pb").is_file()


if __name__ == "__main__":
    sys.exit(main(prog_name="python -m training"))

"""`python -m monitoring retrain`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click

from monitoring.cli.options import (
    JSON,
    LOG,
    MODEL,
    MODELS,
    Command,
    Duration,
    console,
    print_json,
    report_errors,
)
from monitoring.retraining import REFUSED, Recipe, run_summary
from monitoring.retraining import retrain as run_retraining
from monitoring.store import Store

OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--label", default="", help="Label column. [default: from the manifest]"),
    click.option(
        "--label-window",
        type=Duration(),
        default="90d",
        show_default=True,
        help="Maximum age of labelled predictions to train on.",
    ),
    click.option(
        "--min-labels",
        type=click.IntRange(1),
        default=200,
        show_default=True,
        help="Minimum number of labelled rows.",
    ),
    click.argument("training_options", nargs=-1, type=click.UNPROCESSED),
)


def recipe_options(command: Command) -> Command:
    """Add the options of retraining to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command("retrain")
@MODELS
@MODEL
@LOG
@click.option(
    "--data",
    required=True,
    help="Original table: a file, a directory or a glob; the built-in table is not supported.",
)
@click.option(
    "--reason", default="by hand", show_default=True, help="Reason, recorded in the manifest."
)
@recipe_options
@JSON
@report_errors
def retrain(
    models: Path,
    model: str,
    log: Path,
    data: str,
    label: str,
    label_window: timedelta,
    min_labels: int,
    training_options: tuple[str, ...],
    reason: str,
    as_json: bool,
) -> None:
    """Train on the original table and labelled rows of the log, and publish if the gate permits.

    Options after -- go to `python -m training fit`, such as -- --floor auc=0.8 --optimizer newton.
    Exit status 3: the gate refused the version, and nothing was published.
    """
    recipe = Recipe(models, model, data, label, label_window, min_labels, training_options)
    with console().status("retraining"):
        run = run_retraining(Store(log), recipe, reason, datetime.now(timezone.utc))
    if as_json:
        print_json(asdict(run))
    else:
        click.echo(run_summary(run))
    if run.result != "published":
        sys.exit(REFUSED if run.result == "refused" else 1)

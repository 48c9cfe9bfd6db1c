"""The options of `python -m training fit`, in groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from cloup import option, option_group

from training.cli.parameters import Address, ByteCount, FiniteRange, Pairs, Threshold
from training.data import datasets as builtin
from training.evaluation.metric_names import METRICS
from training.settings import MAX_ITERATIONS, FitSettings

DEFAULTS = FitSettings()
KINDS = ("numeric", "categorical", "boolean", "date")
LISTED_ITERATIONS = ", ".join(f"{count} for {name}" for name, count in MAX_ITERATIONS.items())

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

DATA = option_group(
    "Data",
    option(
        "--data",
        default="breast_cancer",
        help="File (CSV, JSON Lines, Parquet, Arrow IPC; text may be compressed), a directory or "
        f"glob of them, - for standard input, or a built-in table: {', '.join(builtin.LABELS)}.",
    ),
    option("--label", show_default="that of the built-in table", help="Column to predict."),
    option("--positive", show_default="inferred", help="Value of the label that is class 1."),
    option(
        "--columns",
        "kinds",
        type=Pairs(values=KINDS),
        multiple=True,
        metavar="NAME=KIND,...",
        help=f"Kinds of columns, overriding the detected ones: {', '.join(KINDS)}.",
    ),
    option(
        "--leave-out",
        "--exclude",
        multiple=True,
        metavar="NAME",
        help="Column not to use; repeatable.",
    ),
    option(
        "--missing",
        multiple=True,
        metavar="TEXT",
        help="Text that marks a missing value, besides NA, null, - and the like; repeatable.",
    ),
    option(
        "--decimal",
        type=click.Choice([".", ","]),
        show_default="inferred",
        help="Decimal separator of numbers in text.",
    ),
    option(
        "--date-format",
        metavar="FORMAT",
        show_default="inferred",
        help="Format of dates in text, such as %d/%m/%Y.",
    ),
    option("--weight", help="Column with the row weights."),
)

EVALUATION = option_group(
    "Split and evaluation",
    option(
        "--held-out",
        type=FiniteRange(0, 1, min_open=True, max_open=True),
        default=DEFAULTS.held_out,
        help="Fraction of rows held out for evaluation.",
    ),
    option(
        "--test-data",
        metavar="FILE",
        help="Table whose rows are all held out; no rows of --data are.",
    ),
    option(
        "--split-column",
        metavar="NAME",
        help="Column that assigns each row to train, test or validation; or 0 and 1 if named train "
        "or test.",
    ),
    option(
        "--split-time",
        metavar="NAME",
        help="Column of times; the latest --held-out fraction of rows is held out.",
    ),
    option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        default=DEFAULTS.seed,
        help="Seed of the split, the order of mini-batches and the bootstrap.",
    ),
    option(
        "--threshold",
        type=Threshold(),
        default=DEFAULTS.threshold,
        help="Smallest probability that is labelled class 1, or a rule that chooses it on training "
        "rows: f1 (largest F1), youden (largest recall + specificity).",
    ),
)

FIT = option_group(
    "Fit",
    option("--optimizer", type=click.Choice(list(MAX_ITERATIONS)), default=DEFAULTS.optimizer),
    option(
        "--iterations",
        type=click.IntRange(1),
        show_default=LISTED_ITERATIONS,
        help="Maximum number of steps; for sgd, epochs.",
    ),
    option(
        "--tolerance",
        type=FiniteRange(0),
        default=DEFAULTS.tolerance,
        help="Stop when the largest derivative of the cost (for sgd, its change) is at most this.",
    ),
    option(
        "--early-stopping",
        "patience",
        type=click.IntRange(1),
        help="Stop after this many steps without a lower cost on the validation rows: those of "
        "--split-column, or else a tenth of the training rows.",
    ),
    option(
        "--learning-rate",
        type=FiniteRange(0, min_open=True),
        show_default="inferred from the data",
        help="Step size α (gradient-descent and sgd only).",
    ),
    option(
        "--momentum",
        type=FiniteRange(0, 1, max_open=True),
        default=DEFAULTS.momentum,
        help="Momentum (sgd only).",
    ),
    option(
        "--batch-size",
        type=click.IntRange(1, 2**31 - 1),
        default=DEFAULTS.batch_size,
        help="Rows per mini-batch (sgd only).",
    ),
    option(
        "--l1",
        type=FiniteRange(0),
        default=DEFAULTS.l1,
        help="Lasso penalty λ₁ (sgd only); with --l2, an elastic net.",
    ),
    option("--l2", type=FiniteRange(0), default=DEFAULTS.l2, help="Ridge penalty λ₂ (1/C)."),
    option(
        "--loss",
        type=click.Choice(["cross-entropy", "squared"]),
        default=DEFAULTS.loss,
        help="Loss per row; the cost is its mean.",
    ),
    option(
        "--class-weight",
        "class_weights",
        multiple=True,
        metavar="balanced|CLASS=FACTOR",
        help="Factor for the row weights of a class, or balanced for equal total weights of both "
        "classes. The gate then judges by AUC.",
    ),
)

GATE = option_group(
    "Gate",
    option(
        "--floor",
        "floors",
        type=Pairs(names=METRICS, numeric=True),
        multiple=True,
        metavar="METRIC=VALUE",
        help=f"Refuse the result if a metric is worse: {', '.join(METRICS)}.",
    ),
    option(
        "--gate-tolerance",
        type=FiniteRange(0),
        default=0.01,
        help="Refuse the result if its log-loss (AUC with class weights) is worse than the "
        "published version's by more than this.",
    ),
    option(
        "--allow-schema-change",
        is_flag=True,
        help="Publish even if columns, kinds, the label or classes change in a way that breaks "
        "callers of the published version.",
    ),
    option(
        "--force", is_flag=True, help="Publish regardless of the metrics; the manifest records it."
    ),
)

PUBLISHING = option_group(
    "Publishing",
    option(
        "--models",
        type=click.Path(file_okay=False, path_type=Path),
        default="models",
        help="Directory of all models; versions are at MODELS/MODEL/<integer>.",
    ),
    option("--model", show_default="that of the built-in table", help="Name of the model."),
    option(
        "--keep", type=click.IntRange(1), help="Number of versions to keep, including the new one."
    ),
    option("--reason", default="", help="Reason for this training run, recorded in the manifest."),
    option(
        "--unless-published", is_flag=True, help="Do nothing if the model already has a version."
    ),
)

RUNNING = option_group(
    "Running",
    option("--resume", is_flag=True, help="Resume an interrupted fit."),
    option(
        "--memory",
        type=ByteCount(),
        default="2GB",
        help="Memory for features; if they need more, each step encodes them again.",
    ),
    option(
        "--workers",
        type=click.IntRange(1),
        default=1,
        help="Number of processes that share the fit; TF_CONFIG lists workers on other machines.",
    ),
    option(
        "--rendezvous",
        type=Address(),
        metavar="HOST:PORT",
        help="Host name that resolves to the addresses of all workers, including this one, and "
        "their port.",
    ),
    option(
        "--join-timeout",
        type=FiniteRange(0, min_open=True),
        default=120.0,
        metavar="SECONDS",
        help="Time to wait for all workers to arrive.",
    ),
)

OUTPUT = option_group(
    "Output",
    option(
        "--tensorboard",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIRECTORY",
        help="Directory for TensorBoard logs: the cost and the graph.",
    ),
    option("--quiet", is_flag=True, help="Print only the version's directory, and warnings."),
    option("--json", "as_json", is_flag=True, help="Print the result as a JSON object."),
)


def fit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add all option groups to a command."""
    groups: list[Decorator] = [DATA, EVALUATION, FIT, GATE, PUBLISHING, RUNNING, OUTPUT]
    for group in reversed(groups):
        command = group(command)
    return command

"""`python -m training fit`: its options, and what people see of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console

from training.cli.parameters import Address, ByteCount, FiniteRange, Pairs, Threshold
from training.cli.versions import MODELS
from training.data import datasets as builtin
from training.data.reading import STANDARD_INPUT, Source, open_source
from training.errors import RefusedError, TrainingError
from training.evaluation.metric_names import METRICS
from training.features.cells import CellFormat
from training.fitting.interruption import StopSignals
from training.publishing.versions import LONGEST_NAME, versions
from training.settings import BALANCED, ITERATIONS, FitSettings, ThresholdRule

if TYPE_CHECKING:
    from training.pipeline import Published

# Exit status of a fit whose result the gate did not let pass.
REFUSED = 3
DEFAULTS = FitSettings()
KINDS = ("numeric", "categorical", "boolean", "date")
ONLY_OF = {
    "learning_rate": ("gradient-descent", "sgd"),
    "momentum": ("sgd",),
    "batch_size": ("sgd",),
    "l1": ("sgd",),
}
LISTED_ITERATIONS = ", ".join(f"{count} for {name}" for name, count in ITERATIONS.items())


@click.command(context_settings={"show_default": True})
@MODELS
@click.option("--model", show_default="that of the built-in table", help="Name of the model.")
@click.option(
    "--data",
    default="breast_cancer",
    help="CSV or Parquet file, a directory or glob of them, - for standard input, or a built-in "
    f"table: {', '.join(builtin.LABELS)}. CSV may be gzipped; its header tells the separator.",
)
@click.option("--label", show_default="that of the built-in table", help="Column to predict.")
@click.option("--positive", show_default="told", help="Value of the label that is class 1.")
@click.option(
    "--columns",
    "kinds",
    type=Pairs(values=KINDS),
    multiple=True,
    metavar="NAME=KIND,...",
    help=f"Kinds of columns that are not to be detected: {', '.join(KINDS)}.",
)
@click.option(
    "--leave-out",
    "--exclude",
    multiple=True,
    metavar="NAME",
    help="Column not to use; repeatable.",
)
@click.option(
    "--missing",
    multiple=True,
    metavar="TEXT",
    help="Text that means a missing value, besides NA, null, - and the like; repeatable.",
)
@click.option(
    "--decimal",
    type=click.Choice([".", ","]),
    show_default="inferred",
    help="Decimal point of numbers in text.",
)
@click.option(
    "--date-format",
    metavar="FORMAT",
    show_default="inferred",
    help="Format of dates in text, such as %d/%m/%Y.",
)
@click.option("--weight", help="Column with the rows' weights.")
@click.option(
    "--class-weight",
    "class_weights",
    multiple=True,
    metavar="balanced|CLASS=FACTOR",
    help="Let the rows of a class count more, or both classes the same.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=DEFAULTS.held_out,
    help="Share of the rows kept for evaluation.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=DEFAULTS.seed,
    help="Of the split, the order of mini-batches and the bootstrap.",
)
@click.option(
    "--optimizer", type=click.Choice(list(ITERATIONS)), default=DEFAULTS.optimizer, help="Method."
)
@click.option(
    "--iterations",
    type=click.IntRange(1),
    show_default=LISTED_ITERATIONS,
    help="Steps at most; for sgd, epochs.",
)
@click.option(
    "--tolerance",
    type=FiniteRange(0),
    default=DEFAULTS.tolerance,
    help="Stop as soon as no derivative is larger; for sgd, as the cost changes no more.",
)
@click.option(
    "--early-stopping",
    "patience",
    type=click.IntRange(1),
    help="Stop after so many steps without a lower cost of a tenth of the training rows, which is "
    "then not trained on.",
)
@click.option(
    "--learning-rate",
    type=FiniteRange(0, min_open=True),
    show_default="the largest that cannot diverge",
    help="Step size α of gradient-descent and sgd.",
)
@click.option(
    "--momentum",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULTS.momentum,
    help="Of sgd.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=DEFAULTS.batch_size, help="Of sgd, rows."
)
@click.option("--l1", type=FiniteRange(0), default=DEFAULTS.l1, help="Lasso penalty of sgd.")
@click.option("--l2", type=FiniteRange(0), default=DEFAULTS.l2, help="Ridge penalty λ (1/C).")
@click.option(
    "--loss",
    type=click.Choice(["cross-entropy", "squared"]),
    default=DEFAULTS.loss,
    help="Loss of a row; the cost is its mean.",
)
@click.option(
    "--threshold",
    type=Threshold(),
    default=DEFAULTS.threshold,
    help="Probability from which on the label is class 1, or a rule to choose it by on training "
    "rows: f1 (the largest F1), youden (the largest recall + specificity).",
)
@click.option(
    "--memory",
    type=ByteCount(),
    default="2GB",
    help="Features to keep in memory; if there are more, they are read from disk in each step.",
)
@click.option(
    "--floor",
    "floors",
    type=Pairs(names=METRICS, number=True),
    multiple=True,
    metavar="METRIC=VALUE",
    help=f"Refuse the result if a metric is not at least as good: {', '.join(METRICS)}.",
)
@click.option(
    "--gate-tolerance",
    type=FiniteRange(0),
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
@click.option("--resume", is_flag=True, help="Go on with a fit that was interrupted.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    help="Processes to spread the fit over; TF_CONFIG names workers elsewhere.",
)
@click.option(
    "--rendezvous",
    type=Address(),
    metavar="HOST:PORT",
    help="Name that resolves to the addresses of all workers, this one included, and their port.",
)
@click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Where to write the cost and the graph for TensorBoard.",
)
@click.option("--quiet", is_flag=True, help="Print only where the version is.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON object.")
@click.pass_context
def fit(context: click.Context, /, **options: Any) -> None:
    """Train on a table and publish the result as the model's next version."""
    signals = StopSignals()
    signals.install()
    try:
        _fit(context, signals, **options)
    except KeyboardInterrupt as interrupted:
        told = str(interrupted) or "nothing was published"
        click.echo(f"Interrupted: {told}", err=True)
        sys.exit(128 + signals.number)
    except TrainingError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot read or write: {error}") from error


def _fit(
    context: click.Context,
    signals: StopSignals,
    *,
    models: Path,
    model: str | None,
    data: str,
    label: str | None,
    positive: str | None,
    kinds: tuple[list[tuple[str, str]], ...],
    leave_out: tuple[str, ...],
    missing: tuple[str, ...],
    decimal: str | None,
    date_format: str | None,
    weight: str | None,
    class_weights: tuple[str, ...],
    threshold: float | ThresholdRule,
    memory: int,
    floors: tuple[list[tuple[str, float]], ...],
    gate_tolerance: float,
    force: bool,
    keep: int | None,
    unless_published: bool,
    resume: bool,
    workers: int,
    rendezvous: tuple[str, int] | None,
    tensorboard: Path | None,
    quiet: bool,
    as_json: bool,
    **fit_options: Any,
) -> None:
    name = _model_name(model, data)
    label = label or builtin.LABELS.get(data)
    if label is None:
        raise click.UsageError("--label is needed: the column to predict")
    _refuse_options_of_others(context, fit_options["optimizer"])
    if fit_options["optimizer"] == "sgd" and (workers > 1 or "TF_CONFIG" in os.environ):
        raise click.UsageError("--workers: the steps of sgd follow one another in one process")
    if data == STANDARD_INPUT and workers > 1:
        raise click.UsageError("--workers: standard input can be read by one process only")
    settings = FitSettings(
        **fit_options, class_weight=_class_weight(class_weights), threshold=threshold
    )
    there = [v for v in versions(models / name) if _has_model(models / name / str(v))]
    if unless_published and there:
        click.echo(f"{models / name} has version {there[-1]}; nothing to train")
        return

    console = Console(stderr=True, quiet=quiet)
    with console.status("starting TensorFlow"):  # it takes seconds, which --help need not wait
        from training.cli.progress import observer
        from training.data.table import Choice
        from training.pipeline import Target, run
        from training.publishing.gate import Rules
        from training.workers.launch import join_workers

    rules = Rules(dict(_flat(floors)), gate_tolerance)
    stripped = tuple(mark.strip() for mark in missing)
    cell_format = CellFormat(stripped, decimal or "", date_format or "")
    try:
        with (
            join_workers(workers, rendezvous) as team,
            # The first worker tells; the others would tell the same.
            observer(console if team.index == 0 else Console(quiet=True), settings) as watching,
        ):
            signals.install()  # once more: TensorFlow's workers have taken SIGTERM for themselves
            published = run(
                _source(data),
                Choice(label, positive, dict(_flat(kinds)), leave_out, weight, cell_format),
                settings,
                Target(models, name, rules, force, keep, tensorboard),
                memory=memory,
                workers=team,
                signals=signals,
                resume=resume,
                observer=watching,
            )
    except RefusedError as error:  # told last, after the bars are gone
        _refuse(str(error), as_json)
    if published is not None:
        _tell(published, name, as_json)


def _tell(published: Published, name: str, as_json: bool) -> None:
    if not as_json:
        if published.verdict.forced:
            click.echo(f"Forced: {published.verdict.reason}", err=True)
        click.echo(published.version)
        return
    facts = published.candidate.facts
    kept = ("trained_at", "rows", "fit", "threshold", "metrics", "intervals")
    result = {
        "model": name,
        "version": int(published.version.name),
        "path": str(published.version),
        **{key: facts[key] for key in kept},
        "gate": published.verdict.as_json(),
    }
    click.echo(json.dumps(result))


def _refuse(reason: str, as_json: bool) -> NoReturn:
    click.echo(f"Refused: {reason}", err=True)
    if as_json:
        click.echo(json.dumps({"refused": reason}))
    sys.exit(REFUSED)


def _source(data: str) -> Source:
    return builtin.source(data) if data in builtin.LABELS else open_source(data)


def _class_weight(texts: tuple[str, ...]) -> str | dict[str, float] | None:
    if BALANCED in texts:
        if len(texts) > 1:
            raise click.BadParameter(
                "expected either balanced or factors, got both", param_hint="--class-weight"
            )
        return BALANCED
    option = Pairs(number=True)
    try:
        factors = dict(pair for text in texts for pair in option.convert(text, None, None))
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint="--class-weight") from None
    for name, factor in factors.items():
        if factor <= 0:
            raise click.BadParameter(
                f"{name!r}: expected a factor above 0, got {factor:g}", param_hint="--class-weight"
            )
    return factors or None


def _refuse_options_of_others(context: click.Context, optimizer: str) -> None:
    """Say so if an option was given that the optimizer does not have."""
    for parameter, optimizers in ONLY_OF.items():
        given = context.get_parameter_source(parameter) is click.core.ParameterSource.COMMANDLINE
        if given and optimizer not in optimizers:
            option = f"--{parameter.replace('_', '-')}"
            raise click.UsageError(
                f"{option} is of --optimizer {' and '.join(optimizers)}, not of {optimizer}"
            )


def _flat(pairs: tuple[list[tuple[str, Any]], ...]) -> list[tuple[str, Any]]:
    return [pair for several in pairs for pair in several]


def _model_name(model: str | None, data: str) -> str:
    if model is None and data not in builtin.LABELS:
        raise click.UsageError("--model is needed: the name to publish under")
    name = data if model is None else model
    if (
        not name
        or name.startswith(".")
        or Path(name).name != name
        or len(os.fsencode(name)) > LONGEST_NAME
    ):
        raise click.BadParameter(
            f"{name!r} cannot name a directory of its own", param_hint="--model"
        )
    return name


def _has_model(version: Path) -> bool:
    return (version / "saved_model.pb").is_file()

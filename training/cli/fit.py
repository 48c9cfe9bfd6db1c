"""`python -m training fit`."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import cloup
from rich.console import Console

from training.cli.options import fit_options
from training.cli.parameters import Pairs
from training.data import datasets as builtin
from training.data.reading import STANDARD_INPUT, Source, open_source
from training.errors import RefusedError, TrainingError
from training.features.cells import CellFormat
from training.fitting.interruption import StopSignals
from training.publishing.fresh_process import FreshProcess
from training.publishing.versions import MAX_NAME_LENGTH, versions
from training.settings import BALANCED, FitSettings, ThresholdRule

if TYPE_CHECKING:
    from training.pipeline import PublishedVersion

REPORT_FILE = "report.html"
# Exit status of a fit whose result the gate refused.
REFUSED = 3
# Directives that training (polars) and the gateway (Python) parse alike.
DATE_FORMAT = re.compile(r"(?=.*%[Yy])(?:[^%]|%[YymdjbBaAHIMSpz])+", re.DOTALL)
OPTIMIZERS_BY_OPTION = {
    "learning_rate": ("gradient-descent", "sgd"),
    "momentum": ("sgd",),
    "batch_size": ("sgd",),
    "l1": ("sgd",),
}


@cloup.command(context_settings={"show_default": True})
@fit_options
@click.pass_context
def fit(context: click.Context, /, **options: Any) -> None:
    """Train on a table and publish the result as the model's next version."""
    signals = StopSignals()
    signals.install()
    try:
        _fit(context, signals, **options)
    except KeyboardInterrupt as interrupted:
        message = str(interrupted) or "nothing was published"
        click.echo(f"Interrupted: {message}", err=True)
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
    test_data: str | None,
    split_column: str | None,
    split_time: str | None,
    weight: str | None,
    class_weights: tuple[str, ...],
    threshold: float | ThresholdRule,
    memory: int,
    floors: tuple[list[tuple[str, float]], ...],
    gate_tolerance: float,
    allow_schema_change: bool,
    force: bool,
    keep: int | None,
    reason: str,
    unless_published: bool,
    resume: bool,
    workers: int,
    rendezvous: tuple[str, int] | None,
    join_timeout: float,
    tensorboard: Path | None,
    quiet: bool,
    as_json: bool,
    **fit_options: Any,
) -> None:
    name = _resolve_model_name(model, data)
    label = label or builtin.LABELS.get(data)
    if label is None:
        raise click.UsageError("--label is needed: the column to predict")
    _reject_unsupported_options(context, fit_options["optimizer"])
    if fit_options["optimizer"] == "sgd" and (workers > 1 or "TF_CONFIG" in os.environ):
        raise click.UsageError(
            "--workers: sgd runs in one process because its steps are sequential"
        )
    # Columns left out may have kinds: `monitoring retrain` passes the kinds of all columns.
    for column, _ in _flatten(kinds):
        if column in (label, weight, split_column):
            raise click.UsageError(
                f"--columns: column {column!r} is not a feature but the label, the weight or the "
                "split column"
            )
    if STANDARD_INPUT in (data, test_data) and workers > 1:
        raise click.UsageError("--workers: only one process can read standard input")
    if rendezvous is not None and not _is_given(context, "workers"):
        raise click.UsageError("--rendezvous needs --workers, the total number of workers")
    if sum(option is not None for option in (test_data, split_column, split_time)) > 1:
        raise click.UsageError("give only one of --test-data, --split-column and --split-time")
    if data == STANDARD_INPUT and (split_time or test_data == STANDARD_INPUT):
        raise click.UsageError("--data: standard input can be read only once")
    if date_format and not DATE_FORMAT.fullmatch(date_format):
        raise click.UsageError(
            "--date-format: expected %Y or %y, and optionally "
            f"%m %d %j %b %B %a %A %H %I %M %S %p %z, got {date_format!r}"
        )
    settings = FitSettings(
        **fit_options, class_weight=_parse_class_weight(class_weights), threshold=threshold
    )
    marks = tuple(mark.strip() for mark in missing)
    cells = CellFormat(marks, decimal or "", date_format or "")
    existing = [v for v in versions(models / name) if _has_model(models / name / str(v))]
    if unless_published and existing:
        if not quiet:
            click.echo(f"{models / name} has version {existing[-1]}; nothing to train", err=True)
        _print_version(models / name / str(existing[-1]), quiet, as_json)
        return

    console = Console(stderr=True, quiet=quiet)
    # Started early to import TensorFlow in parallel; with several workers, only when needed.
    is_single = workers == 1 and "TF_CONFIG" not in os.environ
    process = FreshProcess() if is_single else None
    with console.status("starting TensorFlow"):  # imported late, to keep --help fast
        from training.cli.progress import show_progress
        from training.data.choose import Choice
        from training.pipeline import Target, run
        from training.publishing.gate import Rules
        from training.workers.launch import join_workers

    rules = Rules(dict(_flatten(floors)), gate_tolerance, allow_schema_change)
    try:
        with (
            process or nullcontext(),
            join_workers(workers, rendezvous, join_timeout) as group,
            # Only the first worker prints; the others would print the same.
            show_progress(
                console if group.index == 0 else Console(quiet=True), settings
            ) as observer,
        ):
            signals.install()  # again: TensorFlow's workers replace the SIGTERM handler
            published = run(
                replace(_open_data(data), test=_open_data(test_data) if test_data else None),
                Choice(
                    label,
                    positive,
                    dict(_flatten(kinds)),
                    leave_out,
                    weight,
                    cells,
                    split_column,
                    split_time,
                ),
                settings,
                Target(models, name, rules, force, keep, tensorboard, reason),
                memory=memory,
                workers=group,
                signals=signals,
                resume=resume,
                observer=observer,
                process=process,
            )
    except RefusedError as error:  # printed last, after the progress bars
        _exit_refused(str(error), as_json)
    if published is not None:
        _print_result(published, quiet, as_json)


def _print_result(published: PublishedVersion, quiet: bool, as_json: bool) -> None:
    candidate = published.candidate
    for notice in published.verdict.notices:
        click.echo(notice, err=True)
    record = candidate.manifest.as_json()
    fields = ("trained_at", "rows", "fit", "threshold", "metrics", "intervals", "warnings")
    _print_version(
        published.version,
        quiet,
        as_json,
        **{key: record[key] for key in fields},
        label=candidate.model.label_name,
        class_names=candidate.model.class_names,
        columns=[asdict(column) for column in candidate.columns],
        left_out=[asdict(column) for column in candidate.left_out],
        gate=asdict(published.verdict),
    )


def _print_version(version: Path, quiet: bool, as_json: bool, **facts: Any) -> None:
    """Print the paths of a version and its report; `facts` are added to the JSON object."""
    report = version / REPORT_FILE
    has_report = report.is_file()  # versions of other programs have none
    if has_report and not quiet:
        click.echo(f"Report: {report}", err=True)
    if as_json:
        paths = {"path": str(version), "report": str(report) if has_report else None}
        result = {"model": version.parent.name, "version": int(version.name), **paths, **facts}
        click.echo(json.dumps(result))
    else:
        click.echo(version)


def _exit_refused(reason: str, as_json: bool) -> NoReturn:
    click.echo(f"Refused: {reason}", err=True)
    if as_json:
        click.echo(json.dumps({"refused": reason}))
    sys.exit(REFUSED)


def _open_data(data: str) -> Source:
    return builtin.source(data) if data in builtin.LABELS else open_source(data)


def _parse_class_weight(texts: tuple[str, ...]) -> str | dict[str, float] | None:
    if BALANCED in texts:
        if len(texts) > 1:
            raise click.BadParameter(
                "expected either balanced or factors, got both", param_hint="--class-weight"
            )
        return BALANCED
    pairs = Pairs(numeric=True)
    try:
        factors = dict(pair for text in texts for pair in pairs.convert(text, None, None))
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint="--class-weight") from None
    for name, factor in factors.items():
        if factor <= 0:
            raise click.BadParameter(
                f"{name!r}: expected a factor above 0, got {factor:g}", param_hint="--class-weight"
            )
    return factors or None


def _reject_unsupported_options(context: click.Context, optimizer: str) -> None:
    for parameter, optimizers in OPTIMIZERS_BY_OPTION.items():
        if _is_given(context, parameter) and optimizer not in optimizers:
            option = f"--{parameter.replace('_', '-')}"
            raise click.UsageError(
                f"{option} is for --optimizer {' or '.join(optimizers)}, not for {optimizer}"
            )


def _is_given(context: click.Context, parameter: str) -> bool:
    return context.get_parameter_source(parameter) is click.core.ParameterSource.COMMANDLINE


def _flatten(groups: tuple[list[tuple[str, Any]], ...]) -> list[tuple[str, Any]]:
    return [pair for group in groups for pair in group]


def _resolve_model_name(model: str | None, data: str) -> str:
    if model is None and data not in builtin.LABELS:
        raise click.UsageError("--model is needed: the name to publish under")
    name = data if model is None else model
    if (
        not name
        or name.startswith(".")
        or Path(name).name != name
        or len(os.fsencode(name)) > MAX_NAME_LENGTH
    ):
        raise click.BadParameter(
            f"{name!r} cannot name a directory of its own", param_hint="--model"
        )
    return name


def _has_model(version: Path) -> bool:
    return (version / "saved_model.pb").is_file()

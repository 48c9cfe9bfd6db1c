"""`python -m monitoring quality`."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from monitoring.cli.options import (
    JSON,
    LOG,
    MODEL,
    MODELS,
    Duration,
    console,
    print_json,
    report_errors,
)
from monitoring.metrics import METRICS
from monitoring.quality import Quality, measure_quality
from monitoring.report import ASSUMPTION, format_duration, format_estimate, render
from monitoring.store import Store
from monitoring.versions import find_versions


@click.command("quality")
@MODELS
@MODEL
@LOG
@click.option(
    "--window",
    type=Duration(),
    default="28d",
    show_default=True,
    help="Maximum age of predictions, such as 12h, 28d or 4w.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a report with charts.",
)
@JSON
@report_errors
def quality(
    models: Path, model: str, log: Path, window: timedelta, html: Path | None, as_json: bool
) -> None:
    """Compare predictions with the labels that arrived later, by version and arm.

    Rows are weighted by 1/share, where share is the logged share of the requests. Estimates without
    labels are shown beside the metrics.
    """
    end = datetime.now(timezone.utc)
    with console().status("reading the log"):
        result = measure_quality(Store(log), model, find_versions(models, model), end - window, end)
    if html is not None:
        html.write_text(render(result), encoding="utf-8")
    if as_json:
        print_json(result.as_json())
        return
    _print_tables(result)
    if html is not None:
        click.echo(f"Report: {html}", err=True)


def _print_tables(quality: Quality) -> None:
    for arm in quality.arms:
        suffix = f", {arm.arm}" if arm.arm else ""
        table = Table(title=f"version {arm.version}{suffix}", title_justify="left")
        table.add_column("metric")
        table.add_column("from labels", justify="right")
        table.add_column("without labels", justify="right")
        for name in METRICS:
            table.add_row(
                name,
                format_estimate(arm.metrics.get(name)),
                format_estimate(arm.expected.get(name)),
            )
        Console().print(table)
        delay = ""
        if arm.delay_seconds:
            median, p90 = map(format_duration, arm.delay_seconds)
            delay = (
                f"; delay {median} (median), {p90} (90th percentile), {arm.late:,} later than 7 d"
            )
        click.echo(
            f"{arm.labelled:,} of {arm.rows:,} rows labelled, coverage {arm.coverage:.1%}{delay}"
        )
    if not quality.arms:
        click.echo(
            f"no logged predictions of {quality.model!r} with a probability in this window, by a "
            "version that still exists"
        )
    click.echo(
        f"labels not counted: {quality.replaced:,} replaced, {quality.unknown:,} without a logged "
        f"prediction, {quality.invalid:,} of neither class"
    )
    if any(arm.expected for arm in quality.arms):
        click.echo(ASSUMPTION)

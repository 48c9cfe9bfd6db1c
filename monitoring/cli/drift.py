"""`python -m monitoring drift`."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monitoring.cli.options import (
    DIRECTORY,
    GATEWAYS,
    JSON,
    MODEL,
    MODELS,
    VERSION,
    Duration,
    print_json,
    report_errors,
)
from monitoring.counters import Counts, History, query_prometheus, scrape_all
from monitoring.drift import ColumnDrift, busiest_version, measure_drift
from monitoring.errors import MonitoringError
from monitoring.versions import Version, find_versions

PIPE_WIDTH = 1000
STYLES = {"alarm": "bold red", "warn": "yellow", "too few rows": "dim", "ok": "green"}


@click.command("drift")
@MODELS
@MODEL
@VERSION
@GATEWAYS
@click.option(
    "--window",
    type=Duration(),
    help="Only rows requested in this period, such as 1d; requires --log or --prometheus. "
    "[default: all since the gateways started]",
)
@click.option("--log", type=DIRECTORY, help="Directory of the history that `watch` records.")
@click.option("--prometheus", metavar="URL", help="Prometheus server that scrapes the gateways.")
@JSON
@report_errors
def drift(
    models: Path,
    model: str,
    version: int | None,
    gateways: str,
    window: timedelta | None,
    log: Path | None,
    prometheus: str | None,
    as_json: bool,
) -> None:
    """Compare the rows in requests with the training rows, column by column.

    Reads the gateways' counters, so no row needs to be stored. A column's verdict is alarm only if
    its population stability index reaches 0.25 and exceeds the noise limit.
    """
    if log and prometheus:
        raise click.UsageError("expected one of --log and --prometheus")
    if window is None and (log or prometheus):
        raise click.UsageError("--log and --prometheus require --window, such as --window 1d")
    if window is None:
        counts = scrape_all(url for url in gateways.split(",") if url)
    elif prometheus:
        counts = query_prometheus(prometheus, model, window)
    elif log:
        counts = History(log).since(datetime.now(timezone.utc) - window)
    else:
        raise click.UsageError(
            "--window needs a history: --log DIRECTORY, which `python -m monitoring watch` fills, "
            "or --prometheus URL"
        )
    if not any(counts.values()):
        source = "were counted: send requests"
        if log:
            source = f"in the history {log}: start `python -m monitoring watch`, or send requests"
        raise MonitoringError(
            f"no rows {source}; if there were some, the version has no reference: publish it again "
            "with `python -m training fit`"
        )
    selected = select_version(find_versions(models, model), model, version, counts)
    drifts = measure_drift(selected, model, counts)
    if as_json:
        columns = [column.as_json() for column in drifts]
        print_json({"model": model, "version": selected.number, "columns": columns})
    else:
        _print_table(model, selected, drifts)


def select_version(
    published: list[Version], model: str, number: int | None, counts: Counts
) -> Version:
    """Return the version with a number, or by default the one with the most rows.

    Raises:
        MonitoringError: there is no such version.
    """
    if number is None:
        version = busiest_version(published, model, counts)
    else:
        version = next((v for v in published if v.number == number), None)
    if version is not None:
        return version
    if number is not None:
        known = ", ".join(str(v.number) for v in published)
        raise MonitoringError(f"{model!r} has no version {number}; published versions: {known}")
    counted = [key for key, count in counts.items() if count]
    if numbers := {key.version for key in counted if key.model == model}:
        raise MonitoringError(
            f"rows of {model!r} were counted for versions {', '.join(map(str, sorted(numbers)))}, "
            "none of which is published in --models"
        )
    raise MonitoringError(
        f"no row of {model!r} was counted; expected a model with requests: "
        f"{', '.join(sorted({key.model for key in counted}))}"
    )


def _print_table(model: str, version: Version, drifts: list[ColumnDrift]) -> None:
    title = f"{escape(model)} {version.number}: rows in requests against training rows"
    table = Table(title=title, box=box.SIMPLE, show_edge=False, padding=0)
    # Narrow terminals fold names and pairs instead of truncating them.
    table.add_column("column", overflow="fold")
    for name in ("rows", "PSI", "noise", "JS"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("KS or χ²", "missing", "other"):
        table.add_column(name, justify="right", overflow="fold", min_width=8)
    table.add_column("moves", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=7)
    for drift in drifts:
        s = drift.shift
        test = f"KS {s.ks:.3f}" if s.ks is not None else f"χ² {s.chi_square:.4g}"
        table.add_row(
            escape(drift.column) or "(probability)",
            f"{drift.rows:,}",
            f"{s.psi:.3f}",
            f"{s.psi_limit:.3f}",
            f"{s.js:.3f}",
            test,
            f"{drift.missing:.1%} ({drift.missing_trained:.1%})",
            f"{drift.other:.1%} ({drift.other_trained:.1%})",
            f"{drift.impact:.2f}" if drift.column else "",
            f"[{STYLES[s.verdict]}]{s.verdict}",
        )
    # A pipe has no width, and rich would assume 80.
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)
    click.echo(
        "noise: PSI that chance alone can reach; moves: estimated change of the log-odds; in "
        "brackets: training rows"
    )

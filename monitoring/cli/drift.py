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
    reported,
)
from monitoring.counters import Counts, History, from_prometheus, scrape_all
from monitoring.drift import ColumnDrift, busiest
from monitoring.drift import drift as drift_of
from monitoring.errors import MonitoringError
from monitoring.versions import Version, versions

MAX_WIDTH = 1000
STYLES = {"alarm": "bold red", "warn": "yellow", "too few rows": "dim", "ok": "green"}


@click.command("drift")
@MODELS
@MODEL
@VERSION
@GATEWAYS
@click.option(
    "--window",
    type=Duration(),
    help="Only rows requested in this time, such as 1d; needs --log or --prometheus. "
    "[default: all since the gateways started]",
)
@click.option("--log", type=DIRECTORY, help="Directory of the history that `watch` records.")
@click.option("--prometheus", metavar="URL", help="Prometheus server that scrapes the gateways.")
@JSON
@reported
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
    """Compare requested rows with training rows, column by column.

    Reads the gateways' counters, so no row needs to be stored. A column is an alarm only if its
    population stability index exceeds both 0.25 and the noise limit.
    """
    if log and prometheus:
        raise click.UsageError("expected one of --log and --prometheus")
    if window is None and (log or prometheus):
        raise click.UsageError("--log and --prometheus need --window, such as --window 1d")
    if window is None:
        counts = scrape_all(url for url in gateways.split(",") if url)
    elif prometheus:
        counts = from_prometheus(prometheus, model, window)
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
    chosen = version_with_rows(versions(models, model), model, version, counts)
    found = drift_of(chosen, model, counts)
    if as_json:
        columns = [one.as_json() for one in found]
        print_json({"model": model, "version": chosen.number, "columns": columns})
    else:
        _print(model, chosen, found)


def version_with_rows(
    published: list[Version], model: str, number: int | None, counts: Counts
) -> Version:
    """Return the version with a number, or the one with the most rows.

    Raises:
        MonitoringError: there is none.
    """
    if number is None:
        found = busiest(published, model, counts)
    else:
        found = next((one for one in published if one.number == number), None)
    if found is not None:
        return found
    if number is not None:
        known = ", ".join(str(one.number) for one in published)
        raise MonitoringError(f"{model!r} has no version {number}, it has {known}")
    counted = [one for one, count in counts.items() if count]
    if numbers := {one.version for one in counted if one.model == model}:
        raise MonitoringError(
            f"rows of {model!r} were counted for versions {', '.join(map(str, sorted(numbers)))}, "
            "none of which is published in --models"
        )
    raise MonitoringError(
        f"no row of {model!r} was counted; expected a model with requests: "
        f"{', '.join(sorted({one.model for one in counted}))}"
    )


def _print(model: str, version: Version, found: list[ColumnDrift]) -> None:
    title = f"{escape(model)} {version.number}: requested rows against training rows"
    table = Table(title=title, box=box.SIMPLE, show_edge=False, padding=0)
    # A narrow terminal folds names and pairs, so that nothing is cut off.
    table.add_column("column", overflow="fold")
    for name in ("rows", "PSI", "noise", "JS"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("KS or χ²", "missing", "other"):
        table.add_column(name, justify="right", overflow="fold", min_width=8)
    table.add_column("moves", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=7)
    for one in found:
        s = one.shift
        test = f"KS {s.ks:.3f}" if s.ks is not None else f"χ² {s.chi_square:.4g}"
        table.add_row(
            escape(one.column) or "(probability)",
            f"{one.rows:,}",
            f"{s.psi:.3f}",
            f"{s.psi_limit:.3f}",
            f"{s.js:.3f}",
            test,
            f"{one.missing:.1%} ({one.missing_trained:.1%})",
            f"{one.other:.1%} ({one.other_trained:.1%})",
            f"{one.impact:.2f}" if one.column else "",
            f"[{STYLES[s.verdict]}]{s.verdict}",
        )
    # A pipe has no width, for which rich assumes 80.
    Console(width=None if sys.stdout.isatty() else MAX_WIDTH).print(table)
    click.echo(
        "noise: the PSI that chance alone can reach; moves: about how far a column has moved the "
        "log-odds; in brackets: in training"
    )

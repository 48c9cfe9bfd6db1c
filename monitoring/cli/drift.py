"""`python -m monitoring drift`."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import click
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
    if not counts:
        source = "were counted: send requests"
        if window and log and not prometheus:
            source = f"in the history {log}: start `python -m monitoring watch`, or send requests"
        raise MonitoringError(
            f"no rows {source}; or the model was published before models carried a reference"
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
    raise MonitoringError(
        f"no row of {model!r} was counted; expected a model with requests: "
        f"{', '.join(sorted({one.model for one in counts})) or 'there is none'}"
    )


def _print(model: str, version: Version, found: list[ColumnDrift]) -> None:
    table = Table(title=f"{escape(model)} {version.number}: requested rows against training rows")
    for name in ("column", "rows", "PSI", "noise", "JS", "KS or χ²", "missing", "other", "moves"):
        table.add_column(name, justify="left" if name == "column" else "right")
    table.add_column("verdict")
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
    Console().print(table)
    click.echo(
        "noise: the PSI that chance alone can reach; moves: about how far a column has moved the "
        "log-odds; in brackets: in training"
    )

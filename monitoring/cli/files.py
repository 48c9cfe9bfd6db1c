"""`python -m monitoring compact | forget`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.progress import Progress

from monitoring import compaction
from monitoring.cli.options import JSON, LOG, ByteCount, console, print_json, report_errors
from monitoring.shipping_state import STATE
from monitoring.store import Store

KEEP_DAYS = click.option(
    "--keep-days",
    type=click.IntRange(0, 36_500),
    help="Remove files older than this many days.",
)
KEEP_BYTES = click.option(
    "--keep-bytes",
    type=ByteCount(),
    help="Remove the oldest days until the files fit within this size, such as 20GB.",
)


@click.command("compact")
@LOG
@KEEP_DAYS
@KEEP_BYTES
@JSON
@report_errors
def compact(log: Path, keep_days: int | None, keep_bytes: int | None, as_json: bool) -> None:
    """Convert complete segments of the log to Parquet and remove old files.

    May be killed and run again at any time: no row is lost or duplicated.
    """
    store, now = Store(log), datetime.now(timezone.utc)
    with Progress(console=console(), transient=True) as progress:
        task = progress.add_task("compacting", total=None)
        result = compaction.compact(
            store,
            now,
            lambda done, total: progress.update(task, completed=done, total=total),
            keep_days,
        )
    removed = compaction.retain(store, now, keep_days, keep_bytes)
    if as_json:
        print_json({**asdict(result), "removed": [str(path) for path in removed]})
        return
    click.echo(
        f"{result.segments:,} segments: {result.predictions:,} rows of predictions and "
        f"{result.feedback:,} labels written, {result.skipped:,} unreadable lines; "
        f"{len(removed):,} directories removed"
    )
    if result.waiting:
        click.echo(
            f"{result.waiting:,} segments wait for `python -m monitoring ship`; to stop "
            f"shipping, stop that command and remove {log / STATE}"
        )


@click.command("forget")
@LOG
@click.option("--id", "ids", multiple=True, help="Id of a prediction.")
@click.option("--caller", "callers", multiple=True, help="Name of an API key.")
@JSON
@report_errors
def forget(log: Path, ids: tuple[str, ...], callers: tuple[str, ...], as_json: bool) -> None:
    """Remove all rows of the given ids and callers from segments, Parquet files and datasets.

    Waits up to two minutes for the gateways to complete their open segments. Models trained on
    the rows are kept.
    """
    if not ids and not callers:
        raise click.UsageError("expected --id or --caller")
    with console().status("waiting for open segments") as status:
        result = compaction.forget(
            Store(log), ids, callers, lambda n: status.update(f"waiting for {n} open segments")
        )
    if as_json:
        print_json(asdict(result))
        return
    click.echo(
        f"removed {result.predictions:,} rows of predictions, {result.feedback:,} labels and "
        f"{result.training_rows:,} rows of datasets; {result.files:,} files rewritten"
    )
    if result.damaged:
        click.echo(f"removed {result.damaged:,} unreadable datasets")

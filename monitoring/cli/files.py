"""`python -m monitoring compact | forget`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.progress import Progress

from monitoring import compaction
from monitoring.cli.options import JSON, LOG, ByteCount, console, print_json, reported
from monitoring.shipped import STATE
from monitoring.store import Store

KEEP_DAYS = click.option(
    "--keep-days",
    type=click.IntRange(0, 36_500),
    help="Remove files older than this number of days.",
)
KEEP_BYTES = click.option(
    "--keep-bytes", type=ByteCount(), help="Remove the oldest days beyond this size, such as 20GB."
)


@click.command("compact")
@LOG
@KEEP_DAYS
@KEEP_BYTES
@JSON
@reported
def compact(log: Path, keep_days: int | None, keep_bytes: int | None, as_json: bool) -> None:
    """Turn complete segments of the log into Parquet, and remove old files.

    It may be killed and run again at any time: no row is lost or duplicated.
    """
    store, now = Store(log), datetime.now(timezone.utc)
    with Progress(console=console(), transient=True) as progress:
        task = progress.add_task("compacting", total=None)
        done = compaction.compact(
            store,
            now,
            lambda count, total: progress.update(task, completed=count, total=total),
            keep_days,
        )
    removed = compaction.retain(store, now, keep_days, keep_bytes)
    if as_json:
        print_json({**asdict(done), "removed": [str(path) for path in removed]})
        return
    click.echo(
        f"{done.segments:,} segments: {done.predictions:,} predictions and {done.feedback:,} "
        f"labels written, {done.skipped:,} unreadable lines; {len(removed):,} directories removed"
    )
    if done.waiting:
        click.echo(
            f"{done.waiting:,} segments wait for `python -m monitoring ship`; to stop "
            f"shipping, stop it and remove {log / STATE}"
        )


@click.command("forget")
@LOG
@click.option("--id", "ids", multiple=True, help="Id of a prediction.")
@click.option("--caller", "callers", multiple=True, help="Name of an API key.")
@JSON
@reported
def forget(log: Path, ids: tuple[str, ...], callers: tuple[str, ...], as_json: bool) -> None:
    """Remove all rows of predictions or callers from segments, Parquet files and datasets.

    Waits up to two minutes for the gateways to complete their open segments. Models trained on
    the rows remain.
    """
    if not ids and not callers:
        raise click.UsageError("--id or --caller is needed")
    with console().status("waiting for open segments") as status:
        done = compaction.forget(
            Store(log), ids, callers, lambda n: status.update(f"waiting for {n} open segments")
        )
    if as_json:
        print_json(asdict(done))
        return
    click.echo(
        f"removed {done.predictions:,} predictions, {done.feedback:,} labels and "
        f"{done.training_rows:,} rows of datasets; {done.files:,} files rewritten"
    )
    if done.damaged:
        click.echo(f"removed {done.damaged:,} datasets that could not be read")

"""`python -m monitoring watch`."""

from __future__ import annotations

import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import click

from monitoring.cli.files import KEEP_BYTES, KEEP_DAYS
from monitoring.cli.options import GATEWAYS, LOG, MODEL, MODELS, Duration, report_errors
from monitoring.cli.retrain import recipe_options
from monitoring.cli.signals import set_on_signal
from monitoring.exporter import Exporter
from monitoring.metrics import METRICS
from monitoring.retraining import Recipe
from monitoring.triggers import Policy
from monitoring.watching import Watcher, WatchSettings


@click.command("watch")
@MODELS
@MODEL
@LOG
@GATEWAYS
@click.option(
    "--interval", type=Duration(), default="5m", show_default=True, help="Time between rounds."
)
@click.option(
    "--window",
    type=Duration(),
    default="1d",
    show_default=True,
    help="Period over which drift and quality are computed.",
)
@KEEP_DAYS
@KEEP_BYTES
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of /metrics.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of /metrics. [default: none]")
@click.option("--data", help="Retrain on this original table: a file, a directory or a glob.")
@click.option("--every", type=Duration(), help="Retrain on this schedule, such as 7d.")
@click.option(
    "--floor",
    "floors",
    multiple=True,
    metavar="METRIC=VALUE",
    help="Retrain if a metric's entire confidence interval is worse than VALUE: "
    f"{', '.join(METRICS)}.",
)
@click.option("--on-drift", is_flag=True, help="Retrain if a column's verdict is alarm.")
@click.option(
    "--cooldown",
    type=Duration(),
    default="6h",
    show_default=True,
    help="Minimum time between two retraining runs.",
)
@click.option(
    "--max-per-day",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Maximum number of retraining runs in 24 hours.",
)
@click.option("--once", is_flag=True, help="Run one round, then exit; status 1 if a step fails.")
@recipe_options
@report_errors
def watch(
    models: Path,
    model: str,
    log: Path,
    gateways: str,
    interval: timedelta,
    window: timedelta,
    keep_days: int | None,
    keep_bytes: int | None,
    host: str,
    port: int | None,
    data: str | None,
    every: timedelta | None,
    floors: tuple[str, ...],
    on_drift: bool,
    cooldown: timedelta,
    max_per_day: int,
    once: bool,
    label: str,
    label_window: timedelta,
    min_labels: int,
    training_options: tuple[str, ...],
) -> None:
    """Record counters, compact the log, publish drift and quality, and retrain when due.

    Every trigger, including --on-drift, requires --min-labels labelled rows in the window.
    Options after -- go to `python -m training fit`.
    """
    if data is None and (every or floors or on_drift or training_options):
        raise click.UsageError("retraining requires --data: the path of the original table")
    if data is not None and not (every or floors or on_drift):
        raise click.UsageError("--data requires a trigger: --every, --floor or --on-drift")
    recipe = None
    if data is not None:
        recipe = Recipe(models, model, data, label, label_window, min_labels, training_options)
    exporter = Exporter(model)
    if port is not None:
        bound_port = exporter.serve(host, port)
        click.echo(f"metrics at http://{host}:{bound_port}/metrics", err=True)
    watcher = Watcher(
        WatchSettings(
            models=models,
            model=model,
            log=log,
            gateways=[url for url in gateways.split(",") if url],
            window=window,
            keep_days=keep_days,
            keep_bytes=keep_bytes,
            recipe=recipe,
            policy=Policy(every, _floors(floors), on_drift, min_labels, cooldown, max_per_day),
        ),
        exporter,
        lambda text: click.echo(f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ} {text}"),
    )
    if once:
        if not watcher.run_round(datetime.now(timezone.utc)):
            sys.exit(1)
        return
    stopped = threading.Event()
    set_on_signal(stopped)
    while not stopped.is_set():
        watcher.run_round(datetime.now(timezone.utc))
        stopped.wait(interval.total_seconds())


def _floors(texts: tuple[str, ...]) -> dict[str, float]:
    floors = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            floors[name] = float(value)
        except ValueError:
            floors[name] = float("nan")
        if name not in METRICS or floors[name] != floors[name]:
            raise click.BadParameter(
                f"{text!r}: expected METRIC=VALUE with one of {', '.join(METRICS)}",
                param_hint="--floor",
            )
    return floors

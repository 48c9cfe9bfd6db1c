"""`python -m rollout watch`: the service that judges rollouts and takes their steps."""

from __future__ import annotations

import json
import signal
import threading
from _thread import start_new_thread
from contextlib import nullcontext
from types import FrameType

import click

from rollout.cli.commands import SHOW_DEFAULT
from rollout.cli.options import controller_options, dry_run_option, json_option, rollout_options
from rollout.controller import Controller, Decision, Settings, utc_now
from rollout.errors import RolloutError
from rollout.exporter import Exporter

TICK_SECONDS = 1.0


@click.command(context_settings=SHOW_DEFAULT)
@click.option(
    "--auto",
    is_flag=True,
    help="Roll out newly published versions with --steps; if there are several, only the newest.",
)
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Port for Prometheus metrics.")
@click.option("--metrics-host", default="127.0.0.1", help="Address to listen on.")
@rollout_options
@controller_options
@json_option
@dry_run_option
def watch(
    controller: Controller,
    settings: Settings,
    auto: bool,
    metrics_port: int | None,
    metrics_host: str,
    as_json: bool,
) -> None:
    """Judge the rollout every second and take its steps.

    Runs until SIGTERM or SIGINT. A rollout in progress keeps its settings; the options apply to
    rollouts that --auto starts.
    """
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        # The interrupted thread may hold the event's lock, so set the event in another thread.
        start_new_thread(stopped.set, ())

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    exporter = Exporter(controller.model)
    # Write the first state before opening the port, so that a read-only directory fails at once.
    controller.change(lambda state, time: state)
    with nullcontext() if controller.dry_run else controller.store.watching(controller.model):
        if metrics_port is not None:
            exporter.listen(metrics_host, metrics_port)
        _run(controller, settings if auto else None, exporter, stopped, as_json)


def _run(
    controller: Controller,
    auto: Settings | None,
    exporter: Exporter,
    stopped: threading.Event,
    as_json: bool,
) -> None:
    last_line = ""
    while not stopped.is_set():
        try:
            decision = controller.tick(auto)
        except RolloutError as error:
            line, state = str(error), None
        else:
            exporter.update(decision, dry_run=controller.dry_run)
            line, state = _describe(decision, dry_run=controller.dry_run), decision.state
        if line != last_line:
            last_line = line
            time = utc_now().isoformat(timespec="milliseconds")
            entry = {"time": time, "message": line, "state": state and state.as_json()}
            click.echo(json.dumps(entry, ensure_ascii=False) if as_json else f"{time} {line}")
        stopped.wait(TICK_SECONDS)


def _describe(decision: Decision, *, dry_run: bool) -> str:
    """Return the line to log; it omits a verdict's reason, whose numbers change every second."""
    state = decision.state
    if decision.changed:
        return f"dry run: {state.reason}" if dry_run else state.reason
    if decision.verdict is not None:
        # With --manual, the operator takes the step.
        status = "waiting" if decision.verdict.action == "wait" else "ready for the next step"
        return f"version {state.canary} at {state.percent:g}%: {status}"
    return f"{state.phase}, version {state.stable} stable"

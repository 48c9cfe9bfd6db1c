"""`python -m monitoring ship`."""

from __future__ import annotations

import math
import re
import threading
import urllib.parse
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from monitoring.cli.options import JSON, LOG, console, print_json, report_errors
from monitoring.cli.signals import set_on_signal
from monitoring.errors import MonitoringError
from monitoring.shipping import Receiver, Shipper, StoppedError, Totals
from monitoring.store import Store, exclusive_lock

POLL_SECONDS = 5
# Together, these attempts wait about 12 seconds.
ONCE_ATTEMPTS = 6
LOCK = ".shipping.lock"


def validate_url(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Return an HTTP URL unchanged; reject other values."""
    try:
        parts = urllib.parse.urlsplit(value)
        (parts.hostname or "").encode("idna")  # as `getaddrinfo` does
        is_valid = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and re.fullmatch("[!-~]+", value)
        )
        if parts.username is not None:
            raise click.BadParameter("user names and passwords in the URL are not supported")
    except ValueError:
        is_valid = False
    if not is_valid:
        raise click.BadParameter(
            f"{value!r}: expected a URL such as http://broker:8080/events, in ASCII without spaces"
        )
    return value


@click.command("ship")
@LOG
@click.option(
    "--to", "url", required=True, callback=validate_url, metavar="URL", help="Receiver of events."
)
@click.option(
    "--namespace", default="default", show_default=True, help="Attribute `namespace` of the events."
)
@click.option(
    "--skip-refused", is_flag=True, help="Count events that the receiver refuses, and continue."
)
@click.option("--once", is_flag=True, help="Send the segments that are complete, then exit.")
@JSON
@report_errors
def ship(
    log: Path, url: str, namespace: str, skip_refused: bool, once: bool, as_json: bool
) -> None:
    """Send the log to a URL as CloudEvents in KServe's format, each row at least once.

    Sends complete segments: a gateway completes one each minute. May be killed and run again at any
    time. `compact` keeps unsent segments for up to seven days; to stop shipping, stop this command
    and remove LOG/shipping.json.
    """
    stopped = threading.Event()
    if not once:
        set_on_signal(stopped)
    store = Store(log)
    receiver = Receiver(url, ONCE_ATTEMPTS if once else math.inf, stopped, _log)
    busy = MonitoringError(f"the log {log} is being shipped by another process")
    with exclusive_lock(store.directory / LOCK, busy), console().status("sending") as status:
        shipper = Shipper(store, receiver, namespace, skip_refused, status.update)
        try:
            _run(shipper, stopped, once)
        finally:
            shipper.close()
            if as_json:
                print_json(asdict(shipper.totals))
            else:
                _log(_summary(shipper.totals))


def _run(shipper: Shipper, stopped: threading.Event, once: bool) -> None:
    with suppress(StoppedError):
        while True:
            before = shipper.totals.events
            shipper.send_segments()
            if once:
                return
            if shipper.totals.events > before:
                _log(_summary(shipper.totals))
            if stopped.wait(POLL_SECONDS):
                return


def _summary(totals: Totals) -> str:
    return (
        f"sent {totals.rows:,} rows in {totals.events:,} events, {totals.segments:,} segments "
        f"complete; {totals.refused:,} events refused, {totals.skipped:,} unreadable lines"
    )


def _log(text: str) -> None:
    click.echo(f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ} {text}", err=True)

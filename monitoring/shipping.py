"""Send the complete segments of the prediction log as CloudEvents, each row at least once."""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from monitoring import segments
from monitoring.errors import MonitoringError
from monitoring.events import Event, Row, build_events, group_rows
from monitoring.shipping_state import ShippingState
from monitoring.store import Store

CONNECTIONS = 8
# Maximum number of rows between updates of the state, and the time between writes to disk.
BATCH_ROWS = 512
SAVE_SECONDS = 1.0
TIMEOUT_SECONDS = 30
FIRST_DELAY, MAX_DELAY = 0.5, 60.0
REPORT_SECONDS = 10.0
# Other error statuses mean that the event itself is refused.
RETRY_STATUSES = (408, 425, 429, *range(500, 600))
MAX_REASON_CHARS = 200


class StoppedError(Exception):
    """The job was stopped while waiting to retry."""


@dataclass
class Totals:
    """Totals of a run.

    Attributes:
        segments: segments sent completely.
        rows, events: rows and events that the receiver accepted.
        refused: events that the receiver refused.
        skipped: unreadable lines, such as torn ones.
    """

    segments: int = 0
    rows: int = 0
    events: int = 0
    refused: int = 0
    skipped: int = 0


class Receiver:
    """The URL that events are posted to; safe for use by several threads."""

    def __init__(
        self, url: str, attempts: float, stopped: threading.Event, report: Callable[[str], None]
    ) -> None:
        """Create a receiver; connections are opened on demand.

        Args:
            url: URL to post to.
            attempts: maximum number of attempts per event; infinity retries until stopped.
            stopped: event that interrupts waiting.
            report: called with errors that are retried, at most once per `REPORT_SECONDS`.
        """
        self._url = url
        self._parts = urllib.parse.urlsplit(url)
        self._attempts, self._stopped, self._report = attempts, stopped, report
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._reported = float("-inf")

    def send(self, event: Event) -> str:
        """Post an event until it is accepted; return the reason if it is refused, else "".

        Raises:
            MonitoringError: the maximum number of attempts was reached.
            StoppedError: the job was stopped.
        """
        delay, attempt = FIRST_DELAY, 1
        while True:
            try:
                status, text = self._post(event)
            except (OSError, http.client.HTTPException) as error:
                status, text = 0, str(error) or type(error).__name__
            if 200 <= status < 300:
                return ""
            problem = f"{self._url}: {status or 'no answer'}: {text}"
            if status and status not in RETRY_STATUSES:
                return problem
            if attempt >= self._attempts:
                raise MonitoringError(f"{problem}; run the command again when the receiver answers")
            self._report_retry(f"retrying: {problem}")
            if self._stopped.wait(delay * random.uniform(0.5, 1)):
                raise StoppedError
            delay, attempt = min(2 * delay, MAX_DELAY), attempt + 1

    def stop(self) -> None:
        """Interrupt all waiting."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections; call it after all threads have ended."""
        for connection in self._connections:
            connection.close()

    def _post(self, event: Event) -> tuple[int, str]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            is_https = self._parts.scheme == "https"
            factory = http.client.HTTPSConnection if is_https else http.client.HTTPConnection
            connection = factory(self._parts.netloc, timeout=TIMEOUT_SECONDS)
            self._local.connection = connection
            self._connections.append(connection)
        path = urllib.parse.urlunsplit(("", "", self._parts.path or "/", self._parts.query, ""))
        try:
            connection.request("POST", path, event.body, dict(event.headers))
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except BaseException:
            connection.close()  # reopened by the next attempt
            raise
        return response.status, " ".join(text.split())[:MAX_REASON_CHARS] or response.reason

    def _report_retry(self, text: str) -> None:
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            self._report(text)


class Shipper:
    """Sends complete segments and records its progress."""

    def __init__(
        self,
        store: Store,
        receiver: Receiver,
        namespace: str,
        skip_refused: bool,
        progress: Callable[[str], None],
    ) -> None:
        """Start shipping: from now on, `compact` keeps unsent segments.

        Args:
            store: the directory of the log.
            receiver: receiver of the events.
            namespace: attribute `namespace` of the events.
            skip_refused: whether to continue after the receiver refuses an event.
            progress: called with the name of the current segment and its percentage sent.

        Raises:
            MonitoringError: the state cannot be read.
        """
        self._store, self._receiver, self._namespace = store, receiver, namespace
        self._skip_refused, self._progress = skip_refused, progress
        self._pool = ThreadPoolExecutor(CONNECTIONS)
        self._state = ShippingState(store.directory)
        self._state.save()
        self._saved = time.monotonic()
        self.totals = Totals()

    def send_segments(self) -> None:
        """Send all complete segments.

        Raises:
            MonitoringError: the receiver does not answer or refuses an event.
            StoppedError: the job was stopped.
        """
        segments.seal_abandoned(self._store.directory)
        try:
            for path in segments.sealed_segments(self._store.directory):
                with suppress(FileNotFoundError):  # compacted at the end of its hold time
                    self._send_segment(path)
        finally:
            self._state.save()

    def _send_segment(self, path: Path) -> None:
        """Send the rest of a segment.

        The file is reopened for each batch so that rows removed by `forget` are not sent.
        """
        has_unsent = False
        while True:
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                offset = self._state.offset(path, stat)
                if offset >= stat.st_size:
                    break
                has_unsent = True
                self._progress(f"{path.name}: {offset / stat.st_size:.0%}")
                file.seek(offset)
                lines = file.readlines(BATCH_ROWS * 1024)[:BATCH_ROWS]
            self._send_rows(lines)
            self._state.record(path, stat, offset + sum(map(len, lines)))
            if time.monotonic() - self._saved >= SAVE_SECONDS:
                self._state.save()
                self._saved = time.monotonic()
        self.totals.segments += has_unsent

    def _send_rows(self, lines: list[bytes]) -> None:
        rows: list[Row] = []
        for line in lines:
            try:
                segments.parse_prediction(stored := orjson.loads(line))
            except segments.UNREADABLE:
                self.totals.skipped += 1
            else:
                rows.append(stored)
        groups = list(group_rows(rows))
        for group, refusals in zip(groups, self._pool.map(self._send_group, groups), strict=True):
            if refusals and not self._skip_refused:
                raise MonitoringError(
                    f"the receiver refuses prediction {group[0]['id']!r}: {refusals[0]}; "
                    "--skip-refused sends the others"
                )
            self.totals.refused += len(refusals)
            self.totals.events += 2 - len(refusals)
            self.totals.rows += len(group) if not refusals else 0

    def _send_group(self, group: list[Row]) -> list[str]:
        reasons = [self._receiver.send(event) for event in build_events(group, self._namespace)]
        return [reason for reason in reasons if reason]

    def close(self) -> None:
        """Stop the threads, interrupting waits, and close their connections."""
        self._receiver.stop()
        self._pool.shutdown(cancel_futures=True)
        self._receiver.close()

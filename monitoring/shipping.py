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
from monitoring.events import Event, Row, events, grouped
from monitoring.shipped import Shipped
from monitoring.store import Store

CONNECTIONS = 8
# Rows that are sent before the state is updated, and the time after which it is written.
BATCH_ROWS = 512
SAVE_SECONDS = 1.0
ANSWER_SECONDS = 30
FIRST_DELAY, MAX_DELAY = 0.5, 60.0
REPORT_SECONDS = 10.0
# Statuses worth a retry; other errors are caused by the event itself.
RETRIED = (408, 425, 429, *range(500, 600))
MAX_SHOWN = 200


class StoppedError(Exception):
    """The job was stopped while it waited."""


@dataclass
class Sent:
    """Counts of a run.

    Attributes:
        segments: segments that were sent to their end.
        rows, events: rows and events that the receiver has accepted.
        refused: events that it has refused.
        skipped: lines that could not be read, such as torn ones.
    """

    segments: int = 0
    rows: int = 0
    events: int = 0
    refused: int = 0
    skipped: int = 0


class Receiver:
    """The URL to which events are posted; may be used by several threads."""

    def __init__(
        self, url: str, attempts: float, stopped: threading.Event, report: Callable[[str], None]
    ) -> None:
        """Remember the URL; connections are opened when they are needed.

        Args:
            url: where to post.
            attempts: maximum number of attempts per event; infinity retries until stopped.
            stopped: ends waiting.
            report: called with errors that are retried, at most once per `REPORT_SECONDS`.
        """
        self._url = url
        self._parts = urllib.parse.urlsplit(url)
        self._attempts, self._stopped, self._report = attempts, stopped, report
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._reported = float("-inf")

    def send(self, event: Event) -> str:
        """Post an event until it is accepted; return the reason if it is refused instead.

        Raises:
            MonitoringError: it was not accepted within the maximum number of attempts.
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
            said = f"{self._url}: {status or 'no answer'}: {text}"
            if status and status not in RETRIED:
                return said
            if attempt >= self._attempts:
                raise MonitoringError(f"{said}; run the command again when the receiver answers")
            self._report_retry(f"retrying: {said}")
            if self._stopped.wait(delay * random.uniform(0.5, 1)):
                raise StoppedError
            delay, attempt = min(2 * delay, MAX_DELAY), attempt + 1

    def stop(self) -> None:
        """End all waiting."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections; no thread may use them any more."""
        for connection in self._connections:
            connection.close()

    def _post(self, event: Event) -> tuple[int, str]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            secure = self._parts.scheme == "https"
            kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
            connection = kind(self._parts.netloc, timeout=ANSWER_SECONDS)
            self._local.connection = connection
            self._connections.append(connection)
        path = urllib.parse.urlunsplit(("", "", self._parts.path or "/", self._parts.query, ""))
        try:
            connection.request("POST", path, event.body, dict(event.headers))
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except BaseException:
            connection.close()  # the next attempt opens it again
            raise
        return response.status, " ".join(text.split())[:MAX_SHOWN] or response.reason

    def _report_retry(self, text: str) -> None:
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            self._report(text)


class Shipper:
    """Sends complete segments, and records its progress."""

    def __init__(
        self,
        store: Store,
        receiver: Receiver,
        namespace: str,
        skip_refused: bool,
        progress: Callable[[str], None],
    ) -> None:
        """Begin to ship: from now on, `compact` waits for this job.

        Args:
            store: the directory of the log.
            receiver: where events go.
            namespace: an attribute of the events.
            skip_refused: whether to go on after events that the receiver refuses.
            progress: called with the current segment and the share of it that was sent.

        Raises:
            MonitoringError: the state cannot be read.
        """
        self._store, self._receiver, self._namespace = store, receiver, namespace
        self._skip_refused, self._progress = skip_refused, progress
        self._pool = ThreadPoolExecutor(CONNECTIONS)
        self._state = Shipped(store.directory)
        self._state.save()
        self._saved = time.monotonic()
        self.sent = Sent()

    def round(self) -> None:
        """Send all complete segments.

        Raises:
            MonitoringError: the receiver does not answer, or refuses an event.
            StoppedError: the job was stopped.
        """
        segments.seal_abandoned(self._store.directory)
        try:
            for path in segments.sealed(self._store.directory):
                with suppress(FileNotFoundError):  # compacted after its hold time ended
                    self._send(path)
        finally:
            self._state.save()

    def _send(self, path: Path) -> None:
        """Send the rest of a segment.

        The file is opened for each batch, so that rows that `forget` removes are not sent later.
        """
        began = False
        while True:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                offset = self._state.offset(path, found)
                if offset >= found.st_size:
                    break
                began = True
                self._progress(f"{path.name}: {offset / found.st_size:.0%}")
                file.seek(offset)
                lines = file.readlines(BATCH_ROWS * 1024)[:BATCH_ROWS]
            self._send_rows(lines)
            self._state.put(path, found, offset + sum(map(len, lines)))
            if time.monotonic() - self._saved >= SAVE_SECONDS:
                self._state.save()
                self._saved = time.monotonic()
        self.sent.segments += began

    def _send_rows(self, lines: list[bytes]) -> None:
        rows: list[Row] = []
        for line in lines:
            try:
                segments.prediction(stored := orjson.loads(line))
            except segments.UNREADABLE:
                self.sent.skipped += 1
            else:
                rows.append(stored)
        groups = list(grouped(rows))
        for group, refusals in zip(groups, self._pool.map(self._send_group, groups), strict=True):
            if refusals and not self._skip_refused:
                raise MonitoringError(
                    f"the receiver refuses prediction {group[0]['id']!r}: {refusals[0]}; "
                    "--skip-refused sends the others"
                )
            self.sent.refused += len(refusals)
            self.sent.events += 2 - len(refusals)
            self.sent.rows += len(group) if not refusals else 0

    def _send_group(self, group: list[Row]) -> list[str]:
        answers = [self._receiver.send(event) for event in events(group, self._namespace)]
        return [answer for answer in answers if answer]

    def close(self) -> None:
        """Stop the threads, even while they wait, and close their connections."""
        self._receiver.stop()
        self._pool.shutdown(cancel_futures=True)
        self._receiver.close()

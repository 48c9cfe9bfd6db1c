"""The prediction log: a row for each prediction, written by a thread behind a bounded queue.

Requests never wait for it: rows are dropped and counted if the queue is full or the disk fails.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from client.codecs.batches import byte_size
from client.observability.log_rows import LoggedCall, encode_lines, group_calls, merge_calls
from client.observability.metrics import Metrics
from client.observability.segments import Segments, recover
from client.serving.schema import Schema
from client.settings import Settings

log = logging.getLogger(__name__)

# Limits of the queue.
MAX_ROWS = 65_536
MAX_BYTES = 64 * 2**20
# Interval between writes.
INTERVAL_SECONDS = 0.2
CHUNK_BYTES = 2**18
# After a failed write, rows are dropped for this time without being encoded.
PAUSE_SECONDS = 1.0
REPORT_SECONDS = 60.0
CLOSE_SECONDS = 5.0
# Why rows are dropped.
REASONS = ("queue", "disk", "error")


class PredictionLog:
    """Writes predictions to the segments of a directory."""

    def __init__(
        self, directory: Path, share: float, leave_out: Collection[str], metrics: Metrics
    ) -> None:
        """Create a log; `start` starts its thread.

        Args:
            directory: directory of the segments.
            share: fraction of the requests to log.
            leave_out: names of columns to leave out.
            metrics: counts rows and bytes.
        """
        self.feedback = Segments(directory / "feedback")
        self._directory = directory
        self._segments = Segments(directory)
        self._share = share
        self._leave_out = frozenset(leave_out)
        self._metrics = metrics
        # Calls, and the size of their inputs in bytes.
        self._entries: deque[tuple[LoggedCall, int]] = deque()
        # Each counter is written by one thread only.
        self._put_rows = self._put_bytes = self._taken_rows = self._taken_bytes = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction log", daemon=True)
        self._failed_at = self._reported_at = float("-inf")
        self._versions: set[tuple[str, int]] = set()

    @classmethod
    def from_settings(cls, settings: Settings, metrics: Metrics) -> PredictionLog | None:
        """Return the log that the settings describe; None if it is off."""
        if settings.log is None:
            return None
        names = (name.strip() for name in (settings.log_leave_out or "").split(","))
        leave_out = [name for name in names if name]
        return cls(settings.log, settings.log_share, leave_out, metrics)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, call: LoggedCall) -> None:
        """Queue the rows of a call, or drop them if the queue is full."""
        rows, size = call.total_rows, _size(call)
        if (
            self._put_rows - self._taken_rows + rows > MAX_ROWS
            or self._put_bytes - self._taken_bytes + size > MAX_BYTES
        ):
            self._drop([call], "queue")
            return
        self._put_rows += rows
        self._put_bytes += size
        self._entries.append((call, size))

    def close(self) -> None:
        """Write the queued rows, and seal the segments; block for up to `CLOSE_SECONDS`."""
        self._stopping.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        self._attempt(self._recover)
        while not self._stopping.wait(INTERVAL_SECONDS):
            self._write_all()
            self._attempt(self._segments.tick)
            self._attempt(self.feedback.tick)
        self._write_all()
        self._attempt(self._segments.close)
        self._attempt(self.feedback.close)

    def _recover(self) -> None:
        for directory in (self._directory, self._directory / "feedback"):
            directory.mkdir(parents=True, exist_ok=True)
            sealed = recover(directory)
            if sealed:
                log.info("sealed %d segments of ended processes in %s", sealed, directory)

    def _write_all(self) -> None:
        """Write the calls that are in the queue."""
        texts: list[bytes] = []
        row_counts: list[tuple[str, int]] = []  # model and rows of each text
        size = 0
        for calls in group_calls(self._take(len(self._entries))):
            encoded = self._encode(calls)
            # Yield to requests in between, not only after the interpreter's switch interval.
            time.sleep(0)
            if encoded is not None:
                text, rows = encoded
                texts.append(text)
                row_counts.append((calls[0].schema.model, rows))
                size += len(text)
            if size >= CHUNK_BYTES:
                self._write(b"".join(texts), row_counts)
                texts, row_counts, size = [], [], 0
        if texts:
            self._write(b"".join(texts), row_counts)

    def _take(self, count: int) -> Iterator[LoggedCall]:
        """Take calls out of the queue."""
        for _ in range(count):
            call, size = self._entries.popleft()
            self._taken_rows += call.total_rows
            self._taken_bytes += size
            yield call

    def _encode(self, calls: Sequence[LoggedCall]) -> tuple[bytes, int] | None:
        """Return the lines of calls and their number; None if there are none."""
        if time.monotonic() - self._failed_at < PAUSE_SECONDS:
            self._drop(calls, "disk")
            return None
        try:
            self._start_version(calls[0].schema)
            sampled = merge_calls(calls).sample(self._share)
            if sampled is None:
                return None
            return encode_lines(sampled, self._share, self._leave_out), sampled.total_rows
        except Exception:
            log.exception("a prediction could not be logged")
            self._drop(calls, "error")
            return None

    def _write(self, text: bytes, row_counts: list[tuple[str, int]]) -> None:
        try:
            self._segments.append(text)
        except OSError as error:
            self._failed_at = time.monotonic()
            self._report(error)
            for model, rows in row_counts:
                self._metrics.log_dropped_rows.labels(model, "disk").inc(rows)
            return
        for model, rows in row_counts:
            self._metrics.log_rows.labels(model).inc(rows)
        self._metrics.log_bytes.inc(len(text))

    def _drop(self, calls: Sequence[LoggedCall], reason: str) -> None:
        count = sum(call.sampled_rows(self._share) for call in calls)
        if count:
            self._metrics.log_dropped_rows.labels(calls[0].schema.model, reason).inc(count)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self._report(error)

    def _report(self, error: OSError) -> None:
        """Log a disk error, at most once in `REPORT_SECONDS`."""
        now = time.monotonic()
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            log.error(
                "the prediction log in %s cannot be written; rows are dropped: %s",
                self._directory,
                error,
            )

    def _start_version(self, schema: Schema) -> None:
        """Create the model's counters, and warn about columns to leave out that do not exist."""
        if (schema.model, schema.version) in self._versions:
            return
        self._versions.add((schema.model, schema.version))
        # Prometheus sees no increase in a counter that starts above 0.
        for reason in REASONS:
            self._metrics.log_dropped_rows.labels(schema.model, reason)
        if not self._leave_out:
            return
        columns = schema.description.columns if schema.description is not None else ()
        names = {column.name for column in columns}
        names |= {name for signature in schema.signatures.values() for name in signature.inputs}
        unknown = sorted(self._leave_out - names)
        if unknown:
            log.warning(
                "CLIENT_LOG_LEAVE_OUT: model %s, version %d has no column %s",
                *(schema.model, schema.version, ", ".join(f'"{name}"' for name in unknown)),
            )


def _size(call: LoggedCall) -> int:
    return sum(byte_size(array) for array in call.call.inputs.values())

"""Prometheus metrics of the client."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Mapping, Sequence

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from client.inference.golden import RESULTS as GOLDEN_RESULTS
from client.inference.input_ranges import MISSING, OUT_OF_RANGE, UNSEEN
from client.observability.drift_counts import DriftCounts
from client.observability.samples import Samples
from client.settings import METRICS_DIRECTORY

# Workers share their metrics through files, so that each can report all of them. The library reads
# the variable on import.
SHARED = METRICS_DIRECTORY in os.environ

# From the fastest responses on loopback to the longest usual timeout.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# The thousands of counters of rows per bin are published less often.
DRIFT_SECONDS = 0.5
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one application.

    Routes are labelled by their pattern, and models only once they have answered: callers must not
    create time series by inventing names.

    Attributes:
        waiting: returns the number of requests waiting for a call.
        drift: counts the rows in requests.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "client_http_requests_total",
            "HTTP requests answered",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "client_http_request_seconds",
            "Time from the end of a request, or of its head if the body is streamed, to the "
            "response",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = 0
        self.waiting: Callable[[], int] = lambda: 0
        self._in_flight_gauge = Gauge(
            "client_http_requests_in_flight",
            "HTTP requests in flight, including responses being sent",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.call_seconds = Histogram(
            "client_grpc_call_seconds",
            "Time of a gRPC call to the model server",
            ("rpc", "code"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.call_requests = Histogram(
            "client_batch_requests",
            "Requests that shared a Predict call",
            buckets=SIZES,
            registry=self.registry,
        )
        self.call_rows = Histogram(
            "client_batch_rows", "Rows of a Predict call", buckets=SIZES, registry=self.registry
        )
        self.waiting_seconds = Histogram(
            "client_batch_waiting_seconds",
            "Time that the first request of a batch waited for the previous call",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._waiting_gauge = Gauge(
            "client_batch_waiting_requests",
            "Requests waiting for a call",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._findings = {
            OUT_OF_RANGE: self._column_counter(
                "client_values_out_of_range_total",
                "Numbers outside the training range of their column",
            ),
            UNSEEN: self._column_counter(
                "client_values_unseen_total",
                "Categories that did not occur in training",
            ),
            MISSING: self._column_counter(
                "client_values_missing_total", "Missing values, imputed by the model"
            ),
        }
        self.drift = DriftCounts(
            Counter(
                "client_drift_rows_total",
                "Rows in requests, per bin of the model's training reference; the column of its "
                "own probability is empty",
                ("model", "version", "column", "bin"),
                registry=self.registry,
            )
        )
        self._drift_published = time.monotonic()
        self.log_rows = Counter(
            "client_log_rows_total",
            "Rows written to the prediction log",
            ("model",),
            registry=self.registry,
        )
        self.log_dropped_rows = Counter(
            "client_log_dropped_rows_total",
            "Rows missing from the prediction log because its queue or the disk was full",
            ("model", "reason"),
            registry=self.registry,
        )
        self.log_bytes = Counter(
            "client_log_bytes_total", "Bytes written to the prediction log", registry=self.registry
        )
        self.feedback = Counter(
            "client_feedback_total",
            "Labels received as feedback: accepted or refused",
            ("result",),
            registry=self.registry,
        )
        self.slow_readers = Counter(
            "client_slow_readers_total",
            "Connections closed because their responses were not read",
            registry=self.registry,
        )
        self._golden = Gauge(
            "client_golden",
            "Result of a version's golden rows on a server; 1 for the current result",
            ("model", "version", "server", "result"),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def _column_counter(self, name: str, documentation: str) -> Counter:
        return Counter(name, documentation, ("model", "column"), registry=self.registry)

    def publish(self) -> None:
        """Publish the numbers of requests in flight and waiting, and the rows per bin.

        Called several times a second.
        """
        # Setting a shared gauge costs more than incrementing an int, so it is set periodically.
        self._in_flight_gauge.set(self.in_flight)
        self._waiting_gauge.set(self.waiting())
        now = time.monotonic()
        if now - self._drift_published >= DRIFT_SECONDS:
            self._drift_published = now
            self.drift.publish()

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an HTTP request that was answered."""
        counter, histogram = self._request_children(method, route, status)
        counter.inc()
        histogram.observe(seconds)

    def observe_requests(
        self, method: str, route: str, status: int, seconds: Sequence[float]
    ) -> None:
        """Count HTTP requests that were answered together."""
        counter, histogram = self._request_children(method, route, status)
        counter.inc(len(seconds))
        # Observing one by one takes as long as decoding.
        for bucket, count in Counts([bisect_left(SECONDS, s) for s in seconds]).items():
            histogram._buckets[bucket].inc(count)
        histogram._sum.inc(sum(seconds))

    def observe_batch(self, requests: int, rows: int) -> None:
        """Count a call that several requests may share."""
        self.call_requests.observe(requests)
        self.call_rows.observe(rows)

    def observe_findings(self, model: str, kind: str, counts: Mapping[str, int]) -> None:
        """Count values not seen in training, by column."""
        for column, count in counts.items():
            self._findings[kind].labels(model, column).inc(count)

    def observe_golden(self, model: str, version: int, server: str, result: str | None) -> None:
        """Publish the result of a version's golden rows on a server; None once forgotten."""
        # Series shared by workers cannot be removed.
        for label in GOLDEN_RESULTS:
            self._golden.labels(model, version, server, label).set(label == result)

    def _request_children(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        children = self._children.get((method, route, status))
        if children is None:
            children = (
                self.requests.labels(method, route, status),
                self.request_seconds.labels(route),
            )
            self._children[method, route, status] = children
        return children

    def observe_call(self, rpc: str, code: grpc.StatusCode, seconds: float) -> None:
        """Count a gRPC call."""
        self.call_seconds.labels(rpc, code.name).observe(seconds)

    def exposition(self) -> bytes:
        """Return the metrics of all workers in the Prometheus text format."""
        return generate_latest(self._publish_all())

    def samples(self) -> Samples:
        """Return the metrics of all workers as numbers."""
        return Samples(self._publish_all().collect())

    def _publish_all(self) -> CollectorRegistry:
        self.publish()
        self.drift.publish()
        if not SHARED:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return registry

"""Prometheus metrics of the client."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Mapping, Sequence

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from client.inference.input_ranges import MISSING, OUT_OF_RANGE, UNSEEN
from client.settings import METRICS_DIRECTORY

# Workers share their metrics through files, so that each can report those of all. The library reads
# the variable when it is imported.
SHARED = METRICS_DIRECTORY in os.environ

# From a cached response on loopback to the longest usual timeout.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counters of one application.

    Routes are labelled by their pattern, and models only once they have answered: callers must not
    create time series by inventing names.
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
            "Time from the first byte of a request to its answer",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = 0
        self._in_flight_gauge = Gauge(
            "client_http_requests_in_flight",
            "HTTP requests in flight, responses being sent included",
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
            "Time that the first request of a batch waited for the call before",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._findings = {
            OUT_OF_RANGE: self._by_column(
                "client_values_out_of_range_total",
                "Numbers outside the range that their column had in training",
            ),
            UNSEEN: self._by_column(
                "client_values_unseen_total",
                "Categories that their column did not have in training",
            ),
            MISSING: self._by_column(
                "client_values_missing_total", "Missing values, which the model has imputed"
            ),
        }
        self.slow_readers = Counter(
            "client_slow_readers_total",
            "Connections closed because their responses were not read",
            registry=self.registry,
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def _by_column(self, name: str, text: str) -> Counter:
        return Counter(name, text, ("model", "column"), registry=self.registry)

    def publish(self) -> None:
        """Publish the number of requests in flight to the other workers."""
        # Setting a shared gauge costs more than incrementing an int, so it is set periodically.
        self._in_flight_gauge.set(self.in_flight)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an HTTP request that was answered."""
        counter, histogram = self._of_requests(method, route, status)
        counter.inc()
        histogram.observe(seconds)

    def observe_requests(
        self, method: str, route: str, status: int, seconds: Sequence[float]
    ) -> None:
        """Count HTTP requests that were answered together."""
        counter, histogram = self._of_requests(method, route, status)
        counter.inc(len(seconds))
        # Observing one by one takes as long as decoding.
        for bucket, count in Counts([bisect_left(SECONDS, one) for one in seconds]).items():
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

    def _of_requests(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
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
        """Return all metrics in Prometheus' text format, those of the other workers added."""
        self.publish()
        if SHARED:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
            return generate_latest(registry)
        return generate_latest(self.registry)

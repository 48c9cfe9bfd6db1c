"""Prometheus metrics of the client."""

from __future__ import annotations

import os
from collections.abc import Mapping

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from client.settings import METRICS_DIRECTORY

# Several workers keep their numbers where each can read the others', so that any of them tells
# those of all. The library looks for the place when it is imported.
SHARED = METRICS_DIRECTORY in os.environ

# From a cached answer on loopback to the longest deadline people set.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counters of one application.

    Routes are labelled by their pattern, and models only where they have answered: a caller must
    not be able to make time series by asking for names.
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
        self._in_flight = 0
        self._in_flight_gauge = Gauge(
            "client_http_requests_in_flight",
            "HTTP requests under way",
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
            "Time that the first request of a Predict call has waited for the call before",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.out_of_range = Counter(
            "client_values_out_of_range_total",
            "Numbers outside the range that their column had in training",
            ("model", "column"),
            registry=self.registry,
        )
        # Looking up a labelled metric takes longer than counting with it.
        self._out_of_range: dict[tuple[str, str], Counter] = {}
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def begin(self) -> None:
        """Count a request that is under way now."""
        self._in_flight += 1
        if SHARED:
            self._in_flight_gauge.inc()

    def end(self) -> None:
        """Count a request that is no longer under way."""
        self._in_flight -= 1
        if SHARED:
            self._in_flight_gauge.dec()

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an HTTP request that was answered."""
        children = self._children.get((method, route, status))
        if children is None:
            children = (
                self.requests.labels(method, route, status),
                self.request_seconds.labels(route),
            )
            self._children[method, route, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def observe_batch(self, requests: int, rows: int, waited: float) -> None:
        """Count a call that several requests may have shared."""
        self.call_requests.observe(requests)
        self.call_rows.observe(rows)
        self.waiting_seconds.observe(waited)

    def observe_call(self, rpc: str, code: grpc.StatusCode, seconds: float) -> None:
        """Count a gRPC call."""
        self.call_seconds.labels(rpc, code.name).observe(seconds)

    def observe_out_of_range(self, model: str, counts: Mapping[str, int]) -> None:
        """Count numbers that a model has not seen the like of, by column."""
        for column, count in counts.items():
            child = self._out_of_range.get((model, column))
            if child is None:
                child = self._out_of_range[model, column] = self.out_of_range.labels(model, column)
            child.inc(count)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format, those of the other workers added."""
        if SHARED:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
            return generate_latest(registry)
        self._in_flight_gauge.set(self._in_flight)  # to write it is dearer than to count
        return generate_latest(self.registry)

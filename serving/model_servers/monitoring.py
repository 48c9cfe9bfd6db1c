"""Metrics under TensorFlow Serving's names, for `--monitoring_config_file`.

Unlike TensorFlow Serving's, they have labels for version and signature, and include MultiInference.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.core.servable_harness import ServableHarness, State

OK = "OK"
DEFAULT_PATH = "/monitoring/prometheus/metrics"
# Microseconds: 10, 18, 32, … about 25 minutes, as in TensorFlow Serving.
_BUCKETS = tuple(float(f"{10 * 1.8**power:g}") for power in range(33))
# prometheus_client appends _total to the names of counters; TensorFlow Serving does not.
_SUFFIX = re.compile(rb"^((?:# (?:HELP|TYPE) )?:tensorflow:[a-z:_]+)_total\b", re.MULTILINE)

disable_created_metrics()  # TensorFlow Serving has no such series


class Monitoring:
    """The server's counters and histograms."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter(
            ":tensorflow:serving:request_count",
            "The total number of requests.",
            "model_name",
            "version",
            "signature_name",
            "API",
            "status",
        )
        self._request_latency = self._histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time (in microseconds) from arrival to response.",
            "model_name",
            "version",
            "API",
            "entrypoint",
        )
        self._runtime_latency = self._histogram(
            ":tensorflow:serving:runtime_latency",
            "Distribution of wall time (in microseconds) for running the graph.",
            "model_name",
            "version",
            "API",
            "runtime",
        )
        self._warmup_latency = self._histogram(
            ":tensorflow:serving:model_warmup_latency",
            "Distribution of wall time (in microseconds) for warming up the model.",
            "model_path",
            "status",
        )
        self._load_attempts = self._counter(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "The number of attempts to load a SavedModel.",
            "model_path",
            "status",
        )
        self._load_latency = self._counter(
            ":tensorflow:cc:saved_model:load_latency",
            "Total wall time (in microseconds) of the loads of a SavedModel.",
            "model_path",
        )
        # Looking up labels costs more than counting, and requests repeat them.
        self._request_counter = functools.cache(self._requests.labels)
        self._request_histogram = functools.cache(self._request_latency.labels)
        self._run_histogram = functools.cache(self._runtime_latency.labels)
        self.states = _States()
        self._registry.register(self.states)

    def record_request(
        self, api: str, model: str, version: str, signature: str, status: str, seconds: float
    ) -> None:
        """Record a request that has been answered.

        Args:
            api: the method's name.
            model: the model's name; empty if it is unknown.
            version: the version that answered; empty if none did.
            signature: the signature that ran; empty if none did.
            status: the status code's name.
            seconds: time from the request's arrival to its response.
        """
        self._request_counter(model, version, signature, api, status).inc()
        if status == OK:
            self._request_histogram(model, version, api, "GRPC").observe(seconds * 1e6)

    def record_run(self, model: str, version: int, api: str, seconds: float) -> None:
        """Record a successful run of a graph."""
        self._run_histogram(model, version, api, "TF1").observe(seconds * 1e6)

    def record_load(self, path: Path, success: bool, seconds: float) -> None:
        """Record an attempt to load a version."""
        self._load_attempts.labels(path, "success" if success else "fail").inc()
        self._load_latency.labels(path).inc(seconds * 1e6)

    def record_warmup(self, path: Path, seconds: float) -> None:
        """Record a successful warm-up."""
        self._warmup_latency.labels(path, OK).observe(seconds * 1e6)

    def count(self, name: str) -> int:
        """Return the sum of a counter over its labels; 0 if there is no such counter.

        Args:
            name: TensorFlow's form of the name, such as `/tensorflow/serving/request_count`.
        """
        name = name.replace("/", ":")
        counters = (each for each in self._registry.collect() if each.type == "counter")
        samples = (sample for each in counters if each.name == name for sample in each.samples)
        return int(sum(sample.value for sample in samples))

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return _SUFFIX.sub(rb"\1", generate_latest(self._registry))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self._registry, buckets=_BUCKETS)


class _States(Collector):
    """The state of each version; TensorFlow Serving has no such metric."""

    def __init__(self) -> None:
        self._harnesses: dict[tuple[str, int], ServableHarness] = {}

    def record(self, harness: ServableHarness) -> None:
        """Track a version whose state has changed."""
        self._harnesses[harness.name, harness.version] = harness

    def collect(self) -> Iterable[Any]:
        family = GaugeMetricFamily(
            ":tensorflow:serving:model_version_state",
            "1 for the current state of a version; unloaded versions have none.",
            labels=("model_name", "version", "state"),
        )
        for harness in list(self._harnesses.values()):
            if harness.state is State.END and harness.error is None:
                self._harnesses.pop((harness.name, harness.version), None)
            else:
                state = "FAILED" if harness.state is State.END else harness.state.name
                family.add_metric((harness.name, str(harness.version), state), 1)
        yield family

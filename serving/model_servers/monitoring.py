"""Metrics under TensorFlow Serving's names, for `--monitoring_config_file`.

Unlike TensorFlow Serving's, those of requests and runs have a version label, the request count has
a signature label, and all include MultiInference.
"""

from __future__ import annotations

import functools
import re
import threading
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
            "Distribution of wall time (in microseconds) for batching and running the graph.",
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
        self._ended: list[tuple[str, int]] = []
        self._ended_lock = threading.Lock()

    def record_request(
        self, api: str, model: str, version: str, signature: str, status: str, seconds: float
    ) -> None:
        """Record a completed request.

        Args:
            api: the method's name.
            model: the model's name; empty if it is unknown.
            version: the version that ran; empty if none did.
            signature: the requested signature; empty if the version does not have it.
            status: the status code's name.
            seconds: time from arrival to response.
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
        metrics = (m for m in self._registry.collect() if m.type == "counter" and m.name == name)
        return int(sum(sample.value for metric in metrics for sample in metric.samples))

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        text = _SUFFIX.sub(rb"\1", generate_latest(self._registry))
        self._remove_histograms()
        return text

    def _remove_histograms(self) -> None:
        """Remove the histograms of versions that had ended by the previous scrape.

        By now, their last calls have been recorded and scraped. Counters stay, because reload
        responses report their increase.
        """
        with self._ended_lock:
            removable = [key for key in self._ended if key not in self.states.harnesses]
            self._ended = self.states.remove_ended()
        for name, version in removable:
            labels = {"model_name": name, "version": str(version)}
            self._request_latency.remove_by_labels(labels)
            self._runtime_latency.remove_by_labels(labels)
        if removable:
            self._request_histogram.cache_clear()
            self._run_histogram.cache_clear()

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(name, description, labels, registry=self._registry)

    def _histogram(self, name: str, description: str, *labels: str) -> Histogram:
        return Histogram(name, description, labels, registry=self._registry, buckets=_BUCKETS)


class _States(Collector):
    """The state of each version; TensorFlow Serving has no such metric."""

    def __init__(self) -> None:
        self.harnesses: dict[tuple[str, int], ServableHarness] = {}

    def record(self, harness: ServableHarness) -> None:
        """Track a version whose state has changed."""
        self.harnesses[harness.name, harness.version] = harness

    def remove_ended(self) -> list[tuple[str, int]]:
        """Stop tracking the versions that were unloaded, and return them."""
        harnesses = list(self.harnesses.items())
        ended = [key for key, h in harnesses if h.state is State.END and h.error is None]
        for key in ended:
            self.harnesses.pop(key, None)
        return ended

    def collect(self) -> Iterable[Any]:
        family = GaugeMetricFamily(
            ":tensorflow:serving:model_version_state",
            "1 for the current state of a version; unloaded versions have none.",
            labels=("model_name", "version", "state"),
        )
        for harness in list(self.harnesses.values()):
            state = harness.state  # read before the error, which other threads set first
            if state is not State.END:
                family.add_metric((harness.name, str(harness.version), state.name), 1)
            elif harness.error is not None:
                family.add_metric((harness.name, str(harness.version), "FAILED"), 1)
        yield family

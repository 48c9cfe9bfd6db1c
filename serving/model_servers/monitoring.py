"""Metrics, under TensorFlow Serving's names, for `--monitoring_config_file`.

The original has no labels for version and signature; here they are added, and MultiInference, which
it leaves out, is counted too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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

from serving.core.servable_harness import State, Version

OK = "OK"
DEFAULT_PATH = "/monitoring/prometheus/metrics"
# Microseconds: 10, 18, 32, … about 20 minutes, as the original's.
_BUCKETS = tuple(float(f"{10 * 1.8**power:g}") for power in range(33))
# The library gives every counter a suffix that the original's names do not have.
_SUFFIX = re.compile(rb"^((?:# (?:HELP|TYPE) )?:tensorflow:[a-z:_]+)_total\b", re.MULTILINE)

disable_created_metrics()  # series of the library's own


class Monitoring:
    """What is counted and timed."""

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
            "Distribution of wall time (in microseconds) from arrival to reply.",
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
            "The number of times a SavedModel was tried to be loaded.",
            "model_path",
            "status",
        )
        self._load_latency = self._counter(
            ":tensorflow:cc:saved_model:load_latency",
            "Wall time (in microseconds) of all loads of a SavedModel together.",
            "model_path",
        )
        self.states = _States()
        self._registry.register(self.states)

    def request(
        self, api: str, model: str, version: str, signature: str, status: str, seconds: float
    ) -> None:
        """Count a request that has been answered.

        Args:
            api: the method's name.
            model: the model's name, empty if there is none of the name that was asked for.
            version: the version that answered, empty if none did.
            signature: the signature that was run, empty if none was.
            status: the status code's name.
            seconds: from arrival to reply.
        """
        self._requests.labels(model, version, signature, api, status).inc()
        if status == OK:
            self._request_latency.labels(model, version, api, "GRPC").observe(seconds * 1e6)

    def run(self, api: str, model: str, version: str, seconds: float) -> None:
        """Count a run of a graph."""
        self._runtime_latency.labels(model, version, api, "TF1").observe(seconds * 1e6)

    def load(self, path: str, success: bool, seconds: float) -> None:
        """Count an attempt to load a version."""
        self._load_attempts.labels(path, "success" if success else "fail").inc()
        self._load_latency.labels(path).inc(seconds * 1e6)

    def warmup(self, path: str, seconds: float) -> None:
        """Count a warm-up, which has gone well."""
        self._warmup_latency.labels(path, OK).observe(seconds * 1e6)

    def count(self, name: str) -> int:
        """Return what a counter has come to, over all its labels; 0 if none has this name.

        Args:
            name: as TensorFlow writes it, like `/tensorflow/serving/request_count`.
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
    """The state of each version, which the original tells only to those who ask for it."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, int], Version] = {}

    def changed(self, version: Version) -> None:
        """Take notice of a version."""
        self._versions[version.model, version.number] = version

    def collect(self) -> Iterable[Any]:
        family = GaugeMetricFamily(
            ":tensorflow:serving:model_version_state",
            "1 for the state that a version is in; those that have ended well are left out.",
            labels=("model_name", "version", "state"),
        )
        for version in list(self._versions.values()):
            if version.state is State.END and version.error is None:
                self._versions.pop((version.model, version.number), None)
            else:
                state = "FAILED" if version.state is State.END else version.state.name
                family.add_metric((version.model, str(version.number), state), 1)
        yield family

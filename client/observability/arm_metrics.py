"""Prometheus metrics of a rollout, which its controller evaluates.

Each gauge's mode merges the workers' values, so the generation is one that all have reached.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Fine enough to compare the arms' high percentiles: each bound is 25% above the previous one.
FINE_SECONDS = (*(0.00025 * 1.25**power for power in range(48)), 10.0)

_ARM = ("model", "version", "arm")
_VERSION = ("model", "version")


class ArmMetrics:
    """Calls and requests by version and arm, the state of rollouts, and shadow traffic."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "client_arm_calls_total",
            "Calls for requests that waited together, by their worst outcome",
            (*_ARM, "outcome"),
            registry=registry,
        )
        self._call_seconds = Histogram(
            "client_arm_call_seconds",
            "Time of a call, including decoding and encoding",
            _ARM,
            buckets=FINE_SECONDS,
            registry=registry,
        )
        self._requests = Counter(
            "client_arm_requests_total",
            "Requests by their arm; repeated ones were answered by stable",
            (*_ARM, "outcome"),
            registry=registry,
        )
        self._shadow_calls = Counter(
            "client_shadow_calls_total",
            "Copies of calls to the shadow version",
            (*_VERSION, "outcome"),
            registry=registry,
        )
        self._shadow_rows = Counter(
            "client_shadow_rows_total",
            "Rows answered by the shadow version, by whether its label differs",
            (*_VERSION, "outcome"),
            registry=registry,
        )
        self._dropped_rows = Counter(
            "client_shadow_dropped_rows_total",
            "Rows not copied to the shadow version, so as not to delay callers",
            _VERSION,
            registry=registry,
        )

        def gauge(
            name: str,
            documentation: str,
            labels: tuple[str, ...],
            mode: Literal["livemin", "livemax", "livemostrecent"],
        ) -> Gauge:
            return Gauge(name, documentation, labels, registry=registry, multiprocess_mode=mode)

        self._generation = gauge(
            "client_rollout_generation", "Generation of the rollout state", ("model",), "livemin"
        )
        self._percent = gauge(
            "client_rollout_percent",
            "Percentage of the requests sent to the canary",
            ("model",),
            "livemostrecent",
        )
        self._cut_out = gauge(
            "client_rollout_cutout",
            "Whether the canary has failed too often here and gets no requests",
            _VERSION,
            "livemax",
        )
        self._unreadable = gauge(
            "client_rollout_unreadable",
            "Whether the rollout file cannot be read; the last state stays in effect",
            ("model",),
            "livemax",
        )
        # Looking up a child by its labels takes as long as three increments.
        self._child = cache(_child)

    def observe_call(
        self, model: str, version: int, arm: str, outcome: str, seconds: float
    ) -> None:
        """Count a call of an arm."""
        self._child(self._calls, model, version, arm, outcome).inc()
        histogram = self._child(self._call_seconds, model, version, arm)
        # `Histogram.observe` compares with one bound after the other.
        histogram._buckets[bisect_left(FINE_SECONDS, seconds)].inc(1)
        histogram._sum.inc(seconds)

    def count_requests(
        self, model: str, version: int, arm: str, outcome: str, number: int = 1
    ) -> None:
        """Count requests of an arm."""
        self._child(self._requests, model, version, arm, outcome).inc(number)

    def count_shadow_call(self, model: str, version: int, outcome: str) -> None:
        """Count a call to the shadow version."""
        self._shadow_calls.labels(model, version, outcome).inc()

    def count_shadow_rows(self, model: str, version: int, outcome: str, rows: int) -> None:
        """Count rows that the shadow version has answered."""
        self._shadow_rows.labels(model, version, outcome).inc(rows)

    def count_dropped_rows(self, model: str, version: int, rows: int) -> None:
        """Count rows that were not copied."""
        self._dropped_rows.labels(model, version).inc(rows)

    def set_rollout(self, model: str, generation: int, percent: float) -> None:
        """Publish the state of a rollout."""
        self._generation.labels(model).set(generation)
        self._percent.labels(model).set(percent)

    def set_cut_out(self, model: str, version: int, cut_out: bool) -> None:
        """Publish whether a canary is cut out."""
        self._cut_out.labels(model, version).set(cut_out)

    def set_unreadable(self, model: str, unreadable: bool) -> None:
        """Publish whether a rollout file cannot be read."""
        self._unreadable.labels(model).set(unreadable)


def _child(metric: Any, *labels: str | int) -> Any:
    return metric.labels(*labels)

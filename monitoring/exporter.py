"""Prometheus metrics of `watch`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from monitoring.drift import ColumnDrift
from monitoring.errors import MonitoringError
from monitoring.metrics import Estimate
from monitoring.quality import ArmQuality
from monitoring.retraining import Result, Run

VERDICT_VALUES = {"too few rows": -1, "ok": 0, "warn": 1, "alarm": 2}
ARM = ("model", "version", "arm")


class Exporter:
    """Gauges of the last round, and counters of all rounds."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        column = ("model", "version", "column")
        self._psi = self._gauge("drift_psi", "Population stability index", column)
        self._limit = self._gauge("drift_psi_limit", "PSI that chance alone can reach", column)
        self._impact = self._gauge(
            "drift_impact", "How far the column has moved predictions, in log-odds", column
        )
        self._verdict = self._gauge(
            "drift_verdict", "2 alarm, 1 warn, 0 ok, -1 too few rows", column
        )
        metric = (*ARM, "metric")
        self._quality = self._gauge("quality", "Metric on labelled rows", metric)
        self._low = self._gauge("quality_low", "Lower end of the metric's 95% interval", metric)
        self._high = self._gauge("quality_high", "Upper end of the metric's 95% interval", metric)
        self._expected = self._gauge("quality_expected", "Estimate without labels", metric)
        self._rows = self._gauge("logged_rows", "Logged rows in the window", ARM)
        self._labelled = self._gauge("labelled_rows", "Logged rows with a label", ARM)
        self._coverage = self._gauge("label_coverage", "Share of labelled rows, by weight", ARM)
        self._delay = self._gauge(
            "label_delay_seconds", "Time from prediction to label", (*ARM, "quantile")
        )
        self._runs = Counter(
            "monitoring_retrainings",
            "Retraining runs by result",
            ("model", "result"),
            registry=self.registry,
        )
        # `increase()` misses the first increment of a series that did not exist before.
        for result in get_args(Result):
            self._runs.labels(model, result)
        self._failures = Counter(
            "monitoring_failures", "Rounds with an error", ("model",), registry=self.registry
        )
        self._failures.labels(model)
        self._last_round = self._gauge(
            "last_round_seconds",
            "Time of the last round; until the first has ended, time of the start",
            ("model",),
        )
        # A first round that never ends needs an age, too.
        self._last_round.labels(model).set_to_current_time()

    def serve(self, host: str, port: int) -> int:
        """Serve `/metrics` from a thread and return the port.

        Raises:
            MonitoringError: the port cannot be opened.
        """
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            raise MonitoringError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        return int(server.server_port)

    def set_drift(self, version: int, drifts: Sequence[ColumnDrift]) -> None:
        """Replace the drift gauges."""
        for gauge in (self._psi, self._limit, self._impact, self._verdict):
            gauge.clear()
        for drift in drifts:
            labels = (self._model, str(version), drift.column)
            self._psi.labels(*labels).set(drift.shift.psi)
            self._limit.labels(*labels).set(drift.shift.psi_limit)
            self._impact.labels(*labels).set(drift.impact)
            self._verdict.labels(*labels).set(VERDICT_VALUES[drift.shift.verdict])

    def set_quality(self, arms: Iterable[ArmQuality]) -> None:
        """Replace the quality gauges."""
        for gauge in (
            *(self._quality, self._low, self._high, self._expected),
            *(self._rows, self._labelled, self._coverage, self._delay),
        ):
            gauge.clear()
        for arm in arms:
            self._set_arm(arm)

    def _set_arm(self, arm: ArmQuality) -> None:
        labels = (self._model, str(arm.version), arm.arm or "")
        self._rows.labels(*labels).set(arm.rows)
        self._labelled.labels(*labels).set(arm.labelled)
        self._coverage.labels(*labels).set(arm.coverage)
        for quantile, seconds in zip(("0.5", "0.9"), arm.delay_seconds or (), strict=False):
            self._delay.labels(*labels, quantile).set(seconds)
        for name, estimate in _finite(arm.metrics).items():
            self._quality.labels(*labels, name).set(estimate.value)
            self._low.labels(*labels, name).set(estimate.low)
            self._high.labels(*labels, name).set(estimate.high)
        for name, estimate in _finite(arm.expected).items():
            self._expected.labels(*labels, name).set(estimate.value)

    def count_run(self, run: Run) -> None:
        """Count a retraining run."""
        self._runs.labels(self._model, run.result).inc()

    def finish(self, now: float, failed: bool) -> None:
        """Record the end of a round."""
        self._last_round.labels(self._model).set(now)
        if failed:
            self._failures.labels(self._model).inc()

    def _gauge(self, name: str, documentation: str, labels: Sequence[str]) -> Gauge:
        return Gauge(f"monitoring_{name}", documentation, labels, registry=self.registry)


def _finite(metrics: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {name: estimate for name, estimate in metrics.items() if math.isfinite(estimate.value)}

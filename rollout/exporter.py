"""Prometheus metrics of the controller."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from rollout.controller import Decision
from rollout.errors import RolloutError
from rollout.state import PHASES


class Exporter:
    """Metrics of one model's rollout."""

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model
        self._phase = self._gauge("rollout_phase", "1 for the current phase", "phase")
        self._percent = self._gauge("rollout_percent", "Share of the requests for the canary")
        self._generation = self._gauge("rollout_generation", "Generation of the rollout file")
        self._stable = self._gauge("rollout_stable_version", "The stable version")
        self._canary = self._gauge("rollout_canary_version", "The candidate; 0 at rest")
        self._e = self._gauge("rollout_e_value", "E-value against the candidate", "test")
        self._threshold = self._gauge("rollout_e_value_limit", "E-value that rolls back", "test")
        self._harm = self._gauge(
            "rollout_harm_upper_bound",
            "Upper bound on the increase in bad calls, as a fraction of the calls",
            "test",
        )
        self._rollbacks = Counter(
            "rollout_rolled_back_total",
            "Versions rolled back by `watch`",
            ("model",),
            registry=self._registry,
        ).labels(model)

    def listen(self, host: str, port: int) -> None:
        """Serve `GET /metrics`.

        Raises:
            RolloutError: the port cannot be opened.
        """
        try:
            start_http_server(port, host, self._registry)
        except OSError as error:
            raise RolloutError(f"cannot listen on {host}:{port}: {error.strerror}") from error

    def update(self, decision: Decision, *, dry_run: bool) -> None:
        """Update the metrics from the rollout file's state and a decision's evidence."""
        state, verdict = decision.before if dry_run else decision.state, decision.verdict
        for phase in PHASES:
            self._phase.labels(self._model, phase).set(phase == state.phase)
        self._percent.labels(self._model).set(state.percent)
        self._generation.labels(self._model).set(state.generation)
        self._stable.labels(self._model).set(state.stable)
        self._canary.labels(self._model).set(state.canary or 0)
        for gauge in (self._e, self._threshold, self._harm):
            gauge.clear()
        for test in verdict.findings if verdict else ():
            self._e.labels(self._model, test.name).set(test.e_value)
            self._threshold.labels(self._model, test.name).set(test.threshold)
            self._harm.labels(self._model, test.name).set(test.harm)
        is_rollback = verdict is not None and verdict.action == "roll back"
        if is_rollback and not dry_run:
            self._rollbacks.inc()

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, ("model", *labels), registry=self._registry)

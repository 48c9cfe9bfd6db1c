"""The counts of a rollout so far, kept in a file so that a restarted controller can continue.

Gateways count from their own start, not from the rollout's. Each observation therefore adds the
increase of each gateway's counters since the last one. If any counter is lower than before, the
gateway has restarted, and all its counters began at 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

import numpy as np

from rollout import judge
from rollout.gateways import Counters, Gateways
from rollout.state import Rollout

FORMAT = 1
# Calls of the control arm after which the p99 of a step is fixed.
FREEZE_CALLS = 100
QUANTILE = 0.99
BAD_OUTCOMES = {"failed": ("failed", "invalid"), "refused": ("refused",)}


@dataclass
class Comparison:
    """Bad events of the candidate and of its control.

    Attributes:
        canary: [bad, calls] of the candidate.
        control: [bad, calls] of the control.
        logs: log likelihood ratios; see `judge.log_likelihood_ratios`.
        pending: bad events and calls of the candidate, then of the control, not yet in `logs`.
    """

    canary: list[float] = field(default_factory=lambda: [0.0, 0.0])
    control: list[float] = field(default_factory=lambda: [0.0, 0.0])
    logs: list[float] = field(default_factory=lambda: [0.0] * len(judge.RATIOS))
    pending: list[float] = field(default_factory=lambda: [0.0] * 4)

    def add(self, bad: float, calls: float, control_bad: float, control_calls: float) -> None:
        """Add the events of an interval."""
        self.canary = [self.canary[0] + bad, self.canary[1] + calls]
        self.control = [self.control[0] + control_bad, self.control[1] + control_calls]
        # Bad events are compared once both arms have calls. Waiting for them is valid, because it
        # depends on the numbers of calls, not on their outcomes.
        events = bad, calls, control_bad, control_calls
        self.pending = [sum(pair) for pair in zip(self.pending, events, strict=True)]
        bad, calls, control_bad, control_calls = self.pending
        if not calls or not control_calls:
            return
        self.pending = [0.0] * 4
        if bad + control_bad > 0:
            share = calls / (calls + control_calls)
            increments = judge.log_likelihood_ratios(bad, control_bad, share)
            self.logs = [round(log, 9) for log in (np.asarray(self.logs) + increments).tolist()]

    @property
    def log_e(self) -> float:
        """Logarithm of the e-value."""
        return float(judge.log_e_value(np.asarray(self.logs)))

    def harm(self, alpha: float) -> float:
        """Return an upper bound on the candidate's rate minus the control's."""
        canary, control = self.canary, self.control
        return judge.harm_bound((canary[0], canary[1]), (control[0], control[1]), alpha)

    @property
    def excess(self) -> float:
        """The candidate's observed rate minus the control's."""
        rates = [bad / calls if calls else 0.0 for bad, calls in (self.canary, self.control)]
        return rates[0] - rates[1]


@dataclass
class Evidence:
    """Counts of one rollout.

    Attributes:
        salt: the rollout's salt.
        time: time of the last observation.
        gateways: counters of each gateway at the last observation.
        comparisons: comparisons by name ("failed", "refused", "slow").
        flipped_rows: rows that the shadow version labels differently from stable.
        rows: rows compared.
        flipped_calls: flipped rows, weighted so that each call counts once, however many rows it
            has.
        shadow_calls: calls whose rows were compared.
        since: start of the step that the following fields describe.
        calls: calls of candidate and control in the step.
        requests: requests of candidate and control in the step.
        limit: upper edge of the bucket with the control's p99, in seconds; None until it is fixed.
        buckets: the control's calls up to each edge, until the limit is fixed.
    """

    salt: str
    time: datetime
    gateways: dict[str, dict[str, float]] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(
        default_factory=lambda: {name: Comparison() for name in ("failed", "refused", "slow")}
    )
    flipped_rows: float = 0.0
    rows: float = 0.0
    flipped_calls: float = 0.0
    shadow_calls: float = 0.0
    since: str = ""
    calls: list[float] = field(default_factory=lambda: [0.0, 0.0])
    requests: list[float] = field(default_factory=lambda: [0.0, 0.0])
    limit: str | None = None
    buckets: dict[str, float] = field(default_factory=dict)

    def observe(self, state: Rollout, gateways: Gateways, time: datetime) -> None:
        """Add the gateways' counts since the last observation."""
        if time <= self.time:
            return
        self.time = time
        if self.since != (since := state.since.isoformat()):
            self.since, self.limit, self.buckets = since, None, {}
            self.calls, self.requests = [0.0, 0.0], [0.0, 0.0]
        for address, gateway in gateways.items():
            if gateway.problem:
                continue
            before = self.gateways.get(address)
            self.gateways[address] = dict(gateway.counters)
            # A gateway seen for the first time may have counted an earlier rollout of the version.
            if before is None:
                continue
            increase = _compute_increase(before, gateway.counters)
            if state.phase == "shadow":
                self._add_shadow(state.candidate, increase)
            elif state.phase == "canary":
                self._add_arms(state.candidate, increase, gateway.generation == state.generation)

    def _add_shadow(self, version: int, increase: Counters) -> None:
        calls = _sum(increase, f"shadow/{version}/")
        failed = sum(_sum(increase, f"shadow/{version}/{bad}") for bad in BAD_OUTCOMES["failed"])
        control = _sum(increase, "calls/stable/")
        control_failed = sum(
            _sum(increase, "calls/stable/", f"/{bad}") for bad in BAD_OUTCOMES["failed"]
        )
        self.comparisons["failed"].add(failed, calls, control_failed, control)
        self.calls = [self.calls[0] + calls, self.calls[1] + control]
        rows = _sum(increase, f"rows/{version}/")
        flipped = increase.get(f"rows/{version}/flipped", 0.0)
        self.rows += rows
        self.flipped_rows += flipped
        # A call's rows may be copies of one another, so together they count as one call.
        if rows:
            units = min(rows, max(calls - failed, 1.0))
            self.shadow_calls += units
            self.flipped_calls += units * flipped / rows

    def _add_arms(self, version: int, increase: Counters, is_current: bool) -> None:
        arms = f"calls/canary/{version}/", "calls/control/"
        calls = [_sum(increase, arm) for arm in arms]
        self.calls = [total + count for total, count in zip(self.calls, calls, strict=True)]
        for name, outcomes in BAD_OUTCOMES.items():
            bad = [sum(_sum(increase, arm, f"/{outcome}") for outcome in outcomes) for arm in arms]
            self.comparisons[name].add(bad[0], calls[0], bad[1], calls[1])
        if is_current:  # otherwise the gateway may have followed another share
            counts = [_sum(increase, arm.replace("calls/", "requests/")) for arm in arms]
            self.requests = [
                total + count for total, count in zip(self.requests, counts, strict=True)
            ]
        self._add_slow(version, increase)

    def _add_slow(self, version: int, increase: Counters) -> None:
        arms = f"seconds/canary/{version}/", "seconds/control/"
        if self.limit is not None:
            totals = [_sum(increase, arm, "/+Inf") for arm in arms]
            slow = [
                max(0.0, total - _sum(increase, arm, f"/{self.limit}"))
                for arm, total in zip(arms, totals, strict=True)
            ]
            self.comparisons["slow"].add(slow[0], totals[0], slow[1], totals[1])
            return
        for key, value in increase.items():
            if key.startswith(arms[1]):
                edge = key.rpartition("/")[2]
                self.buckets[edge] = self.buckets.get(edge, 0.0) + value
        self.limit = _quantile(self.buckets)

    def to_json(self) -> str:
        """Return the content of the evidence file."""
        stored = {"format": FORMAT, **asdict(self), "time": self.time.isoformat()}
        return json.dumps(stored) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Evidence | None:
        """Return the evidence in a file; None if it is damaged or in another format."""
        try:
            stored: dict[str, Any] = json.loads(text)
            if stored.pop("format") != FORMAT or stored.keys() != {f.name for f in fields(cls)}:
                return None
            stored["time"] = datetime.fromisoformat(stored["time"])
            stored["comparisons"] = {
                name: Comparison(**values) for name, values in stored["comparisons"].items()
            }
            return cls(**stored)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


def _compute_increase(before: Mapping[str, float], now: Counters) -> Counters:
    if any(now.get(key, 0.0) < value for key, value in before.items()):
        before = {}
    return {key: value - before.get(key, 0.0) for key, value in now.items()}


def _sum(counters: Counters, prefix: str, suffix: str = "") -> float:
    return sum(
        value for key, value in counters.items() if key.startswith(prefix) and key.endswith(suffix)
    )


def _quantile(buckets: Mapping[str, float]) -> str | None:
    """Return the upper edge of the quantile's bucket; None if it is +Inf or calls are too few."""
    total = buckets.get("+Inf", 0.0)
    if total < FREEZE_CALLS:
        return None
    edges = sorted((edge for edge in buckets if edge != "+Inf"), key=float)
    return next((edge for edge in edges if buckets[edge] >= QUANTILE * total), None)

"""Verdicts: roll back, take the next step, or wait, with the reason."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from math import exp, log
from pathlib import Path
from typing import Literal

from rollout import judge
from rollout.evidence import FREEZE_CALLS, QUANTILE, Comparison, Evidence
from rollout.gateways import Gateways
from rollout.state import Rollout

# Maximum probability that the tests alone ever roll back a version that is no worse.
ALPHA = 0.01
SPLIT = {"failed": 0.6, "refused": 0.1, "slow": 0.2, "flips": 0.1}  # of ALPHA
# Smallest difference in rates that triggers a rollback, however certain it is.
MIN_EFFECT = {"failed": 0.001, "refused": 0.001, "slow": 0.02, "flips": 0.01}
# E-value for a rollback once a gateway has cut the version out: no more evidence will come.
CUT_OUT_E = 20.0
# Maximum probability that the bound on harm, which decides the steps, is ever wrong.
HARM_ALPHA = 0.05
# exp() overflows a float64 above 709.
MAX_LOG_E = 700.0
# Calls that a step needs in each arm.
MIN_CALLS = 50
# Tolerated difference between the canary's observed and expected share of both arms' requests.
MAX_IMBALANCE = 0.1
# Expected rate of label flips if the gate has not measured it.
DEFAULT_FLIPS = 0.05

Action = Literal["roll back", "next step", "wait"]


@dataclass(frozen=True)
class Flips:
    """Expected label flips between the stable version and the candidate.

    Attributes:
        rate: upper bound on the fraction of rows.
        source: origin of the rate, for display.
    """

    rate: float = DEFAULT_FLIPS
    source: str = "by default"


@dataclass(frozen=True)
class Finding:
    """The result of one test of the candidate.

    Attributes:
        name: "failed", "refused", "slow" or "flips".
        text: the counts, for display.
        log_e: logarithm of the e-value.
        threshold: e-value that triggers a rollback.
        harm: upper bound on the harm, as a fraction of the calls.
        allowed: largest tolerated harm.
        excess: observed difference in rates.
    """

    name: str
    text: str
    log_e: float
    threshold: float
    harm: float
    allowed: float
    excess: float

    @property
    def e_value(self) -> float:
        """The e-value, at most exp(700) so that it is finite."""
        return exp(min(self.log_e, MAX_LOG_E))

    @property
    def triggers_rollback(self) -> bool:
        """Whether this test alone rolls the version back."""
        return self.log_e >= log(self.threshold) and self.excess >= MIN_EFFECT[self.name]


@dataclass(frozen=True)
class Verdict:
    """The next action and its reason.

    Attributes:
        action: "roll back", "next step" or "wait".
        reason: explanation in one line.
        findings: results of the tests.
    """

    action: Action
    reason: str
    findings: tuple[Finding, ...] = ()


def run_tests(state: Rollout, evidence: Evidence, flips: Flips) -> list[Finding]:
    """Return the results of all tests that have calls, strongest evidence first."""
    tolerance = state.tolerance / 100
    findings = [
        Finding(
            name=name,
            text=_describe_counts(name, comparison, evidence.limit),
            log_e=comparison.log_e,
            threshold=_threshold(name),
            harm=comparison.harm(HARM_ALPHA),
            allowed=tolerance,
            excess=comparison.excess,
        )
        for name, comparison in evidence.comparisons.items()
        if comparison.canary[1] or comparison.control[1] or (name == "slow" and evidence.limit)
    ]
    if evidence.shadow_calls:
        bad, total = evidence.flipped_calls, evidence.shadow_calls
        findings.append(
            Finding(
                name="flips",
                text=f"{evidence.flipped_rows:,.0f} of {evidence.rows:,.0f} rows got a different "
                f"label in shadow, where {flips.rate:.1%} are expected {flips.source}",
                log_e=judge.log_e_excess(bad, total, flips.rate),
                threshold=_threshold("flips"),
                harm=judge.upper_bound(bad, total, HARM_ALPHA) - flips.rate,
                allowed=tolerance,
                excess=bad / total - flips.rate,
            )
        )
    return sorted(findings, key=lambda finding: log(finding.threshold) - finding.log_e)


def judge_candidate(
    state: Rollout, evidence: Evidence, gateways: Gateways, flips: Flips, now: datetime
) -> Verdict:
    """Return the verdict on a candidate that gets requests or copies of them."""
    tests = run_tests(state, evidence, flips)
    return replace(_verdict(state, evidence, gateways, tests, now), findings=tuple(tests))


def _verdict(
    state: Rollout,
    evidence: Evidence,
    gateways: Gateways,
    tests: list[Finding],
    now: datetime,
) -> Verdict:
    version = state.candidate
    for test in tests:
        if test.triggers_rollback:
            e = _describe_e_value(test.log_e, test.threshold)
            return Verdict("roll back", f"version {version}: {test.text}, {e}")
    for address, gateway in gateways.items():
        if version in gateway.cut_out:
            return _cut_out(version, address, tests)
    if conditions := _open_conditions(state, evidence, gateways, tests, now):
        return Verdict("wait", "; ".join(conditions))
    harm = max((test.harm for test in tests if test.name != "flips"), default=0.0)
    calls = (
        f"{evidence.calls[0]:,.0f} calls in {format_duration((now - state.since).total_seconds())}"
    )
    bound = (
        f"at most {max(harm, 0.0):.1%} more bad calls of each kind (tolerance {state.tolerance:g}%)"
    )
    return Verdict("next step", f"version {version}: {bound} after {calls}")


def _cut_out(version: int, address: str, tests: list[Finding]) -> Verdict:
    cut_out = f"version {version}: cut out by gateway {address}"
    for test in tests:
        if test.name == "failed" and test.log_e >= log(CUT_OUT_E):
            e = _describe_e_value(test.log_e, CUT_OUT_E)
            return Verdict("roll back", f"{cut_out}; {test.text}, {e}")
    return Verdict("wait", f"{cut_out}; the evidence is not sufficient: e < {CUT_OUT_E:g}")


def _open_conditions(
    state: Rollout,
    evidence: Evidence,
    gateways: Gateways,
    tests: list[Finding],
    now: datetime,
) -> list[str]:
    """Describe the conditions that the step still waits for."""
    if all(gateway.problem for gateway in gateways.values()):
        problems = "; ".join(
            f"{address}: {gateway.problem}" for address, gateway in gateways.items()
        )
        return [f"no gateway answers ({problems or 'none is known'})"]
    conditions = []
    for address, gateway in gateways.items():
        if not gateway.problem and gateway.generation is None:
            conditions.append(f"gateway {address} follows no rollout file (CLIENT_ROLLOUT)")
        elif gateway.unreadable:
            conditions.append(f"gateway {address} cannot read its rollout file")
    if (calls := min(evidence.calls)) < MIN_CALLS:
        conditions.append(f"{calls:.0f} of {MIN_CALLS} calls in each arm")
    if (remaining := state.bake - (now - state.since).total_seconds()) > 0:
        conditions.append(f"{format_duration(remaining)} of {format_duration(state.bake)} left")
    if calls >= MIN_CALLS:
        conditions += [
            f"{_SHORT_NAMES[test.name]}: up to {test.harm:.1%} more are possible, "
            f"{test.allowed:.1%} are tolerated"
            for test in tests
            if test.harm > test.allowed
        ]
    # With more calls and no limit, control's p99 is beyond the last bucket and cannot be tested.
    control_calls = evidence.buckets.get("+Inf", 0.0)
    is_canary = state.phase == "canary" and calls >= MIN_CALLS
    if is_canary and evidence.limit is None and control_calls < FREEZE_CALLS:
        conditions.append(
            f"{control_calls:.0f} of {FREEZE_CALLS} calls in control to measure its p99"
        )
    if imbalance := _describe_imbalance(state, evidence):
        conditions.append(imbalance)
    return conditions


def _describe_imbalance(state: Rollout, evidence: Evidence) -> str:
    """Describe an imbalance of the arms' requests; "" if it is small or may be due to chance."""
    control_percent = min(state.percent, 100 - state.percent)
    canary, control = evidence.requests
    if not control_percent or not canary + control:
        return ""
    share = state.percent / (state.percent + control_percent)
    observed = canary / (canary + control)
    may_be_chance = judge.log_e_imbalance(canary, control, share) < log(1 / ALPHA)
    if may_be_chance or abs(observed - share) < MAX_IMBALANCE:
        return ""
    return (
        f"the arms are uneven: {canary:,.0f} requests to the canary, {control:,.0f} to control, "
        f"{share:.0%} expected; a few callers send most requests, or routing is broken"
    )


_SHORT_NAMES = {
    "failed": "failed calls",
    "refused": "refused calls",
    "slow": "slow calls",
    "flips": "other labels",
}


def _describe_counts(name: str, comparison: Comparison, limit: str | None) -> str:
    verb = {"failed": "failed", "refused": "were refused", "slow": "were slow"}[name]
    if name == "slow" and limit is not None:
        verb = f"took longer than {float(limit) * 1000:.3g} ms (p{QUANTILE * 100:.0f} of control)"
    bad, calls = comparison.canary
    control_bad, control_calls = comparison.control
    return (
        f"{bad:,.0f} of {calls:,.0f} calls {verb}, against "
        f"{control_bad:,.0f} of {control_calls:,.0f} in control"
    )


def _describe_e_value(log_e: float, threshold: float) -> str:
    e = judge.format_e_value(log_e)
    return f"e {e if e.startswith('>') else f'= {e}'} ≥ {threshold:.0f}"


def _threshold(name: str) -> float:
    return 1 / (ALPHA * SPLIT[name])


def load_expected_flips(version_directory: Path, stable: int) -> Flips:
    """Load the rate of flips that the gate measured between this version and the stable one.

    The rate is an upper bound, given the number of held-out rows. The default applies
    unless the version passed a comparison with this stable version.
    """
    try:
        manifest = json.loads((version_directory / "manifest.json").read_bytes())
        gate = manifest["gate"]
        comparison = gate["comparison"]
        rate, rows = comparison["label_flips"], comparison["rows"]
        # If the version was published although it failed the gate, its flips are not acceptable.
        if not gate["passed"] or comparison["version"] != stable or not 0 <= rate <= 1:
            return Flips()
        bound = judge.upper_bound(rate * rows, rows, HARM_ALPHA)
    except (OSError, ValueError, KeyError, TypeError):
        return Flips()
    # A rate of 0 or 1 cannot be tested against.
    return Flips(min(max(bound, 0.001), 0.999), f"({rate:.1%} of {rows:,} held-out rows)")


def format_duration(seconds: float) -> str:
    """Format a duration for display: 90 s, 10 min, 2 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"

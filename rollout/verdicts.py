"""Verdicts: roll back, take the next step, or wait, with the reason."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from math import log
from pathlib import Path
from typing import Literal

from rollout import judge
from rollout.evidence import FREEZE_CALLS, QUANTILE, Comparison, Evidence
from rollout.gateways import Gateways
from rollout.state import Rollout

# Probability that a version that is no worse is ever rolled back, split over the tests.
ALPHA = 0.01
SPLIT = {"failed": 0.6, "refused": 0.1, "slow": 0.2, "flips": 0.1}
# Smallest difference in rates that triggers a rollback, however certain it is.
MIN_EFFECT = {"failed": 0.001, "refused": 0.001, "slow": 0.02, "flips": 0.01}
# E-value for a rollback once a gateway has cut the version out: no more evidence will come.
CUT_OUT_E = 20.0
# Probability that the bound on harm, which decides the steps, is ever wrong.
HARM_ALPHA = 0.05
# Calls that a step needs in each arm.
MIN_CALLS = 50
# Tolerated difference between the canary's observed and expected share of both arms' requests.
MAX_UNEVENNESS = 0.1
# Rate of label flips where the gate has not measured it.
DEFAULT_FLIPS = 0.05

Action = Literal["roll back", "next step", "wait"]


@dataclass(frozen=True)
class Flips:
    """Expected label flips between the stable version and the candidate.

    Attributes:
        rate: upper bound on the share of rows.
        source: origin of the rate, for people.
    """

    rate: float = DEFAULT_FLIPS
    source: str = "by default"


@dataclass(frozen=True)
class Finding:
    """One test of the candidate.

    Attributes:
        name: "failed", "refused", "slow" or "flips".
        text: the counts, for people.
        log_e: logarithm of the e-value.
        needed: e-value that triggers a rollback.
        harm: upper bound on the harm, as a share of the calls.
        allowed: largest harm that passes the step.
        excess: observed difference in rates.
    """

    name: str
    text: str
    log_e: float
    needed: float
    harm: float
    allowed: float
    excess: float

    @property
    def condemns(self) -> bool:
        """Whether this test alone rolls the version back."""
        return self.log_e >= log(self.needed) and self.excess >= MIN_EFFECT[self.name]


@dataclass(frozen=True)
class Verdict:
    """The next action and its reason.

    Attributes:
        action: "roll back", "next step" or "wait".
        reason: one line.
        findings: the tests behind it.
    """

    action: Action
    reason: str
    findings: tuple[Finding, ...] = ()


def findings(state: Rollout, evidence: Evidence, flips: Flips) -> list[Finding]:
    """Return the tests that have counted calls, the strongest evidence first."""
    tolerance = state.tolerance / 100
    found = [
        Finding(
            name=name,
            text=_counts(name, comparison, evidence.limit),
            log_e=comparison.log_e,
            needed=_needed(name),
            harm=comparison.harm(HARM_ALPHA),
            allowed=tolerance,
            excess=comparison.excess,
        )
        for name, comparison in evidence.comparisons.items()
        if comparison.canary[1] or comparison.control[1] or (name == "slow" and evidence.limit)
    ]
    if evidence.shadow_calls:
        bad, total = evidence.flipped_calls, evidence.shadow_calls
        found.append(
            Finding(
                name="flips",
                text=f"{evidence.flipped_rows:,.0f} of {evidence.rows:,.0f} rows got another label "
                f"in shadow, where {flips.rate:.1%} are expected {flips.source}",
                log_e=judge.log_e_excess(bad, total, flips.rate),
                needed=_needed("flips"),
                harm=judge.upper_bound(bad, total, HARM_ALPHA) - flips.rate,
                allowed=tolerance,
                excess=bad / total - flips.rate,
            )
        )
    return sorted(found, key=lambda finding: log(finding.needed) - finding.log_e)


def judged(
    state: Rollout, evidence: Evidence, gateways: Gateways, flips: Flips, now: datetime
) -> Verdict:
    """Return the verdict on a candidate that gets traffic, real or in shadow."""
    tests = findings(state, evidence, flips)
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
        if test.condemns:
            e = _exceeds(test.log_e, test.needed)
            return Verdict("roll back", f"version {version}: {test.text}, {e}")
    for address, gateway in gateways.items():
        if version in gateway.cut_out:
            return _cut_out(version, address, tests)
    if waits := _waits(state, evidence, gateways, tests, now):
        return Verdict("wait", "; ".join(waits))
    harm = max((test.harm for test in tests if test.name != "flips"), default=0.0)
    calls = f"{evidence.calls[0]:,.0f} calls in {span((now - state.since).total_seconds())}"
    bound = f"at most {max(harm, 0.0):.1%} more bad calls (tolerance {state.tolerance:g}%)"
    return Verdict("next step", f"version {version}: {bound} after {calls}")


def _cut_out(version: int, address: str, tests: list[Finding]) -> Verdict:
    cut_out = f"version {version}: cut out by gateway {address}"
    for test in tests:
        if test.name == "failed" and test.log_e >= log(CUT_OUT_E):
            e = _exceeds(test.log_e, CUT_OUT_E)
            return Verdict("roll back", f"{cut_out}; {test.text}, {e}")
    return Verdict("wait", f"{cut_out}; the evidence is not sufficient: e < {CUT_OUT_E:g}")


def _waits(
    state: Rollout,
    evidence: Evidence,
    gateways: Gateways,
    tests: list[Finding],
    now: datetime,
) -> list[str]:
    """Return the open conditions of the step; empty if it is passed."""
    if not any(not gateway.problem for gateway in gateways.values()):
        problems = "; ".join(f"{at}: {each.problem}" for at, each in gateways.items())
        return [f"no gateway answers ({problems or 'none is known'})"]
    waits = []
    for address, gateway in gateways.items():
        if not gateway.problem and gateway.generation is None:
            waits.append(f"gateway {address} follows no rollout file (CLIENT_ROLLOUT)")
        elif gateway.unreadable:
            waits.append(f"gateway {address} cannot read its rollout file")
    if (few := min(evidence.calls)) < MIN_CALLS:
        waits.append(f"{few:.0f} of {MIN_CALLS} calls in each arm")
    if (left := state.bake - (now - state.since).total_seconds()) > 0:
        waits.append(f"{span(left)} of {span(state.bake)} left")
    if few >= MIN_CALLS:
        waits += [
            f"{_SHORT[test.name]}: up to {test.harm:.1%} more are possible, {test.allowed:.1%} are "
            "tolerated"
            for test in tests
            if test.harm > test.allowed
        ]
    # With more calls and no limit, control's p99 is beyond the last bucket and cannot be tested.
    timed = evidence.buckets.get("+Inf", 0.0)
    is_canary = state.phase == "canary" and few >= MIN_CALLS
    if is_canary and evidence.limit is None and timed < FREEZE_CALLS:
        waits.append(f"{timed:.0f} of {FREEZE_CALLS} calls in control to fix its p99")
    if uneven := _uneven(state, evidence):
        waits.append(uneven)
    return waits


def _uneven(state: Rollout, evidence: Evidence) -> str:
    """Describe how the arms' requests differ from their shares, if beyond chance."""
    control_percent = min(state.percent, 100 - state.percent)
    canary, control = evidence.requests
    if not control_percent or not canary + control:
        return ""
    share = state.percent / (state.percent + control_percent)
    observed = canary / (canary + control)
    is_chance = judge.log_e_uneven(canary, control, share) < log(1 / ALPHA)
    if is_chance or abs(observed - share) < MAX_UNEVENNESS:
        return ""
    return (
        f"the arms are uneven: {canary:,.0f} requests to the canary, {control:,.0f} to control, "
        f"{share:.0%} expected; a few callers send most requests, or routing is broken"
    )


_SHORT = {
    "failed": "failed calls",
    "refused": "refused calls",
    "slow": "slow calls",
    "flips": "other labels",
}


def _counts(name: str, comparison: Comparison, limit: str | None) -> str:
    verb = {"failed": "failed", "refused": "were refused", "slow": "were slow"}[name]
    if name == "slow" and limit is not None:
        verb = f"took longer than {float(limit) * 1000:.3g} ms (p{QUANTILE * 100:.0f} of control)"
    bad, calls = comparison.canary
    control_bad, control_calls = comparison.control
    return (
        f"{bad:,.0f} of {calls:,.0f} calls {verb} against "
        f"{control_bad:,.0f} of {control_calls:,.0f} in control"
    )


def _exceeds(log_e: float, limit: float) -> str:
    e = judge.shown(log_e)
    return f"e {e if e.startswith('>') else f'= {e}'} ≥ {limit:.0f}"


def _needed(name: str) -> float:
    return 1 / (ALPHA * SPLIT[name])


def expected_flips(version_directory: Path, stable: int) -> Flips:
    """Return the flips that the gate measured between the stable version and this one.

    The bound accounts for the number of held-out rows. Return a default unless the version passed
    a comparison with this stable version.
    """
    try:
        manifest = json.loads((version_directory / "manifest.json").read_bytes())
        gate = manifest["gate"]
        comparison = gate["comparison"]
        rate, rows = comparison["label_flips"], comparison["rows"]
        # If the version was published against the gate's verdict, do not expect its flips.
        if not gate["passed"] or comparison["version"] != stable or not 0 <= rate <= 1:
            return Flips()
        bound = judge.upper_bound(rate * rows, rows, HARM_ALPHA)
    except (OSError, ValueError, KeyError, TypeError):
        return Flips()
    # A rate of 0 or 1 cannot be tested against.
    return Flips(min(max(bound, 0.001), 0.999), f"({rate:.1%} of {rows:,} held-out rows)")


def span(seconds: float) -> str:
    """Format a duration for people: 90 s, 10 m, 2 h."""
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"

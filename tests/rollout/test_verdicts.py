"""Verdicts from the counters of a simulated gateway; everything else is real."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from rollout.evidence import Evidence
from rollout.gateways import Gateway, parse
from rollout.state import Rollout
from rollout.verdicts import Flips, Verdict, judge_candidate, load_expected_flips

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
EDGES = [0.001 * 1.25**i for i in range(40)]
STATE = replace(
    Rollout("m", "/models/m", 1, 2, START, START).start(
        START, "", 2, steps=(10.0,), bake=30.0, tolerance=5.0, hold=0.0
    ).move_to_step(START, "", 0),
    generation=7,
)  # fmt: skip
IN_SHADOW = replace(STATE, phase="shadow", shadow=2, percent=0.0, steps=(0.0,))


class Simulation:
    """A gateway's counters, judged once per second."""

    def __init__(self, state: Rollout = STATE, seed: int = 0) -> None:
        self.state = state
        self.random = np.random.default_rng(seed)
        self.counters: Counter[str] = Counter()
        self.gateway = Gateway(generation=7)
        self.evidence = Evidence(state.salt, START, {"gateway": {}})
        self.seconds = 0

    def add_calls(self, arm: str, version: int, number: int, failed: int = 0, refused: int = 0,
              median: float = 0.01) -> None:  # fmt: skip
        for outcome, count in (
            ("failed", failed),
            ("refused", refused),
            ("ok", number - failed - refused),
        ):
            self.counters[f"calls/{arm}/{version}/{outcome}"] += count
        self.counters[f"requests/{arm}/{version}/ok"] += number
        seconds = median * np.exp(0.5 * self.random.standard_normal(number))
        cumulative = np.searchsorted(np.sort(seconds), EDGES, side="right")
        for edge, count in zip(EDGES, cumulative.tolist(), strict=True):
            self.counters[f"seconds/{arm}/{version}/{edge}"] += count
        self.counters[f"seconds/{arm}/{version}/+Inf"] += number

    def judge(self, flips: Flips | None = None) -> Verdict:
        self.seconds += 1
        now = START + timedelta(seconds=self.seconds)
        gateways = {"gateway": replace(self.gateway, counters=dict(self.counters))}
        self.evidence.observe(self.state, gateways, now)
        # As if the controller had restarted.
        stored = Evidence.from_json(self.evidence.to_json())
        assert stored == self.evidence
        return judge_candidate(self.state, self.evidence, gateways, flips or Flips(), now)


def test_verdict_without_data_is_wait() -> None:
    simulation = Simulation()
    for _ in range(100):
        assert simulation.judge().action == "wait"
    verdict = simulation.judge()
    assert verdict.reason == "0 of 50 calls in each arm"
    simulation.gateway = Gateway(problem="does not answer (Connection refused)")
    assert "no gateway answers" in simulation.judge().reason
    simulation.gateway = Gateway()
    assert "follows no rollout file" in simulation.judge().reason


def test_failing_canary_is_rolled_back_with_its_counts_as_the_reason() -> None:
    simulation = Simulation()
    simulation.add_calls("canary", 2, 10, failed=10)
    simulation.add_calls("control", 1, 10)
    verdict = simulation.judge()
    assert verdict.action == "roll back"
    assert verdict.reason == (
        "version 2: 10 of 10 calls failed against 0 of 10 in control, e = 186 ≥ 167"
    )


def test_failures_count_even_if_control_has_calls_in_other_seconds() -> None:
    simulation = Simulation()
    for _ in range(10):
        simulation.add_calls("canary", 2, 1, failed=1)
        assert simulation.judge().action == "wait"
        simulation.add_calls("control", 1, 1)
        verdict = simulation.judge()
    assert verdict.action == "roll back"
    assert "e = 186 ≥ 167" in verdict.reason


def test_sound_canary_passes_after_bake_time_and_enough_calls() -> None:
    simulation = Simulation()
    reasons = []
    while (verdict := simulation.judge()).action == "wait":
        reasons.append(verdict.reason)
        simulation.add_calls("canary", 2, 10)
        simulation.add_calls("control", 1, 10)
        assert simulation.seconds < 200
    assert "0 of 50 calls in each arm; 29 s of 30 s left" in reasons
    assert any("failed calls: up to" in reason for reason in reasons)
    assert verdict.action == "next step"
    assert simulation.seconds >= 30
    assert "(tolerance 5%)" in verdict.reason


def test_canary_slower_than_the_p99_of_control_is_rolled_back() -> None:
    simulation = Simulation()
    while (verdict := simulation.judge()).action == "wait":
        simulation.add_calls("canary", 2, 10, median=0.02)
        simulation.add_calls("control", 1, 10)
        assert simulation.seconds < 60
    assert verdict.action == "roll back"
    assert "took longer than" in verdict.reason
    assert "(p99 of control)" in verdict.reason


def test_step_waits_for_enough_calls_to_compare_latency() -> None:
    simulation = Simulation(replace(STATE, bake=0.0, tolerance=20.0))
    for calls, reason in (
        (60, "60 of 100 calls in control to fix its p99"),
        (60, "slow calls: up to 100.0% more are possible"),
    ):
        simulation.add_calls("canary", 2, calls)
        simulation.add_calls("control", 1, calls)
        assert reason in simulation.judge().reason
    simulation.add_calls("canary", 2, 60)
    simulation.add_calls("control", 1, 60)
    assert simulation.judge().action == "next step"


def test_control_slower_than_every_bucket_does_not_block_the_rollout() -> None:
    simulation = Simulation(replace(STATE, bake=0.0))
    simulation.add_calls("canary", 2, 300, median=1e9)
    simulation.add_calls("control", 1, 300, median=1e9)
    assert simulation.judge().action == "next step"


@pytest.mark.parametrize("control_refused", [0, 20])
def test_refusals_count_only_if_control_accepts_the_calls(control_refused: int) -> None:
    simulation = Simulation()
    simulation.add_calls("canary", 2, 30, refused=20)
    simulation.add_calls("control", 1, 30, refused=control_refused)
    assert simulation.judge().action == ("wait" if control_refused else "roll back")


def test_identical_versions_are_rarely_rolled_back() -> None:
    """Both arms have equal rates of failed, refused and slow calls, and are judged each second."""
    verdicts: Counter[str] = Counter()
    for seed in range(30):
        simulation = Simulation(seed=seed)
        for _ in range(20):
            failed, refused = simulation.random.binomial(24, 0.04, (2, 2)).tolist()
            simulation.add_calls("canary", 2, 24, failed[0], refused[0])
            simulation.add_calls("control", 1, 24, failed[1], refused[1])
            if simulation.judge().action == "roll back":
                verdicts["roll back"] += 1
                break
    assert verdicts["roll back"] <= 2


def test_counter_restarts_and_late_gateways_do_not_distort_the_evidence() -> None:
    simulation = Simulation()
    simulation.add_calls("canary", 2, 40)
    simulation.add_calls("control", 1, 40)
    simulation.judge()
    simulation.counters.clear()
    simulation.add_calls("canary", 2, 15)
    simulation.add_calls("control", 1, 50)  # more than before
    simulation.judge()
    assert simulation.evidence.calls == [55, 90]
    late = {"late": Gateway({"calls/canary/2/failed": 99.0}, 7)}
    now = START + timedelta(seconds=99)
    simulation.evidence.observe(STATE, late, now)
    assert simulation.evidence.calls == [55, 90]  # the 99 may belong to an earlier rollout
    late = {"late": Gateway({"calls/canary/2/failed": 101.0}, 7)}
    simulation.evidence.observe(STATE, late, now)  # at the same time: observed already
    assert simulation.evidence.calls == [55, 90]
    simulation.evidence.observe(STATE, late, now + timedelta(seconds=1))
    assert simulation.evidence.calls == [57, 90]


def test_cut_out_canary_is_judged_by_the_evidence_so_far() -> None:
    simulation = Simulation()
    simulation.gateway = replace(simulation.gateway, cut_out=frozenset([2]))
    simulation.add_calls("canary", 2, 8, failed=8)
    simulation.add_calls("control", 1, 8)
    verdict = simulation.judge()
    assert (verdict.action, "e = 56.8 ≥ 20" in verdict.reason) == ("roll back", True)
    simulation = Simulation()
    simulation.gateway = replace(simulation.gateway, cut_out=frozenset([2]))
    simulation.add_calls("canary", 2, 10, failed=10)
    simulation.add_calls("control", 1, 10, failed=9)
    assert simulation.judge().action == "wait"


def test_uneven_arms_block_the_rollout() -> None:
    simulation = Simulation(replace(STATE, bake=0.0))
    simulation.add_calls("canary", 2, 500)
    simulation.add_calls("control", 1, 900)
    verdict = simulation.judge()
    assert verdict.action == "wait"
    assert "the arms are uneven: 500 requests to the canary, 900 to control" in verdict.reason


def test_excess_label_flips_in_shadow_cause_a_rollback() -> None:
    def judge_flips(flipped: int) -> Verdict:
        simulation = Simulation(IN_SHADOW)
        for _ in range(40):
            simulation.counters["calls/stable/1/ok"] += 10
            simulation.counters["shadow/2/ok"] += 8  # some were dropped
            simulation.counters["rows/2/flipped"] += flipped
            simulation.counters["rows/2/same"] += 16 - flipped
            verdict = simulation.judge(Flips(0.05, "(4.4% of 114 held-out rows)"))
            if verdict.action != "wait":
                break
        return verdict

    assert judge_flips(0).action == "next step"
    verdict = judge_flips(8)
    assert verdict.action == "roll back"
    assert "rows got a different label in shadow, where 5.0% are expected" in verdict.reason


def test_expected_flips_come_from_the_gate(tmp_path: Path) -> None:
    def load_flips(passed: bool = True, **comparison: object) -> Flips:
        manifest = {"gate": {"passed": passed, "comparison": comparison}}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        return load_expected_flips(tmp_path, 1)

    assert load_expected_flips(tmp_path / "none", 1) == Flips()
    measured = load_flips(version=1, rows=1000, label_flips=0.02)
    assert 0.02 < measured.rate < 0.05
    assert measured.source == "(2.0% of 1,000 held-out rows)"
    assert load_flips(version=1, rows=100000, label_flips=0.0).rate == 0.001
    assert load_flips(version=3, rows=1000, label_flips=0.02) == Flips()  # not the stable version
    assert load_flips(version=1, rows=1000, label_flips=None) == Flips()
    assert load_flips(passed=False, version=1, rows=1000, label_flips=0.9) == Flips()


def test_metrics_of_other_models_are_ignored() -> None:
    text = """# TYPE client_arm_calls_total counter
client_arm_calls_total{model="m",version="2",arm="canary",outcome="failed"} 3.0
client_arm_calls_total{model="other",version="2",arm="canary",outcome="failed"} 9.0
client_arm_call_seconds_bucket{model="m",version="2",arm="canary",le="0.1"} 2.0
client_arm_call_seconds_sum{model="m",version="2",arm="canary"} 0.1
client_shadow_rows_total{model="m",version="2",outcome="flipped"} 4.0
client_rollout_generation{model="m"} 7.0
client_rollout_cutout{model="m",version="2"} 1.0
client_rollout_cutout{model="m",version="3"} 0.0
client_golden{model="m",version="2",server="10.0.0.1:8500",result="wrong"} 1.0
client_golden{model="m",version="2",server="10.0.0.1:8500",result="ok"} 0.0
client_http_requests_total{method="GET"} 5.0
"""
    gateway = parse(text, "m")
    assert gateway == Gateway(
        {"calls/canary/2/failed": 3.0, "seconds/canary/2/0.1": 2.0, "rows/2/flipped": 4.0},
        7,
        cut_out=frozenset([2]),
        golden_failures=((2, "10.0.0.1:8500"),),
    )

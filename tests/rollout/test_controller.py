"""The controller's decisions on scripted observations."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rollout.controller import Controller, Decision, Observation, utc_now
from rollout.exporter import Exporter
from rollout.gateways import Gateway
from rollout.servers import Server
from rollout.state import Rollout
from rollout.store import Store
from rollout.verdicts import Verdict
from tests.rollout.conftest import Site

SERVER = "10.0.0.1:8501"
GATEWAY = "10.0.0.2:8080"


class ScriptedController(Controller):
    """A controller that observes the server and the gateway of a test."""

    gateway = Gateway()
    server = Server({1: "AVAILABLE", 2: "AVAILABLE"})
    seconds = 0

    def observe(self, state: Rollout) -> Observation:
        self.seconds += 1
        time = utc_now() + timedelta(seconds=self.seconds)
        return Observation(time, {SERVER: self.server}, {GATEWAY: self.gateway})


@pytest.fixture
def controller(site: Site) -> ScriptedController:
    site.publish(2)
    controller = ScriptedController(Store(site.directory), site.models, "m", [], [])
    controller.change(
        lambda state, time: state.start(
            time, "", 2, steps=(10.0,), bake=0.0, tolerance=5.0, hold=0.0
        )
    )
    return controller


@pytest.mark.parametrize("evidence_is_deleted", [False, True])
def test_counts_from_before_a_gateway_first_answers_are_no_evidence(
    controller: ScriptedController, evidence_is_deleted: bool
) -> None:
    if evidence_is_deleted:
        controller.gateway = Gateway(generation=2)
        controller.tick()
        controller.store.evidence("m").unlink()
    controller.gateway = Gateway(problem="does not answer (timed out)")
    controller.tick()
    counters = {
        "calls/canary/2/failed": 500.0,
        "calls/canary/2/ok": 500.0,
        "calls/control/1/ok": 1e3,
    }
    controller.gateway = Gateway(counters, 2)
    for _ in range(2):
        verdict = controller.tick().verdict
        assert verdict is not None
        assert verdict.action == "wait"
        assert verdict.reason == "0 of 50 calls in each arm"


def test_load_errors_count_only_after_servers_read_the_config_file(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.server = Server({1: "AVAILABLE", 2: "END"}, {2: "out of memory"})
    monkeypatch.setattr("rollout.controller.CONFIG_POLL_SECONDS", 3600)
    assert controller.tick().state.phase == "loading"
    monkeypatch.setattr("rollout.controller.CONFIG_POLL_SECONDS", 0)
    state = controller.tick().state
    assert state.phase == "rolled_back"
    assert state.reason == f"rolled back version 2: {SERVER} cannot load it: out of memory"


def test_dry_run_metrics_match_the_rollout_file() -> None:
    state = Rollout("m", "/models/m", 1, 2, utc_now(), utc_now(), canary=2, phase="canary")
    decision = Decision(state, state.roll_back(utc_now(), ""), Verdict("roll back", ""))
    exporter = Exporter("m")

    def read_metrics() -> list[float | None]:
        value = exporter._registry.get_sample_value
        return [
            value("rollout_phase", {"model": "m", "phase": "rolled_back"}),
            value("rollout_canary_version", {"model": "m"}),
            value("rollout_rolled_back_total", {"model": "m"}),
        ]

    exporter.update(decision, dry_run=True)
    assert read_metrics() == [0, 2, 0]
    exporter.update(decision, dry_run=False)
    assert read_metrics() == [1, 0, 1]

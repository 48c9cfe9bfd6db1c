"""The controller: observes servers and gateways, and takes the next step of a rollout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from rollout import gateways, servers
from rollout.evidence import Evidence
from rollout.gateways import Gateways
from rollout.servers import Servers
from rollout.state import Rollout
from rollout.store import Store
from rollout.verdicts import Flips, Verdict, judge_candidate, load_expected_flips
from rollout.versions import newest, versions

# Time limit for every server to report a version as AVAILABLE.
LOAD_SECONDS = 120
# Until model servers poll the model config file, they may report an earlier attempt's error.
CONFIG_POLL_SECONDS = 5
# Gateways read the rollout file every half second; their calls last seconds.
RETIRE_SECONDS = 10


@dataclass(frozen=True)
class Settings:
    """Settings of a rollout that `start`, `shadow` or `watch --auto` begins.

    Attributes:
        steps: shares of the steps, in percent; 0 is the shadow stage.
        bake: minimum seconds of a step.
        tolerance: largest tolerated harm, in percent of the calls.
        hold: seconds that the previous version stays loaded after the end of the last rollout.
        manual: whether steps and promotion are left to the operator.
    """

    steps: tuple[float, ...]
    bake: float
    tolerance: float
    hold: float
    manual: bool = False


@dataclass(frozen=True)
class Observation:
    """Model servers and gateways at one moment."""

    time: datetime
    servers: Servers = field(default_factory=dict)
    gateways: Gateways = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """The result of a tick.

    Attributes:
        before: state before the tick; a dry run leaves it in the rollout file.
        state: state after the tick; the same object if nothing changes.
        verdict: verdict on the candidate; None if no rollout is in progress.
    """

    before: Rollout
    state: Rollout
    verdict: Verdict | None = None

    @property
    def changed(self) -> bool:
        """Whether the state changes."""
        return self.state is not self.before


class Controller:
    """Takes the steps of one model's rollout."""

    def __init__(
        self,
        store: Store,
        models: Path,
        model: str,
        server_urls: Sequence[str],
        gateway_urls: Sequence[str],
        *,
        dry_run: bool = False,
    ) -> None:
        """Create a controller.

        Args:
            store: the directory of the rollout files.
            models: directory of all models.
            model: name of the model.
            server_urls: http://host:port of the model servers' REST ports.
            gateway_urls: http://host:port of the gateways.
            dry_run: whether to judge without changing anything.
        """
        self.store = store
        self.directory = models / model
        self.model = model
        self.dry_run = dry_run
        self._server_urls = server_urls
        self._gateway_urls = gateway_urls
        # A dry run writes no evidence file.
        self._dry_run_evidence: Evidence | None = None

    def first_state(self, time: datetime) -> Rollout:
        """Return the state in which the newest version is stable.

        Raises:
            RolloutError: there is no version.
        """
        version = newest(self.directory)
        path = str(self.directory.resolve())
        reason = f"version {version} is the newest at the first start"
        return Rollout(self.model, path, version, version, reason=reason, since=time, time=time)

    def change(self, action: Callable[[Rollout, datetime], Rollout]) -> Rollout:
        """Apply an action to the current state, write the result and return it.

        Raises:
            RolloutError: the action is not possible, or a file cannot be read or written.
        """
        time = utc_now()
        state = self.store.read(self.model, time) or self.first_state(time)
        if self.dry_run:
            return action(state, time)
        with self.store.locked(time):
            state = self.store.read(self.model, time) or state
            changed = action(state, time)
            if changed is not state or not self.store.path(self.model).exists():
                self.store.write(changed)
            return changed

    def observe(self, state: Rollout) -> Observation:
        """Query the servers and gateways that the current phase needs."""
        time = utc_now()
        if state.at_rest:
            return Observation(time)
        return Observation(
            time,
            servers.observe(self._server_urls, self.model) if state.phase == "loading" else {},
            gateways.observe(self._gateway_urls, self.model),
        )

    def servers(self) -> Servers:
        """Query every model server for the states of the model's versions."""
        return servers.observe(self._server_urls, self.model)

    def tick(self, auto: Settings | None = None) -> Decision:
        """Observe, decide and write once.

        Args:
            auto: settings for newly published versions; None does not start them.

        Raises:
            RolloutError: a file cannot be read or written, or there is no version.
        """
        time = utc_now()
        before = self.store.read(self.model, time) or self.change(lambda state, time: state)
        observation = self.observe(before)
        if self.dry_run:
            return self._decide(before, observation, auto)
        with self.store.locked(time):
            state = self.store.read(self.model, time)
            # If another process has changed the state, the observation may not fit it.
            if state is None or state.generation != before.generation:
                return Decision(state or before, state or before)
            decision = self._decide(state, observation, auto)
            if decision.changed:
                self.store.write(decision.state)
            return decision

    def verdict(self, state: Rollout) -> Verdict | None:
        """Return the verdict without storing evidence; None if there is no candidate."""
        if state.at_rest:
            return None
        observation = self.observe(state)
        if (verdict := _golden_verdict(state, observation)) is not None:
            return verdict
        if state.phase == "loading":
            return _loading_verdict(state, observation)
        evidence = self._current_evidence(state, observation)
        return judge_candidate(
            state, evidence, observation.gateways, self._expected_flips(state), observation.time
        )

    def _current_evidence(self, state: Rollout, observation: Observation) -> Evidence:
        """Return the evidence of the current rollout, including this observation."""
        evidence = self._load_evidence(state)
        if evidence is None:
            return _start_evidence(state, observation)
        evidence.observe(state, observation.gateways, observation.time)
        return evidence

    def _expected_flips(self, state: Rollout) -> Flips:
        return load_expected_flips(self.directory / str(state.candidate), state.stable)

    def _load_evidence(self, state: Rollout) -> Evidence | None:
        if self.dry_run and self._dry_run_evidence is not None:
            evidence: Evidence | None = self._dry_run_evidence
        else:
            try:
                evidence = Evidence.from_json(self.store.evidence(self.model).read_bytes())
            except OSError:
                evidence = None
        return evidence if evidence is not None and evidence.salt == state.salt else None

    def _save_evidence(self, evidence: Evidence) -> None:
        if self.dry_run:
            self._dry_run_evidence = evidence
        else:
            self.store.write_evidence(self.model, evidence.to_json())

    def _decide(self, state: Rollout, observation: Observation, auto: Settings | None) -> Decision:
        if state.at_rest:
            return self._decide_at_rest(state, observation.time, auto)
        verdict = _golden_verdict(state, observation)
        if state.phase == "loading":
            verdict = verdict or _loading_verdict(state, observation)
            if verdict.action == "next step":
                self._save_evidence(_start_evidence(state, observation))
                return Decision(
                    state, state.move_to_step(observation.time, verdict.reason, 0), verdict
                )
        elif verdict is None:
            evidence = self._current_evidence(state, observation)
            self._save_evidence(evidence)
            verdict = judge_candidate(
                state, evidence, observation.gateways, self._expected_flips(state), observation.time
            )
        if verdict.action == "roll back":
            reason = f"rolled back {verdict.reason}"
            return Decision(state, state.roll_back(observation.time, reason), verdict)
        if verdict.action == "next step" and not state.manual:
            return Decision(
                state, _take_next_step(state, observation.time, verdict.reason), verdict
            )
        return Decision(state, state, verdict)

    def _decide_at_rest(self, state: Rollout, time: datetime, auto: Settings | None) -> Decision:
        elapsed = (time - state.since).total_seconds()
        if state.retiring and elapsed > RETIRE_SECONDS:
            reason = _append_unloaded(state.reason, *state.retiring)
            return Decision(state, state.with_changes(time, reason, retiring=()))
        if state.previous is not None and elapsed > state.hold:
            reason = _append_unloaded(state.reason, state.previous)
            return Decision(state, state.with_changes(time, reason, previous=None))
        if auto is None:
            return Decision(state, state)
        published = versions(self.directory)
        if not published or published[-1] <= state.seen:
            return Decision(state, state)
        version = published[-1]
        loading = state.start(
            time,
            f"version {version} was published",
            version,
            steps=auto.steps,
            bake=auto.bake,
            tolerance=auto.tolerance,
            hold=auto.hold,
            manual=auto.manual,
        )
        return Decision(state, loading)


def _append_unloaded(reason: str, *unloaded: int) -> str:
    """Return a reason with the unloaded versions appended."""
    noun = "version" if len(unloaded) == 1 else "versions"
    return f"{reason} ({noun} {', '.join(map(str, unloaded))} unloaded)"


def _start_evidence(state: Rollout, observation: Observation) -> Evidence:
    """Return evidence without calls, with the gateways' current counters as the baseline."""
    # The counters of a gateway that does not answer are unknown, not zero.
    counters = {
        address: dict(gateway.counters)
        for address, gateway in observation.gateways.items()
        if not gateway.problem
    }
    return Evidence(state.salt, observation.time, counters)


def _golden_verdict(state: Rollout, observation: Observation) -> Verdict | None:
    for address, gateway in observation.gateways.items():
        for version, server in gateway.golden_failures:
            if version == state.candidate:
                problem = (
                    f"{server} answers its golden rows incorrectly, according to gateway {address}"
                )
                return Verdict("roll back", f"version {version}: {problem}")
    return None


def _loading_verdict(state: Rollout, observation: Observation) -> Verdict:
    version = state.candidate
    elapsed = (observation.time - state.since).total_seconds()
    if elapsed > CONFIG_POLL_SECONDS and (
        error := servers.load_error(observation.servers, version)
    ):
        return Verdict("roll back", f"version {version}: {error}")
    if servers.is_available_everywhere(observation.servers, version):
        count = len(observation.servers)
        return Verdict(
            "next step", f"version {version} is AVAILABLE on {count} of {count} model servers"
        )
    reasons = servers.describe_unavailable(observation.servers, version)
    if elapsed > LOAD_SECONDS:
        reason = f"version {version}: not AVAILABLE after {LOAD_SECONDS} s: {reasons}"
        return Verdict("roll back", reason)
    return Verdict("wait", f"version {version} is not AVAILABLE everywhere: {reasons}")


def _take_next_step(state: Rollout, time: datetime, reason: str) -> Rollout:
    if state.step + 1 < len(state.steps):
        return state.move_to_step(time, reason, state.step + 1)
    return state.promote(time, f"promoted {reason}")


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(timezone.utc)

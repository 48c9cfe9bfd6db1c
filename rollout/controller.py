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
from rollout.verdicts import Flips, Verdict, expected_flips, judged
from rollout.versions import newest, versions

# A version must be AVAILABLE on every server by then.
LOAD_SECONDS = 120
# Model servers poll the model config file; until then they may report an earlier attempt's error.
CONFIG_POLL_SECONDS = 5
# Gateways read the rollout file every half second; their calls last seconds.
RETIRE_SECONDS = 10


@dataclass(frozen=True)
class Settings:
    """Settings of a rollout that `start`, `shadow` or `watch --auto` begins.

    Attributes:
        steps: shares of the steps, in percent; 0 is the shadow stage.
        bake: minimum seconds of a step.
        tolerance: largest harm that passes a step, in percent of the calls.
        hold: seconds that the previous version stays loaded after the end of the last rollout.
        manual: whether steps and promotion are left to people.
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
        before: the state in the rollout file before the tick, and after it with `dry_run`.
        state: the state that follows, the same one if nothing changes.
        verdict: on the candidate; None if no rollout is in progress.
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
        """Create a controller; it starts nothing.

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
        # Without a file, evidence is kept here.
        self._memory: Evidence | None = None

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
            # Another process has changed the state, and the observation may not fit it.
            if state is None or state.generation != before.generation:
                return Decision(state or before, state or before)
            decision = self._decide(state, observation, auto)
            if decision.changed:
                self.store.write(decision.state)
            return decision

    def verdict(self, state: Rollout) -> Verdict | None:
        """Return the verdict on the candidate without storing evidence; None if there is none."""
        if state.at_rest:
            return None
        seen = self.observe(state)
        if (verdict := _golden(state, seen)) is not None:
            return verdict
        if state.phase == "loading":
            return _loading(state, seen)
        evidence = self._evidence(state, seen)
        return judged(state, evidence, seen.gateways, self._flips(state), seen.time)

    def _evidence(self, state: Rollout, observation: Observation) -> Evidence:
        """Return the evidence of the current rollout, including this observation."""
        evidence = self._stored(state)
        if evidence is None:
            return _no_evidence(state, observation)
        evidence.observe(state, observation.gateways, observation.time)
        return evidence

    def _flips(self, state: Rollout) -> Flips:
        return expected_flips(self.directory / str(state.candidate), state.stable)

    def _stored(self, state: Rollout) -> Evidence | None:
        if self.dry_run and self._memory is not None:
            evidence: Evidence | None = self._memory
        else:
            try:
                evidence = Evidence.from_json(self.store.evidence(self.model).read_bytes())
            except OSError:
                evidence = None
        return evidence if evidence is not None and evidence.salt == state.salt else None

    def _keep(self, evidence: Evidence) -> None:
        if self.dry_run:
            self._memory = evidence
        else:
            self.store.write_evidence(self.model, evidence.to_json())

    def _decide(self, state: Rollout, seen: Observation, auto: Settings | None) -> Decision:
        if state.at_rest:
            return self._at_rest(state, seen.time, auto)
        verdict = _golden(state, seen)
        if state.phase == "loading":
            verdict = verdict or _loading(state, seen)
            if verdict.action == "next step":
                self._keep(_no_evidence(state, seen))
                return Decision(state, state.at_step(seen.time, verdict.reason, 0), verdict)
        elif verdict is None:
            evidence = self._evidence(state, seen)
            self._keep(evidence)
            verdict = judged(state, evidence, seen.gateways, self._flips(state), seen.time)
        if verdict.action == "roll back":
            reason = f"rolled back {verdict.reason}"
            return Decision(state, state.rolled_back(seen.time, reason), verdict)
        if verdict.action == "next step" and not state.manual:
            return Decision(state, _next_step(state, seen.time, verdict.reason), verdict)
        return Decision(state, state, verdict)

    def _at_rest(self, state: Rollout, time: datetime, auto: Settings | None) -> Decision:
        elapsed = (time - state.since).total_seconds()
        if state.retiring and elapsed > RETIRE_SECONDS:
            reason = _unloaded(state.reason, *state.retiring)
            return Decision(state, state.changed(time, reason, retiring=()))
        if state.previous is not None and elapsed > state.hold:
            reason = _unloaded(state.reason, state.previous)
            return Decision(state, state.changed(time, reason, previous=None))
        if auto is None:
            return Decision(state, state)
        published = versions(self.directory)
        if not published or published[-1] <= state.seen:
            return Decision(state, state)
        version = published[-1]
        started = state.started(
            time,
            f"version {version} was published",
            version,
            steps=auto.steps,
            bake=auto.bake,
            tolerance=auto.tolerance,
            hold=auto.hold,
            manual=auto.manual,
        )
        return Decision(state, started)


def _unloaded(reason: str, *versions: int) -> str:
    """Return the reason of the last change, which still explains the state."""
    noun = "version" if len(versions) == 1 else "versions"
    return f"{reason} ({noun} {', '.join(map(str, versions))} unloaded)"


def _no_evidence(state: Rollout, seen: Observation) -> Evidence:
    """Return evidence without calls; what gateways count from now on is the rollout's."""
    # The counters of a gateway that does not answer are unknown, not zero.
    counters = {at: dict(each.counters) for at, each in seen.gateways.items() if not each.problem}
    return Evidence(state.salt, seen.time, counters)


def _golden(state: Rollout, seen: Observation) -> Verdict | None:
    for address, gateway in seen.gateways.items():
        for version, server in gateway.wrong:
            if version == state.candidate:
                found = f"{server} answers its golden rows wrongly, reported by gateway {address}"
                return Verdict("roll back", f"version {version}: {found}")
    return None


def _loading(state: Rollout, seen: Observation) -> Verdict:
    version = state.candidate
    elapsed = (seen.time - state.since).total_seconds()
    if elapsed > CONFIG_POLL_SECONDS and (error := servers.failure(seen.servers, version)):
        return Verdict("roll back", f"version {version}: {error}")
    if servers.available_everywhere(seen.servers, version):
        count = len(seen.servers)
        return Verdict(
            "next step", f"version {version} is AVAILABLE on {count} of {count} model servers"
        )
    missing = servers.lacking(seen.servers, version)
    if elapsed > LOAD_SECONDS:
        reason = f"version {version}: not AVAILABLE after {LOAD_SECONDS} s: {missing}"
        return Verdict("roll back", reason)
    return Verdict("wait", f"version {version} is not AVAILABLE everywhere: {missing}")


def _next_step(state: Rollout, time: datetime, reason: str) -> Rollout:
    if state.step + 1 < len(state.steps):
        return state.at_step(time, reason, state.step + 1)
    return state.promoted(time, f"promoted {reason}")


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(timezone.utc)

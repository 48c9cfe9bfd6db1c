"""The rollout file: which version gets which share of a model's requests.

`DIRECTORY/MODEL.json` is the whole state of a rollout; docs/rollout.md describes its fields.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

from rollout.errors import StateError

FORMAT = 1
RESTING_PHASES = ("idle", "promoted", "rolled_back")
PHASES = ("idle", "loading", "shadow", "canary", "promoted", "rolled_back")
SHADOW_STEP = 0.0  # in `steps`
# Clocks of machines that share a directory may differ by this much.
MAX_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Rollout:
    """The state of a model's rollout.

    Attributes:
        model: name of the model.
        base_path: directory of its versions, as the model servers see it.
        stable: version that answers requests outside the canary's share.
        seen: highest version that has been stable or a candidate; `--auto` starts higher ones.
        since: when the current phase or step began.
        time: time of the last change.
        phase: one of `PHASES`.
        canary: the candidate; None at rest.
        shadow: version that gets copies of requests, or None.
        previous: version that was stable before; `hold` says how long it stays loaded.
        retiring: versions to unload once gateways no longer request them.
        percent: share of the requests for the canary, 0–100.
        steps: shares of the steps; 0 is the shadow stage.
        step: index of the current step.
        bake: minimum seconds of a step.
        tolerance: largest tolerated harm, in percent of the calls.
        hold: seconds that `previous` stays loaded after the end of the last rollout.
        manual: whether steps and promotion are left to the operator.
        salt: makes the buckets of a rollout differ from those of others.
        generation: increases by one with each change.
        reason: reason for the last change.
    """

    model: str
    base_path: str
    stable: int
    seen: int
    since: datetime
    time: datetime
    phase: str = "idle"
    canary: int | None = None
    shadow: int | None = None
    previous: int | None = None
    retiring: tuple[int, ...] = ()
    percent: float = 0.0
    steps: tuple[float, ...] = ()
    step: int = 0
    bake: float = 0.0
    tolerance: float = 0.0
    hold: float = 0.0
    manual: bool = False
    salt: str = ""
    generation: int = 1
    reason: str = ""

    @property
    def at_rest(self) -> bool:
        """Whether no rollout is in progress."""
        return self.phase in RESTING_PHASES

    @property
    def candidate(self) -> int:
        """The version that is being rolled out.

        Raises:
            ValueError: no rollout is in progress.
        """
        if self.canary is None:
            raise ValueError("no rollout is in progress")
        return self.canary

    @property
    def versions(self) -> list[int]:
        """The versions that every model server should have, ascending."""
        versions = {self.stable, self.canary, self.previous, *self.retiring}
        return sorted(version for version in versions if version is not None)

    @property
    def labels(self) -> dict[str, int]:
        """Version by label; the candidate gets its label once it is AVAILABLE on every server."""
        if self.canary is None or self.phase == "loading":
            return {"stable": self.stable}
        return {"stable": self.stable, "canary": self.canary}

    def with_changes(self, now: datetime, reason: str, **changes: Any) -> Rollout:
        """Return the next generation, with these fields changed."""
        return replace(self, generation=self.generation + 1, time=now, reason=reason, **changes)

    def start(self, now: datetime, reason: str, version: int, **settings: Any) -> Rollout:
        """Return the state in which servers load a version before it gets traffic."""
        return self.with_changes(
            now,
            reason,
            since=now,
            phase="loading",
            canary=version,
            shadow=None,
            percent=0.0,
            step=0,
            seen=max(self.seen, version),
            retiring=tuple(retired for retired in self.retiring if retired != version),
            salt=secrets.token_hex(8),
            **settings,
        )

    def move_to_step(self, now: datetime, reason: str, step: int) -> Rollout:
        """Return the state of a step."""
        percent = self.steps[step]
        in_shadow = percent == SHADOW_STEP
        return self.with_changes(
            now,
            reason,
            since=now,
            phase="shadow" if in_shadow else "canary",
            shadow=self.canary if in_shadow else None,
            percent=percent,
            step=step,
        )

    def promote(self, now: datetime, reason: str) -> Rollout:
        """Return the state in which the candidate is stable."""
        retiring = {*self.retiring} | ({self.previous} if self.previous is not None else set())
        return self.with_changes(
            now,
            reason,
            since=now,
            phase="promoted",
            stable=self.candidate,
            canary=None,
            shadow=None,
            previous=self.stable,
            percent=0.0,
            retiring=tuple(sorted(retiring - {self.candidate, self.stable})),
        )

    def roll_back(self, now: datetime, reason: str) -> Rollout:
        """Return the state without the candidate or, at rest, with the previous version stable."""
        removed = self.canary
        stable, previous = self.stable, self.previous
        if removed is None:
            removed, previous = self.stable, None
            stable = self.stable if self.previous is None else self.previous
        elif removed == previous:
            previous = None
        retiring = {*self.retiring}
        # Gateways do not request a version that is loading, so remove it at once. Model servers
        # retry a load only after the version has been absent from the model config file.
        if self.phase != "loading":
            retiring.add(removed)
        return self.with_changes(
            now,
            reason,
            since=now,
            phase="rolled_back",
            stable=stable,
            canary=None,
            shadow=None,
            previous=previous,
            percent=0.0,
            retiring=tuple(sorted(retiring - {stable, previous})),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the content of the rollout file."""
        times = {name: getattr(self, name).isoformat() for name in ("since", "time")}
        return {"format": FORMAT, **asdict(self), **times}


def parse(text: bytes, model: str, now: datetime, file: object) -> Rollout:
    """Return the state in a rollout file.

    Args:
        text: content of the file.
        model: name that the model must have.
        now: current time.
        file: name of the file, for errors.

    Raises:
        StateError: the text is not a rollout file of this model and release, or its time is in the
            future.
    """
    try:
        stored = json.loads(text)
    except ValueError as error:
        raise StateError(f"{file} is not JSON ({error}); {RECOVERY_HINT}") from error
    if not isinstance(stored, dict):
        raise StateError(
            f"{file}: expected a JSON object, got {type(stored).__name__}; {RECOVERY_HINT}"
        )
    version = stored.get("format")
    if version != FORMAT:
        later = isinstance(version, int) and version > FORMAT
        hint = "a later release wrote it; upgrade this one" if later else RECOVERY_HINT
        raise StateError(f"{file}: expected format {FORMAT}, got {version!r}; {hint}")
    if stored.get("model") != model:
        raise StateError(
            f"{file} is for model {stored.get('model')!r}, expected {model!r}; {RECOVERY_HINT}"
        )
    state = _decode(stored, file)
    if state.time > now + MAX_CLOCK_SKEW:
        raise StateError(
            f"{file} was written at {state.time.isoformat()}, but the time is now "
            f"{now.isoformat()}: check this machine's clock"
        )
    return state


RECOVERY_HINT = (
    "restore it from the history beside it, or remove it to start from the newest version"
)
_OPTIONAL = ("canary", "shadow", "previous")


def _decode(stored: Mapping[str, Any], file: object) -> Rollout:
    values: dict[str, Any] = {}
    for field in fields(Rollout):
        if field.name not in stored:
            raise StateError(f"{file}: {field.name} is missing; {RECOVERY_HINT}")
        value = stored[field.name]
        if value is None and field.name in _OPTIONAL:
            values[field.name] = None
            continue
        try:
            values[field.name] = _PARSERS[str(field.type)](value)
        except (TypeError, ValueError) as error:
            raise StateError(
                f"{file}: {field.name}: expected {error}, got {value!r}; {RECOVERY_HINT}"
            ) from error
    state = Rollout(**values)
    if problem := _find_problem(state):
        raise StateError(f"{file}: {problem}; {RECOVERY_HINT}")
    return state


def _find_problem(state: Rollout) -> str:
    """Return a description of the first invalid or contradictory field, or ""."""
    if state.phase not in PHASES:
        return f"phase: expected one of {', '.join(PHASES)}, got {state.phase!r}"
    if not 0 <= state.percent <= 100:
        return f"percent: expected 0 to 100, got {state.percent:g}"
    if state.at_rest != (state.canary is None):
        return f"canary {state.canary} contradicts phase {state.phase}"
    if not state.at_rest and state.step not in range(len(state.steps)):
        return f"step {state.step} is not one of the {len(state.steps)} steps"
    return ""


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e18:
        raise TypeError("a number")
    return float(value)


def _natural_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("a non-negative integer")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a string")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("a list")
    return value


def _time(value: object) -> datetime:
    try:
        time = datetime.fromisoformat(_string(value))
    except (TypeError, ValueError):
        raise TypeError("an ISO 8601 time with a UTC offset") from None
    if time.tzinfo is None:
        raise TypeError("an ISO 8601 time with a UTC offset")
    return time


_PARSERS = {
    "int": _natural_number,
    "int | None": _natural_number,
    "float": _number,
    "str": _string,
    "bool": _flag,
    "datetime": _time,
    "tuple[int, ...]": lambda value: tuple(map(_natural_number, _list(value))),
    "tuple[float, ...]": lambda value: tuple(map(_number, _list(value))),
}

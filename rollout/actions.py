"""Manual actions on a rollout; each checks the current state and returns the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rollout.errors import RolloutError
from rollout.servers import Servers, describe_unavailable, is_available_everywhere
from rollout.state import Rollout


def start(
    state: Rollout,
    version: int,
    published: Sequence[int],
    now: datetime,
    reason: str,
    **settings: Any,
) -> Rollout:
    """Begin a rollout, or set the share of the one in progress.

    Args:
        state: current state.
        version: the candidate.
        published: versions that exist.
        now: current time.
        reason: reason to record in the history.
        settings: fields of the state to set, such as `steps` and `bake`; a rollout in progress
            keeps its other fields.

    Raises:
        RolloutError: the version does not exist, is stable or is being loaded, or another rollout
            is in progress.
    """
    if version == state.stable:
        raise RolloutError(f"version {version} is already the stable version")
    if version not in published:
        known = ", ".join(map(str, published)) or "none"
        raise RolloutError(f"there is no version {version}; published versions: {known}")
    if state.at_rest:
        return state.start(now, reason, version, **settings)
    if version != state.canary:
        raise RolloutError(
            f"a rollout of version {state.canary} is in progress ({state.phase}, "
            f"{state.percent:g}%); abort or promote it first"
        )
    if state.phase == "loading":
        raise RolloutError(f"version {version} is being loaded; see `status`")
    return replace(state, **settings).move_to_step(now, reason, 0)


def promote(state: Rollout, servers: Servers, now: datetime) -> Rollout:
    """Make the candidate stable.

    Raises:
        RolloutError: there is no candidate, or it is not AVAILABLE on every server.
    """
    if state.at_rest:
        raise RolloutError(f"no rollout is in progress; version {state.stable} is stable")
    _check_available(servers, state.candidate)
    return state.promote(now, f"promoted version {state.candidate} by hand")


def abort(state: Rollout, now: datetime) -> Rollout:
    """End a rollout; the stable version answers all requests.

    Raises:
        RolloutError: no rollout is in progress.
    """
    if state.at_rest:
        raise RolloutError(f"no rollout is in progress; version {state.stable} is stable")
    return state.roll_back(now, f"aborted version {state.canary} by hand")


def roll_back(state: Rollout, servers: Servers, now: datetime) -> Rollout:
    """Make the previous version stable again.

    Raises:
        RolloutError: no previous version is loaded, or a rollout is in progress.
    """
    if not state.at_rest:
        raise RolloutError(f"a rollout of version {state.canary} is in progress; use abort")
    if state.previous is None:
        raise RolloutError(
            "no previous version is loaded (--hold limits how long it is kept); "
            "start an older version by its number"
        )
    _check_available(servers, state.previous)
    return state.roll_back(now, f"rolled back version {state.stable} by hand")


def _check_available(servers: Servers, version: int) -> None:
    if not is_available_everywhere(servers, version):
        raise RolloutError(
            f"version {version} is not AVAILABLE on every model server: "
            + describe_unavailable(servers, version)
        )

"""A version of a model, and the states it goes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2

from serving.batching.session import Session
from serving.errors import ServingError

_STATE = get_model_status_pb2.ModelVersionStatus.State


class State(IntEnum):
    """A version's states, numbered as in `GetModelStatus`."""

    START = _STATE.Value("START")
    LOADING = _STATE.Value("LOADING")
    AVAILABLE = _STATE.Value("AVAILABLE")
    UNLOADING = _STATE.Value("UNLOADING")
    END = _STATE.Value("END")


@dataclass(eq=False)
class Version:
    """One version of a model, from the moment it is aspired to.

    Attributes:
        model: the model's name.
        number: the version's number.
        path: its directory.
        aspired: whether the base path and policy ask for it.
        state: where it is in its life.
        attempts: how often it was tried to load it.
        last_error: why the last attempt to load it failed.
        error: why it could not be loaded, once it is not tried again.
        asked_back: whether it is aspired to again after it was not, and went on all the while.
        forgotten: whether it has not been aspired to for a time, so that it is loaded anew although
            it has failed.
        session: what answers requests, while it is AVAILABLE or UNLOADING.
        requests: how many requests are under way on it.
    """

    model: str
    number: int
    path: Path
    aspired: bool = True
    state: State = State.START
    attempts: int = 0
    last_error: ServingError | None = None
    error: ServingError | None = None
    asked_back: bool = False
    forgotten: bool = False
    session: Session | None = None
    requests: int = 0

    def __str__(self) -> str:
        return f"{{name: {self.model} version: {self.number}}}"


@dataclass
class Model:
    """Every version that a model has had, by number.

    Attributes:
        versions: all of them, those that have ended too.
    """

    versions: dict[int, Version] = field(default_factory=dict)

    def settled(self) -> Version | None:
        """Return the newest version that is asked for, once it is AVAILABLE or has failed."""
        aspired = [version for version in self.versions.values() if version.aspired]
        newest = max(aspired, key=lambda version: version.number, default=None)
        if newest is None:
            return None
        # One that ended without an error had gone, and is about to be loaded again.
        return newest if newest.state is State.AVAILABLE or newest.error is not None else None

    def available(self) -> list[Version]:
        """Return the versions that answer requests, oldest first."""
        found = (v for v in self.versions.values() if v.state is State.AVAILABLE)
        return sorted(found, key=lambda version: version.number)

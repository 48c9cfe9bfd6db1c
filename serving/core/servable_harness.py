"""A version of a model and its lifecycle."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2

from serving.errors import ServingError
from serving.servables.servable import Servable

_STATE = get_model_status_pb2.ModelVersionStatus.State


class State(IntEnum):
    """A version's states, numbered as in `GetModelStatus`."""

    START = _STATE.Value("START")
    LOADING = _STATE.Value("LOADING")
    AVAILABLE = _STATE.Value("AVAILABLE")
    UNLOADING = _STATE.Value("UNLOADING")
    END = _STATE.Value("END")


@dataclass(eq=False)
class ServableHarness:
    """One version of a model and its state, from the moment it is aspired.

    Attributes:
        name: the model's name.
        version: the version's number.
        path: its directory.
        aspired: whether the base path has it and the policy selects it.
        reaspired: re-aspired before its unload began.
        dropped: not aspired for a time, so that it may be loaded again even if it failed.
        state: its current state.
        attempts: number of attempts to load it.
        last_error: the error of the last attempt; None if it succeeded or there was none.
        error: the error with which it ended; None if it was unloaded.
        servable: answers requests while it is AVAILABLE or UNLOADING.
        requests: the number of requests in progress.
    """

    name: str
    version: int
    path: Path
    aspired: bool = True
    reaspired: bool = False
    dropped: bool = False
    state: State = State.START
    attempts: int = 0
    last_error: ServingError | None = None
    error: ServingError | None = None
    servable: Servable | None = None
    requests: int = 0

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"

    def is_in_first_load(self) -> bool:
        """Return whether the version is not available, but no attempt to load it has failed."""
        return self.state is not State.AVAILABLE and self.last_error is None

    def may_load_again(self) -> bool:
        """Return whether the version has ended and may be loaded again.

        An unloaded version may; a failed one only after it has been dropped.
        """
        return self.state is State.END and (self.error is None or self.dropped)


@dataclass
class ServableStream:
    """All versions of a model by number, including those that have ended."""

    harnesses: dict[int, ServableHarness] = field(default_factory=dict)

    def set_aspired(self, versions: set[int]) -> None:
        """Record which versions are aspired."""
        for harness in self.harnesses.values():
            aspired = harness.version in versions
            is_live = harness.state is not State.END
            harness.reaspired = aspired and is_live and (harness.reaspired or not harness.aspired)
            harness.aspired = aspired
        # TensorFlow Serving postpones a request that re-aspires a version until the version has
        # ended. Until then, no version is dropped.
        if not any(harness.reaspired for harness in self.harnesses.values()):
            for harness in self.harnesses.values():
                harness.dropped |= not harness.aspired

    def newest_aspired(self) -> ServableHarness | None:
        """Return the newest aspired version, if there is one."""
        aspired = [harness for harness in self.harnesses.values() if harness.aspired]
        return max(aspired, key=lambda harness: harness.version, default=None)

    def newest_settled(self) -> ServableHarness | None:
        """Return the newest aspired version if it is AVAILABLE or has failed, else None."""
        newest = self.newest_aspired()
        if newest is None:
            return None
        # A version that ended without an error was unloaded and is about to be loaded again.
        return newest if newest.state is State.AVAILABLE or newest.error is not None else None

    def available(self) -> list[ServableHarness]:
        """Return the versions that are AVAILABLE, oldest first."""
        available = [h for h in self.harnesses.values() if h.state is State.AVAILABLE]
        return sorted(available, key=lambda harness: harness.version)

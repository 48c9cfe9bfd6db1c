"""Worker states in shared memory.

A probe reaches one worker, but its response must hold for the whole service.
"""

from __future__ import annotations

import mmap

_UNKNOWN, _READY, _NOT_READY = 0, 1, 2


class WorkerStates:
    """Two bytes for each worker, and one that says whether the service is stopping.

    Create it before the workers are forked; each then sets its own `slot`.
    """

    def __init__(self, workers: int = 1) -> None:
        self._memory = mmap.mmap(-1, 2 * workers + 1)
        self._workers = workers
        self.slot = 0

    @property
    def draining(self) -> bool:
        """Whether the service should get no new requests."""
        return self._memory[-1] != 0

    def drain(self) -> None:
        """Mark the service as draining."""
        self._memory[-1] = 1

    def clear(self, slot: int) -> None:
        """Clear the state of a worker that has ended."""
        self._memory[slot] = _UNKNOWN
        self._memory[self._workers + slot] = 0

    def set_listening(self, listening: bool) -> None:
        """Set whether this worker accepts connections."""
        self._memory[self._workers + self.slot] = listening

    @property
    def any_listening(self) -> bool:
        """Whether any worker accepts connections."""
        return any(self._memory[self._workers : 2 * self._workers])

    def set_ready(self, ready: bool) -> None:
        """Set whether this worker is ready."""
        self._memory[self.slot] = _READY if ready else _NOT_READY

    def others_not_ready(self) -> int:
        """Return how many of the other workers are not ready."""
        states = self._memory[: self._workers]
        return sum(state == _NOT_READY for slot, state in enumerate(states) if slot != self.slot)

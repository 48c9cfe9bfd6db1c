"""Worker states in shared memory.

A probe reaches one worker, but its response must hold for the whole service.
"""

from __future__ import annotations

import mmap

_UNKNOWN, _READY, _NOT_READY = 0, 1, 2


class WorkerStates:
    """Two bytes for each worker, and one for whether the service is stopping.

    Create it before the workers are forked; each then takes its own `place`.
    """

    def __init__(self, workers: int = 1) -> None:
        self._memory = mmap.mmap(-1, 2 * workers + 1)
        self._workers = workers
        self.place = 0

    @property
    def draining(self) -> bool:
        """Whether the service should get no new requests."""
        return self._memory[-1] != 0

    def drain(self) -> None:
        """Mark the service as draining."""
        self._memory[-1] = 1

    def clear(self, place: int) -> None:
        """Clear the state of a worker that has ended."""
        self._memory[place] = _UNKNOWN
        self._memory[self._workers + place] = 0

    def set_listening(self, listening: bool) -> None:
        """Set whether this worker accepts connections."""
        self._memory[self._workers + self.place] = listening

    @property
    def any_listening(self) -> bool:
        """Whether any worker accepts connections."""
        return any(self._memory[self._workers : 2 * self._workers])

    def set_ready(self, ready: bool) -> None:
        """Set whether this worker is ready."""
        self._memory[self.place] = _READY if ready else _NOT_READY

    def others_not_ready(self) -> int:
        """Return how many of the other workers are not ready."""
        states = self._memory[: self._workers]
        return sum(state == _NOT_READY for place, state in enumerate(states) if place != self.place)

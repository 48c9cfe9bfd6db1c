"""Whether each worker can answer, in memory that all workers share.

A probe reaches any worker; its answer must hold for the whole service.
"""

from __future__ import annotations

import mmap

_UNKNOWN, _READY, _NOT_READY = 0, 1, 2


class WorkerStates:
    """Two bytes for each worker, and one that says that the service is about to stop.

    Create it before the workers are forked; each then takes its own `place`.
    """

    def __init__(self, workers: int = 1) -> None:
        self._memory = mmap.mmap(-1, 2 * workers + 1)
        self._workers = workers
        self.place = 0

    @property
    def draining(self) -> bool:
        """Whether nothing new should be sent to the service."""
        return self._memory[-1] != 0

    def drain(self) -> None:
        """Say from now on that nothing new should be sent."""
        self._memory[-1] = 1

    def clear(self, place: int) -> None:
        """Forget the state of a worker that has ended."""
        self._memory[place] = _UNKNOWN
        self._memory[self._workers + place] = 0

    def set_listening(self, listening: bool) -> None:
        """Note whether this worker accepts connections."""
        self._memory[self._workers + self.place] = listening

    @property
    def any_listening(self) -> bool:
        """Whether a worker accepts connections."""
        return any(self._memory[self._workers : 2 * self._workers])

    def set_ready(self, ready: bool) -> None:
        """Set this worker's state."""
        self._memory[self.place] = _READY if ready else _NOT_READY

    def others_not_ready(self) -> int:
        """Return how many of the other workers cannot answer."""
        states = self._memory[: self._workers]
        return sum(state == _NOT_READY for place, state in enumerate(states) if place != self.place)

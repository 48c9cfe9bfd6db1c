"""Threads for loads, with a timeout after which a load frees its slot."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class _Load:
    run: Callable[[], None]
    on_timeout: Callable[[], None]
    is_over: bool = False


class LoadExecutor:
    """Runs loads in threads of their own, a limited number at once.

    A thread cannot be interrupted. After `timeout` its load no longer counts, so that a file system
    that does not answer cannot hold up later loads.
    """

    def __init__(self, limit: int, timeout: float) -> None:
        """Start without threads.

        Args:
            limit: maximum number of concurrent loads.
            timeout: seconds that a load may take.
        """
        self._limit = limit
        self._timeout = timeout
        self._running = 0
        self._waiting: deque[_Load] = deque()
        self._lock = threading.Lock()

    def submit(self, run: Callable[[], None], on_timeout: Callable[[], None]) -> None:
        """Run a load as soon as a slot is free.

        Args:
            run: the load, which cannot be interrupted.
            on_timeout: called if it takes longer than the timeout.
        """
        with self._lock:
            self._waiting.append(_Load(run, on_timeout))
            self._start_waiting()

    def set_limit(self, limit: int) -> None:
        """Change the maximum number of concurrent loads; running ones continue."""
        with self._lock:
            self._limit = limit
            self._start_waiting()

    def cancel_waiting(self) -> None:
        """Cancel loads that have not begun."""
        with self._lock:
            self._waiting.clear()

    def _start_waiting(self) -> None:
        while self._waiting and self._running < self._limit:
            self._running += 1
            load = self._waiting.popleft()
            threading.Thread(target=self._run, args=(load,), name="load", daemon=True).start()

    def _run(self, load: _Load) -> None:
        timer = threading.Timer(self._timeout, self._time_out, (load,))
        timer.daemon = True
        timer.start()
        try:
            load.run()
        finally:
            timer.cancel()
            self._end(load)

    def _time_out(self, load: _Load) -> None:
        if self._end(load):
            load.on_timeout()

    def _end(self, load: _Load) -> bool:
        """Free a load's slot; return False if it was free already."""
        with self._lock:
            if load.is_over:
                return False
            load.is_over = True
            self._running -= 1
            self._start_waiting()
            return True

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
    slot_freed: bool = False


class LoadExecutor:
    """Runs each load in its own thread, a limited number at once.

    A thread cannot be interrupted. After `timeout`, its load no longer counts towards the limit, so
    that an unresponsive file system cannot block later loads.
    """

    def __init__(self, limit: int, timeout: float) -> None:
        """Start without loads.

        Args:
            limit: maximum number of concurrent loads.
            timeout: seconds that a load may take.
        """
        self._limit = limit
        self._timeout = timeout
        self._running = 0
        self._pending: deque[_Load] = deque()
        self._lock = threading.Lock()

    def submit(self, run: Callable[[], None], on_timeout: Callable[[], None]) -> None:
        """Run a load as soon as a slot is free.

        Args:
            run: the load.
            on_timeout: called if it takes longer than the timeout.
        """
        with self._lock:
            self._pending.append(_Load(run, on_timeout))
            self._start_pending()

    def set_limit(self, limit: int) -> None:
        """Change the maximum number of concurrent loads; running ones continue."""
        with self._lock:
            self._limit = limit
            self._start_pending()

    def cancel_pending(self) -> None:
        """Cancel loads that have not started."""
        with self._lock:
            self._pending.clear()

    def _start_pending(self) -> None:
        while self._pending and self._running < self._limit:
            self._running += 1
            load = self._pending.popleft()
            threading.Thread(target=self._run, args=(load,), name="load", daemon=True).start()

    def _run(self, load: _Load) -> None:
        timer = threading.Timer(self._timeout, self._time_out, (load,))
        timer.daemon = True
        timer.start()
        try:
            load.run()
        finally:
            timer.cancel()
            self._free_slot(load)

    def _time_out(self, load: _Load) -> None:
        if self._free_slot(load):
            load.on_timeout()

    def _free_slot(self, load: _Load) -> bool:
        """Free a load's slot; return False if it was already free."""
        with self._lock:
            if load.slot_freed:
                return False
            load.slot_freed = True
            self._running -= 1
            self._start_pending()
            return True

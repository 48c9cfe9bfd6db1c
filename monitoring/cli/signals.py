"""SIGTERM and SIGINT, which stop the commands that run until then."""

from __future__ import annotations

import signal
import threading
from _thread import start_new_thread


def set_on_signal(stopped: threading.Event) -> None:
    """Let SIGTERM and SIGINT set an event; call it in the main thread."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # Handlers run in the main thread, which may hold the event's lock, so another thread sets
        # the event.
        signal.signal(number, lambda number, frame: start_new_thread(stopped.set, ()))

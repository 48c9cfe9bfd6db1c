"""SIGTERM and SIGINT, which stop long-running commands."""

from __future__ import annotations

import signal
import threading
from _thread import start_new_thread


def set_on_signal(stopped: threading.Event) -> None:
    """Set an event on SIGTERM or SIGINT; call this in the main thread."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # The handler runs in the main thread, which may hold the event's lock, so let another
        # thread set the event.
        signal.signal(number, lambda number, frame: start_new_thread(stopped.set, ()))

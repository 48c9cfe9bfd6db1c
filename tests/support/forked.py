"""Model servers forked from one process that has imported TensorFlow, which takes seconds.

Each is `python -m serving` in all but the import: a process, a session and a log of its own.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.support.processes import Running, listening_address

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.with_tensorflow"])


class Forked:
    """The part of `subprocess.Popen` that tests use, from any thread."""

    # To start a process is also to look which others have ended, and two may not look at once.
    _lock = threading.Lock()

    def __init__(self, process: ForkServerProcess) -> None:
        with self._lock:
            process.start()
        assert process.pid is not None
        self._process = process
        self.pid = process.pid

    def poll(self) -> int | None:
        with self._lock:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("python -m serving", timeout or 0)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(log: Path, *flags: str) -> Running:
    """Start a model server with these flags, and do not wait for it."""
    log.touch()
    process = _context.Process(target=_serve, args=(str(log), flags), daemon=True)
    return Running(Forked(process), log)


def start_model_server(log: Path, *flags: str, port: int = 0) -> Running:
    """Do what `processes.start_model_server` does, in a tenth of the time."""
    running = start(log, "--bind_address=127.0.0.1", f"--port={port}", *flags)
    running.address = listening_address(running)
    return running


def _serve(log: str, flags: tuple[str, ...]) -> None:
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)

    from serving.__main__ import main

    main(list(flags), prog_name="python -m serving")

"""Server processes under load: start, CPU and memory, and stop with all children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
STOP_SECONDS = 10
POLL_SECONDS = 0.01
# Characters of the log to show when a server does not start.
LINES_SHOWN = 5


class StartError(Exception):
    """A server did not start."""


class Server:
    """A process with all its children.

    Attributes:
        started: when, by `time.perf_counter`.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.perf_counter()
        with log.open("wb") as out:
            # Its own session: Ctrl-C is for the benchmark, which then stops it.
            self._process = psutil.Popen(
                command,
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self) -> list[psutil.Process]:
        """Return it and its children."""
        with suppress(psutil.NoSuchProcess):
            return [self._process, *self._process.children(recursive=True)]
        return []

    def wait(self, ready: Callable[[], bool], seconds: float) -> float:
        """Return the seconds from the start until it was ready.

        Raises:
            StartError: it ended, or took too long.
        """
        while not ready():
            took = time.perf_counter() - self.started
            if self._process.poll() is not None or took > seconds:
                lines = self._log.read_text(errors="replace").splitlines()
                said = " / ".join(line.strip() for line in lines[-LINES_SHOWN:])
                raise StartError(f"not ready after {took:.0f} s: {said}")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - self.started

    def stop(self) -> None:
        """Stop the server; kill children that remain or do not react."""
        family = self.processes()
        with suppress(psutil.NoSuchProcess):
            self._process.terminate()
        with suppress(psutil.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        _, alive = psutil.wait_procs(family, timeout=1)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        # The children of a server that has ended are found by their process group.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=STOP_SECONDS)


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[Server]:
    """Run a server while the context lasts."""
    server = Server(command, log, environment)
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_seconds(servers: Iterable[Server]) -> float:
    """Return the seconds of CPU that all processes of the servers have used."""
    total = 0.0
    for server in servers:
        for process in server.processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def memory(server: Server) -> tuple[float, float]:
    """Return the resident MB of the server's largest process, and of all added up."""
    sizes = [0.0]
    for process in server.processes():
        with suppress(psutil.NoSuchProcess):
            sizes.append(process.memory_info().rss / 1e6)
    return max(sizes), sum(sizes)

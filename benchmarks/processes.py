"""Server processes under load: start them, measure CPU and memory, stop them and their children."""

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
# Lines of the log in the error when a server does not start.
LOG_TAIL_LINES = 5


class StartError(Exception):
    """A server did not start; the message ends with the last lines of its log."""


class Server:
    """A process with all its children.

    Attributes:
        started: start time from `time.perf_counter`.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.perf_counter()
        with log.open("wb") as out:
            # Ctrl-C must reach only the benchmark, which then stops its servers.
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
        """Return the process and its children; none if it has ended."""
        with suppress(psutil.NoSuchProcess):
            return [self._process, *self._process.children(recursive=True)]
        return []

    def wait(self, ready: Callable[[], bool], seconds: float) -> float:
        """Wait until `ready` returns true, and return the seconds since the start.

        Raises:
            StartError: the process ended, or was not ready within `seconds`.
        """
        while not ready():
            waited = time.perf_counter() - self.started
            if self._process.poll() is not None or waited > seconds:
                lines = self._log.read_text(errors="replace").splitlines()
                end_of_log = " / ".join(line.strip() for line in lines[-LOG_TAIL_LINES:])
                raise StartError(f"not ready after {waited:.0f} s: {end_of_log}")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - self.started

    def stop(self) -> None:
        """Stop the server, and kill the children that outlive it."""
        processes = self.processes()
        with suppress(psutil.NoSuchProcess):
            self._process.terminate()
        with suppress(psutil.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        _, alive = psutil.wait_procs(processes, timeout=1)
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
    """Return a loopback port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_seconds(servers: Iterable[Server]) -> float:
    """Return the CPU seconds used by all processes of the servers."""
    total = 0.0
    for server in servers:
        for process in server.processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def memory(server: Server) -> tuple[float, float]:
    """Return the resident MB of the server's largest process, and of all its processes."""
    sizes = [0.0]
    for process in server.processes():
        with suppress(psutil.NoSuchProcess):
            sizes.append(process.memory_info().rss / 1e6)
    return max(sizes), sum(sizes)

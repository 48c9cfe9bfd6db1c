"""The HTTP server: a parent process that holds the listening socket, and its workers.

Signals to the parent: SIGTERM and SIGINT stop the service, and a second one skips the drain delay;
SIGHUP replaces the workers one by one.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from contextlib import suppress

from prometheus_client import multiprocess

from client.http.access_log import set_up_logs
from client.http.worker import (
    BACKLOG,
    DRAIN_SECONDS,
    PARENT_CHECK_SECONDS,
    PARENT_SIGNALS,
    work,
)
from client.http.worker_states import WorkerStates
from client.observability.metrics import SHARED
from client.settings import Settings

log = logging.getLogger(__name__)

KILL_SECONDS = 3
# A worker that dies within this time of its start is not replaced at once.
RESPAWN_SECONDS = 1.0
# Time limit for a new worker to accept connections.
READY_SECONDS = 30.0
_STOP = (signal.SIGTERM, signal.SIGINT)


class PortTakenError(OSError):
    """The server cannot listen on the address."""


class UnknownSettingError(ValueError):
    """An environment variable looks like a setting but is unknown."""


def serve_http(settings: Settings) -> None:
    """Serve the application until SIGTERM or SIGINT, then finish requests in flight.

    Raises:
        PortTakenError: the port is taken, or the address is not this machine's.
        UnknownSettingError: a `CLIENT_` variable is not a setting.
    """
    unknown, links = Settings.unknown(os.environ)
    if unknown:
        raise UnknownSettingError(
            f"{', '.join(unknown)}: no such setting; docs/settings.md lists all of them"
        )
    listener = _listen(settings)
    set_up_logs()
    for name in links:
        log.warning("%s is not a setting; Kubernetes sets it for a service named client", name)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    log.info(
        "serving model %s of %s on http://%s:%d",
        *(settings.model, settings.server, host, listener.getsockname()[1]),
    )
    _Parent(settings, listener).run()


class _Worker:
    """A worker process.

    Attributes:
        place: its number among the workers.
        pid: its process id.
        started: when it was started.
    """

    def __init__(self, place: int, pid: int, ready: int) -> None:
        self.place = place
        self.pid = pid
        self.started = time.monotonic()
        self._ready = ready

    def wait_until_ready(self) -> bool:
        """Wait until the worker accepts connections; False if it ends or takes too long."""
        readable, _, _ = select.select([self._ready], [], [], READY_SECONDS)
        return bool(readable) and os.read(self._ready, 1) == b"r"

    def close(self) -> None:
        """Release the parent's resources for a worker that has ended."""
        os.close(self._ready)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class _Parent:
    """Starts workers, replaces those that die, and stops them."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        # During a replacement there are up to twice as many workers.
        self._states = WorkerStates(2 * settings.workers)
        self._places = set(range(2 * settings.workers))
        self._workers: dict[int, _Worker] = {}
        self._leaving: set[int] = set()

    def run(self) -> None:
        """Run until a signal stops the service."""
        signal.pthread_sigmask(signal.SIG_BLOCK, PARENT_SIGNALS)
        for _ in range(self._settings.workers):
            self._start()
        while True:
            number = signal.sigwait(PARENT_SIGNALS)
            if number in _STOP:
                break
            if number == signal.SIGHUP:
                self._replace_all()
            self._reap()
        self._stop()

    def _start(self) -> _Worker:
        place = self._places.pop()
        reading, writing = os.pipe()
        # Forking is safe: the parent has no threads and no gRPC channels.
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            work(self._settings, self._states, place, self._listener, writing)
        os.close(writing)
        worker = _Worker(place, pid, reading)
        self._workers[pid] = worker
        return worker

    def _reap(self) -> None:
        """Replace workers that have died."""
        for pid in self._ended():
            worker = self._workers.pop(pid)
            self._states.clear(worker.place)
            self._places.add(worker.place)
            if pid in self._leaving:
                self._leaving.discard(pid)
                continue
            log.error("worker %d ended; starting another", pid)
            if time.monotonic() - worker.started < RESPAWN_SECONDS:
                time.sleep(RESPAWN_SECONDS)
            self._start()

    def _ended(self) -> list[int]:
        found = []
        for pid in list(self._workers):
            if os.waitpid(pid, os.WNOHANG)[0]:
                found.append(pid)
                self._workers[pid].close()
                if SHARED:
                    multiprocess.mark_process_dead(pid)
        return found

    def _replace_all(self) -> None:
        """Replace workers one by one; each successor is ready before the old one stops."""
        log.info("replacing the workers")
        for old in [w for w in self._workers.values() if w.pid not in self._leaving]:
            if not self._places or not self._start().wait_until_ready():
                log.error("cannot start a new worker; keeping the old ones")
                return
            self._leaving.add(old.pid)
            old.signal(signal.SIGTERM)

    def _stop(self) -> None:
        self._states.drain()
        if self._settings.drain_delay:
            # A second signal skips the delay.
            signal.sigtimedwait(_STOP, self._settings.drain_delay)
        self._listener.close()
        for worker in self._workers.values():
            worker.signal(signal.SIGTERM)
        end = time.monotonic() + DRAIN_SECONDS + KILL_SECONDS
        while self._workers:
            for pid in self._ended():
                self._states.clear(self._workers.pop(pid).place)
            left = end - time.monotonic()
            if left <= 0:
                for worker in self._workers.values():
                    worker.signal(signal.SIGKILL)
                    os.waitpid(worker.pid, 0)
                return
            if self._workers:
                number = signal.sigtimedwait(PARENT_SIGNALS, min(left, PARENT_CHECK_SECONDS))
                if number is not None and number.si_signo in _STOP:
                    end = min(end, time.monotonic() + KILL_SECONDS)


def _listen(settings: Settings) -> socket.socket:
    """Return the socket that all workers accept connections from."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        raise PortTakenError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        ) from error
    return listener

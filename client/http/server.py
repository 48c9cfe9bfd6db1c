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
    run_worker,
)
from client.http.worker_states import WorkerStates
from client.observability.metrics import SHARED
from client.settings import Settings

log = logging.getLogger(__name__)

KILL_SECONDS = 3
# A worker that dies within this time of its start is not replaced immediately.
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
        PortTakenError: the port is taken, or the address does not belong to this machine.
        UnknownSettingError: a `CLIENT_` variable is not a setting.
    """
    unknown, links = Settings.unknown_names(os.environ)
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
        slot: its index in the shared worker states.
        pid: its process id.
        started: when it was started.
    """

    def __init__(self, slot: int, pid: int, ready_fd: int) -> None:
        self.slot = slot
        self.pid = pid
        self.started = time.monotonic()
        self._ready_fd = ready_fd

    def wait_until_ready(self) -> bool:
        """Wait until the worker accepts connections; False if it ends or takes too long."""
        readable, _, _ = select.select([self._ready_fd], [], [], READY_SECONDS)
        return bool(readable) and os.read(self._ready_fd, 1) == b"r"

    def close(self) -> None:
        """Release the parent's resources for a worker that has ended."""
        os.close(self._ready_fd)

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
        self._slots = set(range(2 * settings.workers))
        self._workers: dict[int, _Worker] = {}
        self._retiring: set[int] = set()

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
        slot = self._slots.pop()
        read_end, write_end = os.pipe()
        # Forking is safe: the parent has no threads and no gRPC channels.
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            run_worker(self._settings, self._states, slot, self._listener, write_end)
        os.close(write_end)
        worker = _Worker(slot, pid, read_end)
        self._workers[pid] = worker
        return worker

    def _reap(self) -> None:
        """Replace workers that have died."""
        for pid in self._collect_ended():
            worker = self._workers.pop(pid)
            self._states.clear(worker.slot)
            self._slots.add(worker.slot)
            if pid in self._retiring:
                self._retiring.discard(pid)
                continue
            log.error("worker %d ended; starting another", pid)
            if time.monotonic() - worker.started < RESPAWN_SECONDS:
                time.sleep(RESPAWN_SECONDS)
            self._start()

    def _collect_ended(self) -> list[int]:
        pids = []
        for pid in list(self._workers):
            if os.waitpid(pid, os.WNOHANG)[0]:
                pids.append(pid)
                self._workers[pid].close()
                if SHARED:
                    multiprocess.mark_process_dead(pid)
        return pids

    def _replace_all(self) -> None:
        """Replace workers one by one; each successor is ready before the old one stops."""
        log.info("replacing the workers")
        for old in [w for w in self._workers.values() if w.pid not in self._retiring]:
            if not self._slots or not self._start().wait_until_ready():
                log.error("cannot start a new worker; keeping the old ones")
                return
            self._retiring.add(old.pid)
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
            for pid in self._collect_ended():
                self._states.clear(self._workers.pop(pid).slot)
            remaining = end - time.monotonic()
            if remaining <= 0:
                for worker in self._workers.values():
                    worker.signal(signal.SIGKILL)
                    os.waitpid(worker.pid, 0)
                return
            if self._workers:
                number = signal.sigtimedwait(PARENT_SIGNALS, min(remaining, PARENT_CHECK_SECONDS))
                if number is not None and number.si_signo in _STOP:
                    end = min(end, time.monotonic() + KILL_SECONDS)


def _listen(settings: Settings) -> socket.socket:
    """Return the socket that all workers accept connections from."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        raise PortTakenError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        ) from error
    return listener

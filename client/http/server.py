"""The HTTP server: a parent process that holds the listening socket, and its workers.

Signals to the parent: SIGTERM and SIGINT stop the service, and a second one skips the drain delay;
SIGHUP replaces the workers one by one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import uvicorn
from prometheus_client import multiprocess

from client.http.access_log import set_up_logs
from client.http.asgi import Application
from client.http.protocol import ApiProtocol
from client.http.worker_states import WorkerStates
from client.observability.metrics import SHARED
from client.settings import Settings

log = logging.getLogger(__name__)

# Time limit for requests in flight after SIGTERM.
DRAIN_SECONDS = 10
KILL_SECONDS = 3
PARENT_CHECK_SECONDS = 0.2
# A worker that dies within this time of its start is not replaced at once.
RESPAWN_SECONDS = 1.0
# Time limit for a new worker to accept connections.
READY_SECONDS = 30.0
# Time limit for all workers to stop accepting.
CLOSE_SECONDS = 2.0
BACKLOG = 2048
_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
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
        """Release the parent's resources of a worker that has ended."""
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
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for _ in range(self._settings.workers):
            self._start()
        while True:
            number = signal.sigwait(_SIGNALS)
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
            _work(self._settings, self._states, place, self._listener, writing)
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
                number = signal.sigtimedwait(_SIGNALS, min(left, PARENT_CHECK_SECONDS))
                if number is not None and number.si_signo in _STOP:
                    end = min(end, time.monotonic() + KILL_SECONDS)


class _Server(uvicorn.Server):
    """uvicorn's server, stopped by the worker's own signal handlers."""

    def __init__(self, config: uvicorn.Config, states: WorkerStates, ready: int) -> None:
        super().__init__(config)
        self._states = states
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM only: Ctrl-C reaches every process, and the parent decides."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and notify the parent."""
        await super().startup(sockets)
        self._states.set_listening(True)
        os.write(self._ready, b"r")
        os.close(self._ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, then finish requests in flight.

        Callers reconnect as soon as their connection is closed. The new connection would be reset
        if another worker then stopped accepting, so all workers stop before any closes connections.
        """
        for server in self.servers:
            server.close()
        for one in sockets or ():
            one.close()
        self._states.set_listening(False)
        end = time.monotonic() + CLOSE_SECONDS
        while self._states.draining and self._states.any_listening and time.monotonic() < end:
            await asyncio.sleep(CLOSE_SECONDS / 100)
        await super().shutdown(sockets)

    def _stop(self) -> None:
        self.should_exit = True


def _work(
    settings: Settings, states: WorkerStates, place: int, listener: socket.socket, ready: int
) -> NoReturn:
    """Answer requests in a worker process until SIGTERM, then end the process."""
    status = 1
    try:
        states.place = place
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        config = uvicorn.Config(
            Application(settings, states),
            loop="uvloop",
            http=ApiProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        _Server(config, states, ready).run(sockets=[listener])
        status = 0
    except Exception:
        log.exception("a worker failed")
    finally:
        logging.shutdown()
        # Skip the exit handlers, which belong to the parent.
        os._exit(status)


def _end_with(parent: int) -> None:
    """End this process if its parent is killed, since it would keep the port."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)


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

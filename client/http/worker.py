"""A worker of the HTTP server: a process that answers requests until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import uvicorn

from client.http.asgi import Application
from client.http.protocol import ApiProtocol
from client.http.worker_states import WorkerStates
from client.settings import Settings

log = logging.getLogger(__name__)

# Signals that only the parent handles until a worker's own handlers are set.
PARENT_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
# Time limit for requests in flight after SIGTERM.
DRAIN_SECONDS = 10
PARENT_CHECK_SECONDS = 0.2
# Time limit for all workers to stop accepting.
CLOSE_SECONDS = 2.0
BACKLOG = 2048


class _Server(uvicorn.Server):
    """uvicorn's server, stopped by the worker's own signal handlers."""

    def __init__(self, config: uvicorn.Config, states: WorkerStates, ready_fd: int) -> None:
        super().__init__(config)
        self._states = states
        self._ready_fd = ready_fd

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM only: Ctrl-C reaches every process, and the parent decides."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENT_SIGNALS)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and notify the parent."""
        await super().startup(sockets)
        self._states.set_listening(True)
        os.write(self._ready_fd, b"r")
        os.close(self._ready_fd)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, then finish requests in flight.

        Callers reconnect as soon as their connection is closed. The new connection would be reset
        if another worker then stopped accepting, so all stop before any closes a connection.
        """
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        self._states.set_listening(False)
        end = time.monotonic() + CLOSE_SECONDS
        while self._states.draining and self._states.any_listening and time.monotonic() < end:
            await asyncio.sleep(CLOSE_SECONDS / 100)
        await super().shutdown(sockets)

    def _stop(self) -> None:
        self.should_exit = True


def run_worker(
    settings: Settings, states: WorkerStates, slot: int, listener: socket.socket, ready_fd: int
) -> NoReturn:
    """Answer requests in this worker process until SIGTERM, then exit."""
    status = 1
    try:
        states.slot = slot
        threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
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
        _Server(config, states, ready_fd).run(sockets=[listener])
        status = 0
    except Exception:
        log.exception("a worker failed")
    finally:
        logging.shutdown()
        # Skip the exit handlers, which belong to the parent.
        os._exit(status)


def _exit_with_parent(parent: int) -> None:
    """Exit when the parent is killed, since this process would keep the port."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)

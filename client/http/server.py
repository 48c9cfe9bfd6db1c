"""The HTTP server: it starts the processes that answer, and stops them with care."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import suppress

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels

from client.http.access_log import set_up_logs
from client.http.asgi import DRAIN_SIGNAL, Entry
from client.settings import Settings

log = logging.getLogger(__name__)

# How long requests under way may go on once the server was told to stop.
DRAIN_SECONDS = 10
PARENT_CHECK_SECONDS = 0.2
# In which a request's head must have arrived; one that has begun holds up a stop for so long.
HEADER_MILLISECONDS = 5_000
# Of a request's head; also the largest piece in which a body arrives.
BUFFER_BYTES = 128 * 1024
BACKLOG = 2048
# Of one process; requests are limited by a setting, and told so.
MOST_CONNECTIONS = 16_384


class PortTakenError(OSError):
    """The address cannot be listened on."""


class _Server(Granian):  # type: ignore[misc,valid-type]
    """Says no at /readyz before it stops listening, so that senders can turn elsewhere."""

    drain_delay = 0.0

    def signal_handler_interrupt(self, *args: object) -> None:
        # Who asks twice is in a hurry, and may do so before this has run to its end.
        delay, self.drain_delay = self.drain_delay, 0.0
        for worker in self.wrks:
            with suppress(ProcessLookupError):
                os.kill(worker.inner.pid, DRAIN_SIGNAL)
        timer = threading.Timer(delay, super().signal_handler_interrupt)
        timer.daemon = True
        timer.start()


def serve_http(settings: Settings) -> None:
    """Serve the application until SIGTERM or SIGINT, then let requests under way end.

    Args:
        settings: where to listen; the workers read their own from the environment.

    Raises:
        PortTakenError: the port is taken, or the address is not this machine's.
    """
    server = _Server(
        "client.http.server:worker_app",
        factory=True,
        address=_checked_address(settings),
        port=settings.port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        # One Rust thread reads and writes HTTP; more of them only compete with Python for the CPU.
        runtime_mode=RuntimeModes.st,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            header_read_timeout=HEADER_MILLISECONDS, max_buffer_size=BUFFER_BYTES
        ),
        workers=settings.workers,
        backlog=BACKLOG,
        backpressure=MOST_CONNECTIONS,
        respawn_failed_workers=True,
        workers_kill_timeout=DRAIN_SECONDS,
        websockets=False,
        log_level=LogLevels.error,
    )
    server.drain_delay = settings.drain_delay
    set_up_logs()
    for name in Settings.unknown(os.environ):
        log.warning("%s is not a setting; see the README's table", name)
    log.info(
        "serving model %s of %s on http://%s:%d",
        *(settings.model, settings.server, settings.host, settings.port),
    )
    server.serve()


def worker_app() -> Entry:
    """Make the application in a worker process, which is not to outlive the main process."""
    set_up_logs()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return Entry(Settings())


def _end_with(parent: int) -> None:
    """End this process when its parent was killed: nobody else would, and it holds the port."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)


def _checked_address(settings: Settings) -> str:
    """Return the IP address to listen on, having tried to.

    It is better to fail in one line now, than in a worker that is started again for ever.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        raise PortTakenError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        ) from error
    return str(where[0])

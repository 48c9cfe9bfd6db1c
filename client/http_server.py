"""The production WSGI server in front of the Flask application."""

from __future__ import annotations

import os
import socket
import threading
import time

from flask import Flask
from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from client.app import create_app
from client.settings import Settings

# How long requests under way may go on once the server was told to stop.
DRAIN_SECONDS = 10
PARENT_CHECK_SECONDS = 0.2


class PortTakenError(OSError):
    """The address cannot be listened on."""


def serve_http(settings: Settings) -> None:
    """Serve the application until SIGTERM or SIGINT, then let requests under way end.

    Args:
        settings: where to listen; the worker reads its own from the environment.

    Raises:
        PortTakenError: the port is taken, or the address is not this machine's.
    """
    address = _checked_address(settings)
    Granian(
        "client.http_server:worker_app",
        factory=True,
        address=address,
        port=settings.port,
        interface=Interfaces.WSGI,
        # One worker, so that /metrics tells the whole truth; Flask's work is done in its threads.
        workers=1,
        blocking_threads=settings.threads,
        respawn_failed_workers=True,
        workers_kill_timeout=DRAIN_SECONDS,
        websockets=False,
        log_level=LogLevels.error,
    ).serve()


def worker_app() -> Flask:
    """Make the application in a worker process, which is not to outlive the main process."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return create_app()


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

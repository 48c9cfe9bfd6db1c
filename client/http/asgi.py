"""The ASGI application of a worker: opens the gateway, and passes requests to Flask.

API requests do not reach it: `client.http.protocol` hands them to the gateway.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from a2wsgi import WSGIMiddleware

from client.http.connections import Connections
from client.http.flask_app import create_app
from client.http.flask_bridge import Bridge
from client.http.gateway import Gateway
from client.http.worker_states import WorkerStates
from client.settings import Settings

log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

GARBAGE_THRESHOLD = 10_000


class Application:
    """The application of one process; the gateway is created when the event loop starts."""

    def __init__(self, settings: Settings, states: WorkerStates) -> None:
        self._settings = settings
        self._states = states
        self._flask: Any = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle a request, or the lifespan events."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(scope, receive, send)
        else:
            await self._flask(scope, receive, send)

    async def _run_lifespan(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        try:
            await receive()
            async with Gateway(self._settings, self._states) as gateway:
                connections = Connections(self._settings, gateway.metrics)
                # Each connection's protocol finds them here.
                scope["state"].update(gateway=gateway, connections=connections)
                sweeper = asyncio.create_task(connections.sweep())
                bridge = Bridge(gateway, asyncio.get_running_loop())
                flask: Any = create_app(self._settings, lambda: bridge)
                self._flask = WSGIMiddleware(flask, workers=self._settings.threads)
                # Modules and routes are permanent; scanning them for garbage takes a tenth of the
                # time and delays every request.
                gc.freeze()
                gc.set_threshold(GARBAGE_THRESHOLD)
                await send({"type": "lifespan.startup.complete"})
                await receive()
                sweeper.cancel()
                with suppress(asyncio.CancelledError):
                    await sweeper
        except Exception:
            # Otherwise the server would continue and answer every request with an error.
            log.exception("the application failed")
            os._exit(1)
        await send({"type": "lifespan.shutdown.complete"})

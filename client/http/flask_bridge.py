"""Bridges from threads to the gateway's event loop; the gateway is started if necessary."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from client.http.gateway import Gateway
from client.settings import Settings

T = TypeVar("T")


class Bridge:
    """Runs coroutines on the gateway's event loop for waiting threads."""

    def __init__(self, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> None:
        self.gateway = gateway
        self._loop = loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the gateway's event loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class BackgroundGateway:
    """Starts a gateway in a thread on the first request.

    Forking servers may import the application before the serving process exists.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._bridge: Bridge | None = None

    def bridge(self) -> Bridge:
        """Return the bridge to the gateway."""
        with self._lock:
            if self._bridge is None:
                self._bridge = self._start()
            return self._bridge

    def _start(self) -> Bridge:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="gateway", daemon=True)
        thread.start()
        try:
            gateway = asyncio.run_coroutine_threadsafe(self._open(), loop).result()
        except BaseException:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
            raise
        return Bridge(gateway, loop)

    async def _open(self) -> Gateway:
        return await Gateway(self._settings).__aenter__()

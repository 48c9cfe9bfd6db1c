"""The ASGI application: the API is answered on the event loop, everything else by Flask.

Flask's request cycle and a thread for each request cost more than a prediction, so requests to the
API take a short way. What both do is the same, in `client.http.pipeline`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import Any

from asgiref.sync import ThreadSensitiveContext
from asgiref.wsgi import WsgiToAsgi

from client.errors import ClientError, UnavailableError
from client.http.endpoints.tables import is_table
from client.http.flask_app import create_app
from client.http.flask_bridge import Bridge
from client.http.messages import HttpReply, HttpRequest
from client.http.pipeline import Gateway
from client.http.request_body import Bodies, Receive
from client.http.routing import Route
from client.settings import Settings

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]

# The parent process sends it before anything else when the service is to stop.
DRAIN_SIGNAL = signal.SIGUSR1
GARBAGE_THRESHOLD = 10_000
NO_SNIFFING = (b"x-content-type-options", b"nosniff")


class Entry:
    """The application of one process; what belongs to the event loop is made when that starts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._bodies = Bodies(settings.max_body_bytes, settings.body_timeout)
        self._under_way = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or follow the server's life."""
        if scope["type"] != "http":
            await self._live(receive, send)
            return
        gateway, method = self._gateway, scope["method"]
        path = scope["raw_path"].decode("latin-1")
        route = gateway.route(path)
        headers = _headers(scope["headers"])
        query = scope["query_string"].decode("latin-1")
        self._under_way += 1
        try:
            if self._under_way > self._settings.max_requests and (route is None or route.limited):
                raise UnavailableError(f"{self._under_way - 1} requests are under way already")
            if route is not None and route.stream and method == "POST" and is_table(headers):
                request = HttpRequest(method, path, query, headers)
                await self._stream(request, route, receive, send)
                return
            if route is not None:
                gateway.caller(headers, route)  # whoever may not ask need not be listened to
            body = await self._bodies.read(headers, receive)
            if route is None:
                await self._ask_flask(scope, body, send)
                return
            reply = await gateway.handle(HttpRequest(method, path, query, headers, body), route)
        except ClientError as error:
            reply = gateway.refuse(HttpRequest(method, path, query, headers), route, error)
        finally:
            self._under_way -= 1
        await _send(reply, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        try:
            await self._run(receive, send)
        except Exception:
            # The server would go on without a word, and answer each request with an error.
            log.exception("the application ended")
            os._exit(1)

    async def _run(self, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            await receive()
            self._gateway = await stack.enter_async_context(Gateway(self._settings))
            loop = asyncio.get_running_loop()
            bridge = Bridge(self._gateway, loop)
            self._flask = WsgiToAsgi(create_app(self._settings, lambda: bridge))
            self._threads = asyncio.Semaphore(self._settings.threads)
            loop.add_signal_handler(DRAIN_SIGNAL, self._gateway.drain)
            # Ctrl-C reaches every process of the terminal; when to stop is the parent's to say.
            loop.add_signal_handler(signal.SIGINT, lambda: None)
            # What is there now stays; to look through it again and again for garbage takes a tenth
            # of all time, and holds up every request.
            gc.freeze()
            gc.set_threshold(GARBAGE_THRESHOLD)
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _stream(
        self, request: HttpRequest, route: Route, receive: Receive, send: Send
    ) -> None:
        chunks = self._bodies.chunks(request.headers, receive, self._settings.max_table_bytes)
        reply = await self._gateway.stream(request, route, chunks)
        if isinstance(reply, HttpReply):
            await _send(reply, send)
            return
        await send(_beginning(200, reply.content_type, reply.headers))
        async for piece in reply.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _ask_flask(self, scope: dict[str, Any], body: bytes, send: Send) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def forward(message: dict[str, Any]) -> None:
            await send(message)  # the bridge wants to be sure that it is a coroutine function

        # A thread of its own, so that one request to Flask does not wait for another.
        async with self._threads, ThreadSensitiveContext():
            await self._flask(scope, receive, forward)


def _headers(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name in lower case; of those that came twice, all, with commas."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
    if len(headers) != len(raw):
        for name in headers:
            values = [value for other, value in raw if other.decode("latin-1") == name]
            headers[name] = b", ".join(values).decode("latin-1")
    return headers


async def _send(reply: HttpReply, send: Send) -> None:
    await send(_beginning(reply.status, reply.content_type, reply.headers))
    await send({"type": "http.response.body", "body": reply.body})


@lru_cache(maxsize=256)
def _beginning(
    status: int, content_type: str, further: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    headers = [(b"content-type", content_type.encode("latin-1")), NO_SNIFFING]
    for name, value in further:
        headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
    return {"type": "http.response.start", "status": status, "headers": headers}

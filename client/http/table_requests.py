"""Requests whose bodies are tables or feedback, answered as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from client.http.endpoints.tables import StreamReply, Tables
from client.http.jobs import ApiJob
from client.http.messages import HttpReply, HttpRequest
from client.http.recorder import Recorder
from client.http.responder import Responder
from client.http.routing import Route
from client.http.timeouts import request_timeout
from client.observability.request_context import REQUESTS
from client.serving.deadlines import Deadline


class TableRequests:
    """Answers and records requests whose bodies are streamed."""

    def __init__(
        self, tables: Tables, recorder: Recorder, responder: Responder, timeout: float
    ) -> None:
        self._tables = tables
        self._recorder = recorder
        self._responder = responder
        self._timeout = timeout

    async def answer(self, request: HttpRequest, route: Route, caller: str | None) -> HttpReply:
        """Answer a complete body, for servers without streaming."""

        async def chunks() -> AsyncIterator[bytes]:
            yield request.body

        reply = await self._answer(request, route, caller, chunks())
        if isinstance(reply, HttpReply):
            return reply
        body = b"".join([piece async for piece in reply.pieces])
        return HttpReply(body, 200, reply.content_type, reply.headers)

    async def stream(
        self, request: HttpRequest, route: Route, caller: str | None, chunks: AsyncIterator[bytes]
    ) -> HttpReply | StreamReply:
        """Begin to answer a body that is still arriving; an error response is not streamed.

        Args:
            request: the request without its body.
            route: its route, which accepts such bodies.
            caller: the name of its API key.
            chunks: the body.
        """
        job = ApiJob(request, route, caller, Deadline(self._timeout))
        job.context = self._recorder.begin(request, route)
        REQUESTS.set((job.context,) if job.context is not None else ())
        reply: HttpReply | StreamReply
        try:
            reply = await self._answer(request, route, caller, chunks)
        except asyncio.CancelledError:
            self._recorder.cancel(job.context)
            raise
        except Exception as error:
            reply = self._responder.error(request, error)
        if isinstance(reply, StreamReply):
            reply = replace(reply, pieces=self._recorder.end_after(job.context, reply.pieces))
            return replace(reply, headers=self._responder.record(job, 200, reply.headers, None))
        headers = self._responder.record(job, reply.status, reply.headers, reply.body)
        self._recorder.end(job.context, reply.status)
        return reply._replace(headers=headers)

    async def _answer(
        self, request: HttpRequest, route: Route, caller: str | None, chunks: AsyncIterator[bytes]
    ) -> HttpReply | StreamReply:
        seconds = request_timeout(request, self._timeout)
        if route.upload is not None:
            return await route.upload(request, caller, chunks, Deadline(seconds))
        assert route.table is not None
        return await self._tables.answer(route.table, request, caller, chunks, seconds)

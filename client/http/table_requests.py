"""Requests whose bodies are tables or feedback, answered as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from client.http.endpoints.tables import StreamResponse, Tables
from client.http.jobs import ApiJob
from client.http.messages import HttpRequest, HttpResponse
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

    async def answer(self, request: HttpRequest, route: Route, caller: str | None) -> HttpResponse:
        """Answer a complete body, for servers without streaming."""

        async def chunks() -> AsyncIterator[bytes]:
            yield request.body

        response = await self._answer(request, route, caller, chunks())
        if isinstance(response, HttpResponse):
            return response
        body = b"".join([piece async for piece in response.pieces])
        return HttpResponse(body, 200, response.content_type, response.headers)

    async def stream(
        self, request: HttpRequest, route: Route, caller: str | None, chunks: AsyncIterator[bytes]
    ) -> HttpResponse | StreamResponse:
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
        response: HttpResponse | StreamResponse
        try:
            response = await self._answer(request, route, caller, chunks)
        except asyncio.CancelledError:
            self._recorder.cancel(job.context)
            raise
        except Exception as error:
            response = self._responder.error(request, error)
        if isinstance(response, StreamResponse):
            response = replace(
                response, pieces=self._recorder.end_after(job.context, response.pieces)
            )
            return replace(
                response, headers=self._responder.record(job, 200, response.headers, None)
            )
        headers = self._responder.record(job, response.status, response.headers, response.body)
        self._recorder.end(job.context, response.status)
        return response._replace(headers=headers)

    async def _answer(
        self, request: HttpRequest, route: Route, caller: str | None, chunks: AsyncIterator[bytes]
    ) -> HttpResponse | StreamResponse:
        seconds = request_timeout(request, self._timeout)
        if route.upload is not None:
            return await route.upload(request, caller, chunks, Deadline(seconds))
        assert route.table is not None
        return await self._tables.answer(route.table, request, caller, chunks, seconds)

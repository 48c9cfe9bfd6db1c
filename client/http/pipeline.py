"""The one place that every request to the API passes, whichever server has received it."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

from client.errors import ClientError
from client.http import access_log as access
from client.http.api_keys import ApiKeys
from client.http.endpoints.docs import DocsApi
from client.http.endpoints.oip import OipApi
from client.http.endpoints.operations import OperationsApi
from client.http.endpoints.predict import FriendlyApi
from client.http.endpoints.tables import StreamReply, Tables, is_table
from client.http.endpoints.tfs_rest import RestApi
from client.http.messages import HttpReply, HttpRequest
from client.http.replies import error_reply
from client.http.routing import Api, Route
from client.inference.batching import Limits
from client.inference.predictor import Predictor
from client.observability import tracing
from client.observability.metrics import Metrics
from client.observability.request_context import JOURNEYS, Journey
from client.serving import deadlines
from client.serving.client import AsyncModelServer
from client.serving.deadlines import Deadline
from client.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_HEADER = "x-request-timeout"
TIMING_HEADER = "Server-Timing"
# Callers may make up any other, and each would be a time series.
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
ROUTES_KEPT, LONGEST_KEPT = 1024, 256
# Statuses from here on say that something is wrong on our side.
ERROR = 500

Reply = TypeVar("Reply", HttpReply, StreamReply, HttpReply | StreamReply)


class Gateway:
    """Answers requests to the API with a model server.

    It is made on the event loop that it belongs to, in the process that serves.

    Attributes:
        settings: of the application.
        metrics: of this process.
        core: predicts.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._tracing = tracing.start()
        self._followed = settings.server_timing or self._tracing is not None
        self._server = AsyncModelServer(
            settings.server,
            timeout=settings.timeout,
            tls=settings.tls,
            observe=self.metrics.observe_call,
            tracing=self._tracing,
        )
        limits = Limits(rows=settings.batch_rows, waiting=settings.max_waiting)
        self._keys = ApiKeys(settings.api_keys) if settings.api_keys else None
        self.core = Predictor(
            self._server,
            limits,
            self.metrics.observe_batch,
            self.metrics.observe_out_of_range,
            refuse_outside=settings.out_of_range == "refuse",
        )
        self._routes: dict[str, Route] = {}
        self._operations = OperationsApi(self.core, self.metrics, settings.model)
        self._tables = Tables(self.core)
        friendly = FriendlyApi(self.core, settings.model)
        # Each dialect plugs in here, with everything below its first segment.
        self._apis: dict[str, Api] = {
            "predict": friendly,
            "explain": friendly,
            "v1": RestApi(self.core, cors=settings.cors),
            "v2": OipApi(self.core, self._operations),
            "livez": self._operations,
            "readyz": self._operations,
            "metrics": self._operations,
            "openapi.json": DocsApi(self.core, settings.model, keys=self._keys is not None),
        }

    async def __aenter__(self) -> Gateway:
        await self.core.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.core.__aexit__(kind, error, traceback)
        await self._server.close()
        if self._tracing is not None:
            self._tracing.close()

    def drain(self) -> None:
        """Say from now on that nothing new should be sent here; all that comes is answered."""
        self._operations.draining = True

    def route(self, path: str) -> Route | None:
        """Return what answers a path, None if it is none of the API's."""
        route = self._routes.get(path)
        if route is not None:
            return route
        api = self._apis.get(path.split("/", 2)[1].lower()) if path.startswith("/") else None
        route = api.route(path) if api else None
        # Most requests are to few paths; but anybody can ask for any, of any length.
        if route is not None and len(path) <= LONGEST_KEPT and len(self._routes) < ROUTES_KEPT:
            self._routes[path] = route
        return route

    async def handle(self, request: HttpRequest, route: Route | None = None) -> HttpReply:
        """Answer a request; whatever goes wrong is told in the reply.

        Args:
            request: it, as it came.
            route: what answers its path, if that has been looked up.
        """
        route = route or self.route(request.path)
        if not self._followed or route is None or not route.limited:
            return await self._handle(request, route)
        started, journey, status = deadlines.now(), self._set_out(request, route), None
        try:
            reply = await self._handle(request, route)
            status = reply.status
        finally:
            self._arrive(journey, status)
        return reply._replace(headers=(*reply.headers, *self._timing(journey, started)))

    async def _handle(self, request: HttpRequest, route: Route | None) -> HttpReply:
        started = deadlines.now()
        method, metrics = request.method, self.metrics
        caller: str | None = None
        metrics.begin()
        try:
            if self._keys is not None:
                caller = self.caller(request.headers, route)
            if route is None:
                raise ClientError(f"{method} {request.path}: Not Found", 404)
            methods = route.methods
            if methods and method not in methods and not (method == "HEAD" and "GET" in methods):
                reply = _not_allowed(request, methods)
            elif route.stream and method == "POST" and is_table(request.headers):
                reply = await self._answer_whole_table(request, route)
            else:
                reply = await route.handle(request, self._deadline(request))
        except ClientError as error:
            reply = error_reply(error)
        except Exception:
            reply = self._failed(request)
        finally:
            metrics.end()
        return self._recorded(request, route, reply, caller, deadlines.now() - started)

    def caller(self, headers: Mapping[str, str], route: Route | None = None) -> str | None:
        """Return the name of the API key in a request's headers; None if everybody may ask.

        Raises:
            ClientError: 401, it has none, or one that is not known.
        """
        if self._keys is None or (route is not None and not route.limited):
            return None
        return self._keys.caller(headers)

    async def stream(
        self, request: HttpRequest, route: Route, chunks: AsyncIterator[bytes]
    ) -> HttpReply | StreamReply:
        """Begin to answer a table; an error is a reply that is whole.

        Args:
            request: without its body.
            route: what answers its path; it takes tables.
            chunks: the body.
        """
        if not self._followed:
            return await self._stream(request, route, chunks)
        started, journey, status = deadlines.now(), self._set_out(request, route), None
        sending = False
        try:
            reply = await self._stream(request, route, chunks)
            headers = (*reply.headers, *self._timing(journey, started))
            if isinstance(reply, StreamReply):
                sending = True
                pieces = self._sent(journey, reply.pieces)
                return replace(reply, headers=headers, pieces=pieces)
            status = reply.status
            return reply._replace(headers=headers)
        finally:
            if not sending:
                self._arrive(journey, status)

    async def _stream(
        self, request: HttpRequest, route: Route, chunks: AsyncIterator[bytes]
    ) -> HttpReply | StreamReply:
        started = deadlines.now()
        caller: str | None = None
        reply: HttpReply | StreamReply
        try:
            caller = self.caller(request.headers, route)
            target = route.stream(request) if route.stream else None
            if target is None:
                raise ClientError("Content-Type: a table is taken by a prediction only", 415)
            reply = await self._tables.answer(target, request, chunks, self._seconds(request))
        except ClientError as error:
            reply = error_reply(error)
        except Exception:
            reply = self._failed(request)
        return self._recorded(request, route, reply, caller, deadlines.now() - started)

    def refuse(self, request: HttpRequest, route: Route | None, error: ClientError) -> HttpReply:
        """Answer a request that is not worked on."""
        return self._recorded(request, route, error_reply(error), None, 0.0)

    def _set_out(self, request: HttpRequest, route: Route) -> Journey:
        """Follow a request from here on; it has a task, and so a context, of its own."""
        journey = Journey()
        if self._tracing is not None:
            journey.span = self._tracing.begin(
                request.method, request.path, route.name, request.headers
            )
        JOURNEYS.set((journey,))
        return journey

    def _arrive(self, journey: Journey, status: int | None) -> None:
        if self._tracing is not None:
            self._tracing.end(journey.span, status)

    async def _sent(self, journey: Journey, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        status = None
        try:
            async for piece in pieces:
                yield piece
            status = 200
        finally:
            self._arrive(journey, status)

    def _timing(self, journey: Journey, started: float) -> tuple[tuple[str, str], ...]:
        if not self.settings.server_timing:
            return ()
        return ((TIMING_HEADER, journey.timing(deadlines.now() - started)),)

    async def _answer_whole_table(self, request: HttpRequest, route: Route) -> HttpReply:
        """Answer a table that has arrived whole, where the server in front has no streams."""
        target = route.stream(request) if route.stream else None
        if target is None:
            return await route.handle(request, self._deadline(request))

        async def chunks() -> AsyncIterator[bytes]:
            yield request.body

        reply = await self._tables.answer(target, request, chunks(), self._seconds(request))
        body = b"".join([piece async for piece in reply.pieces])
        return HttpReply(body, 200, reply.content_type, reply.headers)

    def _failed(self, request: HttpRequest) -> HttpReply:
        log.exception("%s %s failed", request.method[:100], request.path[:1000])
        return error_reply(ClientError("internal error; the log has the details", 500))

    def _deadline(self, request: HttpRequest) -> Deadline:
        return Deadline(self._seconds(request))

    def _seconds(self, request: HttpRequest) -> float:
        """Return how long a prediction may take, by the setting and by the request."""
        seconds = self.settings.timeout
        wanted = request.headers.get(TIMEOUT_HEADER)
        if wanted is not None:
            try:
                asked = float(wanted)
            except ValueError:
                asked = math.nan
            if not asked > 0:
                raise ClientError(
                    f'X-Request-Timeout: expected seconds greater than 0, got "{wanted[:40]}"'
                )
            seconds = min(seconds, asked)
        return seconds

    def _recorded(
        self,
        request: HttpRequest,
        route: Route | None,
        reply: Reply,
        caller: str | None,
        seconds: float,
    ) -> Reply:
        """Count a request and log it, and return its reply, with the request's id if it has one."""
        method = request.method if request.method in METHODS else "other"
        name = route.name if route else "none"
        status = reply.status if isinstance(reply, HttpReply) else 200
        self.metrics.observe_request(method if route else "any", name, status, seconds)
        which = self.settings.access_log
        # That a probe is told no is no news, and it asks every second.
        is_news = status >= ERROR and (route is None or route.limited)
        logged = which == "all" or (which == "errors" and is_news)
        if not logged and "x-request-id" not in request.headers:
            return reply
        headers = access.record(
            request,
            status,
            reply.headers,
            route=name,
            caller=caller,
            seconds=seconds,
            logged=logged,
            body=reply.body if isinstance(reply, HttpReply) else None,
        )
        if isinstance(reply, HttpReply):
            return reply._replace(headers=headers)
        return replace(reply, headers=headers)


def _not_allowed(request: HttpRequest, methods: tuple[str, ...]) -> HttpReply:
    message = f"{request.method} {request.path}: Method Not Allowed"
    return error_reply(ClientError(message, 405))._replace(headers=(("Allow", ", ".join(methods)),))

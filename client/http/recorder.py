"""Recording of requests: metrics, the access log, traces, and the related headers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from client.codecs.response import Headers
from client.http import access_log
from client.http.messages import HttpRequest
from client.http.routing import Route
from client.observability.metrics import Metrics
from client.observability.request_context import REQUESTS, RequestContext
from client.observability.tracing import Tracing
from client.serving import deadlines
from client.settings import Settings

TIMING_HEADER = "Server-Timing"
# Other methods are counted together: callers may invent them, and each would be a time series.
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
SERVER_ERROR = 500
# In an outage all requests fail alike; further errors are only counted.
MAX_ERRORS_PER_SECOND = 10


class Recorder:
    """Records requests to the API."""

    def __init__(self, settings: Settings, metrics: Metrics, tracing: Tracing | None) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._log = settings.access_log
        self._timing = settings.server_timing
        self._window = 0.0
        self._logged = 0
        self._left_out = 0

    def begin(self, request: HttpRequest, route: Route) -> RequestContext | None:
        """Return a context for recording a request, None if nothing is recorded."""
        if not route.limited or (self._tracing is None and not self._timing):
            return None
        context = RequestContext()
        if self._tracing is not None:
            context.span = self._tracing.begin(
                request.method, request.path, route.name, request.headers
            )
        return context

    def end(self, context: RequestContext | None, status: int | None) -> None:
        """End a request's trace; the status is None if the caller has disconnected."""
        if self._tracing is not None and context is not None:
            self._tracing.end(context.span, status)

    def record_arm(self, model: str, arm: str) -> None:
        """Record the arm of a rollout in the traces of the current task's requests."""
        if self._tracing is not None:
            for context in REQUESTS.get():
                self._tracing.record_arm(context.span, model, arm)

    def cancel(self, context: RequestContext | None) -> None:
        """End the trace of a request whose caller has disconnected."""
        self.end(context, None)

    async def end_after(
        self, context: RequestContext | None, pieces: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """Yield a response's pieces, and end the request's trace after the last one."""
        status = None
        try:
            async for piece in pieces:
                yield piece
            status = 200
        finally:
            self.end(context, status)

    def is_plain(self, request: HttpRequest) -> bool:
        """Whether a successful request is only counted."""
        return self._log != "all" and "x-request-id" not in request.headers

    def record(
        self,
        request: HttpRequest,
        route: Route | None,
        status: int,
        headers: Headers,
        body: bytes | None,
        *,
        caller: str | None,
        context: RequestContext | None,
        seconds: float,
    ) -> Headers:
        """Count a request, log it if required, and return its response headers.

        Args:
            request: the request.
            route: its route.
            status: the response's status.
            headers: the response's headers.
            body: the response's body; None if not known yet.
            caller: the name of the API key.
            context: the request's context, if it has one.
            seconds: time since the request arrived.
        """
        method = request.method if request.method in METHODS else "other"
        name = route.name if route is not None else "none"
        if route is None and method in METHODS:
            method = "any"
        self._metrics.observe_request(method, name, status, seconds)
        if context is not None and self._timing:
            headers = (*headers, (TIMING_HEADER, context.timing(seconds)))
        # Failed probes are expected; do not log them.
        is_unexpected = status >= SERVER_ERROR and (route is None or route.limited)
        logged = self._log == "all" or (
            self._log == "errors" and is_unexpected and self._take_log_slot()
        )
        if not logged and "x-request-id" not in request.headers:
            return headers
        return access_log.record(
            request,
            status,
            headers,
            route=name,
            caller=caller,
            seconds=seconds,
            logged=logged,
            body=body,
            left_out=self._pop_left_out() if logged else 0,
        )

    def _take_log_slot(self) -> bool:
        """Return whether another error may be logged in this second, and count it."""
        now = deadlines.now()
        if now - self._window >= 1:
            self._window, self._logged = now, 0
        self._logged += 1
        if self._logged > MAX_ERRORS_PER_SECOND:
            self._left_out += 1
            return False
        return True

    def _pop_left_out(self) -> int:
        count, self._left_out = self._left_out, 0
        return count

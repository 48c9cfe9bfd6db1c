"""Responses to API requests: delivered once, recorded, with errors in the dialect of the path."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from client.codecs.response import Headers
from client.errors import ClientError
from client.http.errors import error_response
from client.http.jobs import ApiJob
from client.http.messages import HttpRequest, HttpResponse
from client.http.recorder import Recorder
from client.http.routing import Route
from client.observability.metrics import Metrics
from client.serving import deadlines
from client.serving.deadlines import Deadline

log = logging.getLogger(__name__)


class Responder:
    """Delivers and records responses."""

    def __init__(self, recorder: Recorder, metrics: Metrics) -> None:
        self._recorder = recorder
        self._metrics = metrics

    def respond(self, job: ApiJob, response: HttpResponse) -> None:
        """Deliver a response and record it."""
        if job.done:
            return
        job.done = True
        headers = response.headers
        if job.route is not None and job.route.headers:
            headers = (*headers, *job.route.headers)
        headers = self.record(job, response.status, headers, response.body)
        self._recorder.end(job.context, response.status)
        _deliver(job, response._replace(headers=headers))

    def respond_all(self, jobs: Sequence[ApiJob], responses: Sequence[HttpResponse]) -> None:
        """Deliver responses; plain ones are recorded together."""
        now = deadlines.now()
        seconds: defaultdict[Any, list[float]] = defaultdict(list)
        is_plain = self._recorder.is_plain
        for job, response in zip(jobs, responses, strict=True):
            route = job.route
            if job.context is not None or (route and route.headers) or not is_plain(job.request):
                self.respond(job, response)
            elif not job.done:
                job.done = True
                seconds[job.request.method, route].append(now - job.started)
                _deliver(job, response)
        for (method, route), durations in seconds.items():
            self._metrics.observe_requests(method, route.name, 200, durations)

    def fail(self, job: ApiJob, error: Exception) -> None:
        """Respond with an error, unless a response has been sent already."""
        if not job.done:
            self.respond(job, self.error(job.request, error))

    def refuse(self, request: HttpRequest, route: Route | None, error: Exception) -> HttpResponse:
        """Record a refused request and return its error response."""
        response = self.error(request, error)
        job = ApiJob(request, route, None, Deadline(0))
        headers = self.record(job, response.status, response.headers, response.body)
        return response._replace(headers=headers)

    def error(self, request: HttpRequest, error: Exception) -> HttpResponse:
        """Return the response for an error; only internal errors are logged."""
        if not isinstance(error, ClientError):
            log.error("%s %s failed", request.method[:100], request.path[:1000], exc_info=error)
            error = ClientError("internal error; the log has the details", 500)
        return error_response(error, request.path)

    def not_allowed(self, request: HttpRequest, route: Route) -> HttpResponse:
        """Return the response for a method that a route does not allow."""
        message = f"{request.method} {request.path}: Method Not Allowed"
        response = self.error(request, ClientError(message, 405))
        assert route.methods is not None
        return response._replace(headers=(("Allow", ", ".join(route.methods)),))

    def record(self, job: ApiJob, status: int, headers: Headers, body: bytes | None) -> Headers:
        """Record a response and return its headers."""
        return self._recorder.record(
            job.request,
            job.route,
            status,
            headers,
            body,
            caller=job.caller,
            context=job.context,
            seconds=deadlines.now() - job.started,
        )


def _deliver(job: ApiJob, response: HttpResponse) -> None:
    """Hand a response to its connection, whose failure must not fail other requests."""
    try:
        job.respond(response)
    except Exception:
        log.exception("%s: the response could not be delivered", job.request.path[:1000])

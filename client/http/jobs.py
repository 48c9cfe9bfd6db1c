"""Jobs: API requests in progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from client.codecs import Payload
from client.http.messages import HttpRequest, HttpResponse
from client.http.routing import Route
from client.inference.batching import Job
from client.serving import deadlines
from client.serving.deadlines import Deadline

Respond = Callable[[HttpResponse], None]
Fail = Callable[["ApiJob", Exception], None]


class ApiJob(Job):
    """An API request, from its arrival to its response.

    Attributes:
        request: the request with its complete body.
        route: its route.
        respond: called with the response.
        caller: the name of its API key.
        started: when its handling began.
        task: the task that handles only this request, if there is one.
    """

    __slots__ = ("_fail", "caller", "request", "respond", "route", "started", "task")

    def __init__(
        self,
        request: HttpRequest,
        route: Route | None,
        caller: str | None,
        deadline: Deadline,
        respond: Respond = lambda response: None,
        fail: Fail = lambda job, error: None,
    ) -> None:
        """Create a job.

        Args:
            request: the request.
            route: its route.
            caller: the name of its API key.
            deadline: when it times out.
            respond: called with the response.
            fail: responds with an error.
        """
        super().__init__(len(request.body), deadline)
        self._fail = fail
        self.request = request
        self.route = route
        self.respond = respond
        self.caller = caller
        self.started = deadlines.now()
        self.task: asyncio.Task[None] | None = None

    def fail(self, error: Exception) -> None:
        """Respond with an error, unless a response has been sent already."""
        self._fail(self, error)

    @property
    def payload(self) -> Payload:
        """The payload for a codec."""
        options = self.route.options if self.route is not None else None
        if options is None:
            return Payload(self.request.body)
        return Payload(self.request.body, options(self.request))

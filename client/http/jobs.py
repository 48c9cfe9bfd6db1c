"""Jobs: API requests in progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from client.codecs import Payload
from client.http.messages import HttpReply, HttpRequest
from client.http.routing import Route
from client.inference.batching import Job
from client.serving import deadlines
from client.serving.deadlines import Deadline

if TYPE_CHECKING:
    from client.http.pipeline import Gateway

Respond = Callable[[HttpReply], None]


class ApiJob(Job):
    """An API request, from its arrival to its response.

    Attributes:
        request: the request with its whole body.
        route: its route.
        respond: called with the response.
        caller: the name of its API key.
        started: when it had arrived.
        task: the task that handles only this request, if there is one.
    """

    __slots__ = ("caller", "pipeline", "request", "respond", "route", "started", "task")

    def __init__(
        self,
        pipeline: Gateway,
        request: HttpRequest,
        route: Route | None,
        respond: Respond,
        caller: str | None,
        deadline: Deadline,
    ) -> None:
        super().__init__(len(request.body), deadline)
        self.pipeline = pipeline
        self.request = request
        self.route = route
        self.respond = respond
        self.caller = caller
        self.started = deadlines.now()
        self.task: asyncio.Task[None] | None = None

    def fail(self, error: Exception) -> None:
        """Respond with an error, unless there was a response already."""
        if not self.done:
            self.pipeline.respond(self, self.pipeline.error_reply(self.request, self.route, error))

    @property
    def payload(self) -> Payload:
        """The payload for a codec."""
        options = self.route.options if self.route is not None else None
        if options is None:
            return Payload(self.request.body)
        return Payload(self.request.body, options(self.request))


def ignore(reply: HttpReply) -> None:
    """Ignore a response that is delivered another way."""

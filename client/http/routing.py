"""What a path stands for: the form in which each part of the API tells its routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from client.http.messages import HttpReply, HttpRequest
from client.serving.client import Target
from client.serving.deadlines import Deadline

Handle = Callable[[HttpRequest, Deadline], Awaitable[HttpReply]]
Stream = Callable[[HttpRequest], Target | None]


@dataclass(frozen=True, slots=True)
class Route:
    """What answers the requests to a path.

    Attributes:
        name: the pattern of the path, for the metrics: callers must not be able to make time series
            by asking for names.
        handle: answers a request, or raises `ClientError`.
        methods: the HTTP methods it answers; None if it answers whatever comes, be it by an error.
        limited: whether it counts against the limit of requests; what tells of the process's own
            state must be answered when there is too much to do, too.
        stream: of a path that takes tables, says which model they are for, None if for none after
            all.
    """

    name: str
    handle: Handle
    methods: tuple[str, ...] | None
    limited: bool = True
    stream: Stream | None = None


class Api(Protocol):
    """A part of the API: everything below one first segment of the path."""

    def route(self, path: str) -> Route | None:
        """Return what answers a path, None if there is no such thing.

        Args:
            path: as sent, percent-encoded, without the query.
        """

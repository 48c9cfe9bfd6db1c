"""What a request is for: the form in which each part of the API gives its routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from client.codecs import Codec
from client.http.messages import HttpReply, HttpRequest
from client.serving.client import Target
from client.serving.deadlines import Deadline

MAX_ROUTES, MAX_LENGTH = 1024, 256

Handle = Callable[[HttpRequest, Deadline], Awaitable[HttpReply]]


class Lane(NamedTuple):
    """Predictions that can share a call: of one target, in one dialect."""

    target: Target
    codec: Codec


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """What answers the requests with one method for one path.

    Attributes:
        name: the pattern of the path, for the metrics: callers must not be able to make time series
            by asking for names.
        methods: the HTTP methods it answers; None if it answers any, be it by an error.
        lane: of the predictions it answers, None for other routes.
        handle: answers a request that is no prediction, or raises `ClientError`.
        options: returns what a request says beside its body, for its codec.
        table: the target whose predictions of tables it answers, None if it takes none.
        limited: whether it counts against the limit of requests; probes and metrics do not.
        headers: of every response.
    """

    name: str
    methods: tuple[str, ...] | None
    lane: Lane | None = None
    handle: Handle | None = None
    options: Callable[[HttpRequest], Mapping[str, str]] | None = None
    table: Target | None = None
    limited: bool = True
    headers: tuple[tuple[str, str], ...] = ()


class Api(Protocol):
    """A part of the API: everything below one first segment of the path."""

    def route(self, request: HttpRequest) -> Route | None:
        """Return what answers a request, None if there is no such thing.

        Args:
            request: its method and path decide; it has no body yet.
        """


class Router:
    """Finds what answers a request, and remembers it."""

    def __init__(self, apis: Mapping[str, Api]) -> None:
        """Create a router.

        Args:
            apis: by the first segment of their paths, in lower case.
        """
        self._apis = apis
        self._routes: dict[tuple[str, str], Route] = {}

    def route(self, request: HttpRequest) -> Route | None:
        """Return what answers a request, None if its path is none of the API's."""
        path = request.path
        key = (request.method, path)
        route = self._routes.get(key)
        if route is not None:
            return route
        api = self._apis.get(path.split("/", 2)[1].lower()) if path.startswith("/") else None
        route = api.route(request) if api else None
        # Most requests are for few paths; but anybody can ask for any, of any length.
        if route is not None and len(path) <= MAX_LENGTH and len(self._routes) < MAX_ROUTES:
            self._routes[key] = route
        return route

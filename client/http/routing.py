"""Routing: requests to routes, and the interface of each part of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from client.arms.split import Arm
from client.codecs import Codec
from client.codecs.content_types import is_table
from client.http.messages import HttpRequest, HttpResponse
from client.serving.client import Target
from client.serving.deadlines import Deadline

MAX_CACHED_ROUTES, MAX_CACHED_PATH_LENGTH = 1024, 256

Handler = Callable[[HttpRequest, Deadline], Awaitable[HttpResponse]]
# Takes the request, the name of its API key, its body, and its deadline.
UploadHandler = Callable[
    [HttpRequest, str | None, AsyncIterator[bytes], Deadline], Awaitable[HttpResponse]
]


class Lane(NamedTuple):
    """The key of a queue, whose predictions can share calls.

    Attributes:
        target: the model, and the version if it is determined.
        codec: the dialect.
        arm: the arm of the model's rollout, None without one.
        recorded: whether its rows count for drift and are logged.
    """

    target: Target
    codec: Codec
    arm: Arm | None = None
    recorded: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """The handler of a path.

    Attributes:
        name: the pattern of the path, for metrics: callers must not create time series by
            inventing names.
        methods: the allowed HTTP methods; None passes every method to the handler.
        lane: the lane of its predictions; None for other routes.
        handle: answers a request that is not a prediction, or raises `ClientError`.
        options: returns the codec's options from outside the body.
        table: the target of table predictions; None if it takes no tables.
        upload: answers a POST whose body it reads as it arrives.
        limited: whether it counts towards the request limit; probes and metrics do not.
        headers: headers of every response.
    """

    name: str
    methods: tuple[str, ...] | None
    lane: Lane | None = None
    handle: Handler | None = None
    options: Callable[[HttpRequest], Mapping[str, str]] | None = None
    table: Target | None = None
    upload: UploadHandler | None = None
    limited: bool = True
    headers: tuple[tuple[str, str], ...] = ()

    def is_streamed(self, method: str, headers: Mapping[str, str]) -> bool:
        """Return whether the body of a request is read as it arrives."""
        return method == "POST" and (
            self.upload is not None
            or (self.table is not None and is_table(headers.get("content-type")))
        )


class Api(Protocol):
    """A part of the API: all paths with the same first segment."""

    def route(self, request: HttpRequest) -> Route | None:
        """Return the route of a request, None if there is none.

        Args:
            request: the request, whose body has not been read yet.
        """


class Router:
    """Finds the route of a request, with a cache."""

    def __init__(self, apis: Mapping[str, Api]) -> None:
        """Create a router.

        Args:
            apis: parts of the API by the first path segment, in lower case.
        """
        self._apis = apis
        self._routes: dict[tuple[str, str], Route] = {}

    def route(self, request: HttpRequest) -> Route | None:
        """Return the route of a request, None if the path is not the API's."""
        path = request.path
        key = (request.method, path)
        route = self._routes.get(key)
        if route is not None:
            return route
        api = self._apis.get(path.split("/", 2)[1].lower()) if path.startswith("/") else None
        route = api.route(request) if api else None
        # Most requests are for a few paths, but callers choose them, so bound the cache.
        is_cacheable = len(path) <= MAX_CACHED_PATH_LENGTH and len(self._routes) < MAX_CACHED_ROUTES
        if route is not None and is_cacheable:
            self._routes[key] = route
        return route

"""Heads of requests and responses, and the messages that arrive on a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from client.errors import ClientError
from client.http.body_stream import BodyStream
from client.http.messages import HttpRequest
from client.http.routing import Route

MAX_URLS, MAX_URL_LENGTH = 1024, 256


class Head:
    """A request's head, and everything that depends on nothing else.

    Attributes:
        raw: the headers as sent, names in lower case.
        url: the request target.
        method: the HTTP method in bytes.
        name: the method as text.
        headers: value by name.
        target: the path as sent, and the query.
        route: its route; None if the ASGI application handles it.
        expects: whether the caller sent `Expect: 100-continue`.
        table: whether the body is streamed to its handler.
        error: the error to respond with, if any.
    """

    __slots__ = (
        "error",
        "expects",
        "headers",
        "method",
        "name",
        "raw",
        "route",
        "table",
        "target",
        "url",
    )

    def __init__(
        self,
        raw: Sequence[tuple[bytes, bytes]],
        url: bytes,
        method: bytes,
        headers: Mapping[str, str],
        target: tuple[str, str],
    ) -> None:
        self.raw = raw
        self.url = url
        self.method = method
        self.name = method.decode("ascii")
        self.headers = headers
        self.target = target
        self.route: Route | None = None
        self.expects = False
        self.table = False
        self.error: ClientError | None = None


NO_HEAD = Head((), b"", b"", {}, ("", ""))


class Message:
    """A request that is arriving, queued on its connection, or being handled.

    Attributes:
        request: the request; its body is set once complete.
        head: its head.
        route: its route; None if the ASGI application handles it.
        caller: the name of its API key.
        keep_alive: whether the connection stays open after the response.
        chunks: pieces of the body, if it is buffered.
        size: bytes of the body so far.
        stream: takes the body of a table piece by piece.
        complete: whether the whole message has arrived.
        error: the error to respond with, if any.
        started: whether it is being handled.
        counted: whether it is counted as in flight.
    """

    __slots__ = (
        "caller",
        "chunks",
        "complete",
        "counted",
        "error",
        "head",
        "keep_alive",
        "request",
        "route",
        "size",
        "started",
        "stream",
    )

    def __init__(self, request: HttpRequest, head: Head, keep_alive: bool) -> None:
        self.request = request
        self.head = head
        self.keep_alive = keep_alive
        self.route: Route | None = None
        self.caller: str | None = None
        self.chunks: list[bytes] = []
        self.size = 0
        self.stream: BodyStream | None = None
        self.complete = False
        self.error: ClientError | None = None
        self.started = False
        self.counted = False


def join_headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name in lower case; repeated ones are joined with commas."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def split_target(url: bytes) -> tuple[str, str]:
    """Return the path as sent and the query of a request target."""
    return _cached_target(url) if len(url) <= MAX_URL_LENGTH else _parse_target(url)


def _parse_target(url: bytes) -> tuple[str, str]:
    if url.startswith(b"/"):
        path, _, query = url.partition(b"#")[0].partition(b"?")
    else:
        parsed = httptools.parse_url(url)
        path, query = parsed.path or b"/", parsed.query or b""
    return path.decode("latin-1"), query.decode("latin-1")


_cached_target = lru_cache(MAX_URLS)(_parse_target)


@lru_cache(maxsize=256)
def response_head(
    status: int, content_type: str, further: tuple[tuple[str, str], ...], keep_alive: bool
) -> bytes:
    """Return a response's head without its last lines."""
    lines = [("content-type", content_type), ("x-content-type-options", "nosniff"), *further]
    if not keep_alive:
        lines.append(("connection", "close"))
    text = "".join(f"{name.lower()}: {value}\r\n" for name, value in lines)
    return STATUS_LINE[status] + text.encode("latin-1", "replace")

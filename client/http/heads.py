"""Heads of requests and responses, and the messages that arrive on a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from client.errors import ClientError
from client.http.body_stream import BodyStream
from client.http.gateway import Gateway
from client.http.messages import HttpRequest
from client.http.request_body import too_large
from client.http.routing import Route

MAX_CACHED_URLS, MAX_CACHED_URL_LENGTH = 1024, 256
MAX_HEAD_BYTES = 128 * 1024
HEAD_TOO_LONG = f"the head is too long; expected at most {MAX_HEAD_BYTES} bytes"
TRAILERS_TOO_LONG = f"the trailers are too long; expected at most {MAX_HEAD_BYTES} bytes"
# Besides its name and value, a header has at least a colon and a line ending.
MIN_SEPARATORS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A request's head, and everything derived from it alone.

    Attributes:
        raw: the headers as sent, names in lower case.
        url: the request target.
        method: the HTTP method in bytes.
        version: the HTTP version.
        method_name: the method as text.
        headers: value by name.
        path_and_query: the path as sent, and the query.
        route: its route; None if the ASGI application handles it.
        expects_100: whether the caller sent `Expect: 100-continue`.
        is_streamed: whether the body (a table or feedback) is streamed to its handler.
        error: the error to respond with, if any.
    """

    raw: Sequence[tuple[bytes, bytes]] = ()
    url: bytes = b""
    method: bytes = b""
    version: str = ""
    method_name: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    path_and_query: tuple[str, str] = ("", "")
    route: Route | None = None
    expects_100: bool = False
    is_streamed: bool = False
    error: ClientError | None = None


NO_HEAD = Head()


@dataclass(slots=True, eq=False)
class RequestMessage:
    """A request that is arriving, queued on its connection, or being handled.

    Attributes:
        request: the request; its body is set once complete.
        head: its head.
        keep_alive: whether the connection stays open after the response.
        route: its route; None if the ASGI application handles it.
        caller: the name of its API key.
        chunks: pieces of the body, if it is buffered.
        size: bytes of the body so far.
        stream: takes the body piece by piece, if it is streamed.
        complete: whether the whole message has arrived.
        error: the error to respond with, if any.
        started: whether it is being handled.
        counted: whether it is counted as in flight.
    """

    request: HttpRequest
    head: Head
    keep_alive: bool
    route: Route | None = None
    caller: str | None = None
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    stream: BodyStream | None = None
    complete: bool = False
    error: ClientError | None = None
    started: bool = False
    counted: bool = False


def read_head(
    raw: Sequence[tuple[bytes, bytes]], url: bytes, method: bytes, version: str, gateway: Gateway
) -> Head:
    """Route a head, and check everything that depends only on the head.

    Args:
        raw: the headers as sent, names in lower case.
        url: the request target.
        method: the HTTP method.
        version: the HTTP version, such as "1.1".
        gateway: routes the request, and holds the body limits.
    """
    name = method.decode("ascii")
    size = len(url) + sum(len(key) + len(value) + MIN_SEPARATORS for key, value in raw)
    if size > MAX_HEAD_BYTES:
        return Head(raw, url, method, version, name, error=ClientError(HEAD_TOO_LONG, 431))
    headers, path_and_query = _join_headers(raw), _split_target(url)
    route = gateway.route(HttpRequest(name, *path_and_query, headers))
    is_streamed = route is not None and route.is_streamed(name, headers)
    settings = gateway.settings
    limit = settings.max_table_bytes if is_streamed else settings.max_body_bytes
    hosts = sum(key == b"host" for key, _ in raw)
    error = None
    if hosts > 1 or (not hosts and version == "1.1"):
        error = ClientError(f"Host: expected the header once, got it {hosts} times")
    elif int(headers.get("content-length", 0)) > limit:
        error = too_large(limit)
    expects_100 = headers.get("expect", "").lower() == "100-continue"
    return Head(
        raw,
        url,
        method,
        version,
        name,
        headers,
        path_and_query,
        route,
        expects_100,
        is_streamed,
        error,
    )


def _join_headers(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name in lower case; repeated ones are joined with commas."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _split_target(url: bytes) -> tuple[str, str]:
    """Return the path as sent and the query of a request target."""
    return _cached_target(url) if len(url) <= MAX_CACHED_URL_LENGTH else _parse_target(url)


def _parse_target(url: bytes) -> tuple[str, str]:
    if url.startswith(b"/"):
        path, _, query = url.partition(b"#")[0].partition(b"?")
    else:
        parsed = httptools.parse_url(url)
        path, query = parsed.path or b"/", parsed.query or b""
    return path.decode("latin-1"), query.decode("latin-1")


_cached_target = lru_cache(MAX_CACHED_URLS)(_parse_target)


@lru_cache(maxsize=256)
def response_head(
    status: int, content_type: str, extra: tuple[tuple[str, str], ...], keep_alive: bool
) -> bytes:
    """Return a response's head up to the date and the length."""
    lines = [("content-type", content_type), ("x-content-type-options", "nosniff"), *extra]
    if not keep_alive:
        lines.append(("connection", "close"))
    text = "".join(f"{name.lower()}: {value}\r\n" for name, value in lines)
    return STATUS_LINE[status] + text.encode("latin-1", "replace")

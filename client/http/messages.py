"""HTTP requests and responses, independent of the server."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from client.codecs.response import JSON
from client.codecs.response import Response as HttpResponse

__all__ = ["JSON", "HttpRequest", "HttpResponse"]


class HttpRequest:
    """An HTTP request.

    Attributes:
        method: in capitals, as sent.
        path: as sent: percent-encoded, without the query.
        query: the text after `?`; empty without one.
        headers: value by name in lower case.
        body: empty while it is still arriving; as sent, until the gateway decompresses it.
    """

    __slots__ = ("body", "headers", "method", "path", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
        body: bytes = b"",
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body

"""A request and its reply, whichever HTTP server carries them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

JSON = "application/json"


class HttpRequest(NamedTuple):
    """An HTTP request that has arrived whole.

    Attributes:
        method: in capitals, as sent.
        path: as sent: percent-encoded, without the query.
        query: what followed the `?`, empty if nothing did.
        headers: value by name in lower case.
        body: as sent, content encodings undone.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""


class HttpReply(NamedTuple):
    """What to answer.

    Attributes:
        body: the bytes.
        status: the HTTP status.
        content_type: of the body.
        headers: further ones.
    """

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

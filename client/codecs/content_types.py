"""Which form a table comes in, and in which its answer is wanted: `Content-Type` and `Accept`."""

from __future__ import annotations

import re

from client.errors import ClientError
from client.http.messages import JSON

CSV = "text/csv"
NDJSON = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"
NPY = "application/x-npy"

# What tables are read in, and what answers are written in; the first that fits is taken.
READABLE = (CSV, NDJSON, ARROW, NPY)
WRITABLE = (JSON, *READABLE)

_RANGE = re.compile(r"\s*([\w!#$&^.+*-]+/[\w!#$&^.+*-]+)\s*((?:;[^,]*)?)", re.ASCII)
_QUALITY = re.compile(r";\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", re.ASCII | re.IGNORECASE)
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([\w-]+)", re.ASCII | re.IGNORECASE)


def media_type(content_type: str) -> str:
    """Return a `Content-Type` without its parameters, in lower case.

    Raises:
        ClientError: 415, it says that the text is not UTF-8.
    """
    charset = _CHARSET.search(content_type)
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise ClientError(f"Content-Type: expected charset utf-8, got {charset[1][:40]}", 415)
    return content_type.partition(";")[0].strip().lower()


def negotiate(accept: str | None, came: str) -> str:
    """Return the type to answer in (RFC 9110, 12.5.1).

    Of types that are wanted alike, that of the request goes first, then `WRITABLE` in turn.

    Args:
        accept: the header, None if there is none: any type will do.
        came: the media type of the request.

    Raises:
        ClientError: 406, none of the types that can be written is accepted.
    """
    wanted = _ranges(accept or "*/*")
    order = (came, *WRITABLE) if came in WRITABLE else WRITABLE
    best = max(order, key=lambda name: _quality(name, wanted))
    if _quality(best, wanted) == 0:
        raise ClientError(
            f'Accept: expected one of {", ".join(WRITABLE)}, got "{(accept or "")[:100]}"', 406
        )
    return best


def _ranges(accept: str) -> dict[str, float]:
    """Return the quality of each media range; what is not one is passed over."""
    found: dict[str, float] = {}
    for item in accept.split(","):
        match = _RANGE.fullmatch(item)
        if match is not None:
            quality = _QUALITY.search(match[2])
            found[match[1].lower()] = float(quality[1]) if quality else 1.0
    return found


def _quality(name: str, ranges: dict[str, float]) -> float:
    """Return how much a type is wanted; the most precise range counts."""
    for form in (name, f"{name.partition('/')[0]}/*", "*/*"):
        if form in ranges:
            return min(1.0, ranges[form])
    return 0.0

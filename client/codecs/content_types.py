"""Media types of tables, and content negotiation."""

from __future__ import annotations

import re

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from client.codecs.response import JSON
from client.errors import ClientError

CSV = "text/csv"
TSV = "text/tab-separated-values"
NDJSON = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"
NPY = "application/x-npy"

READABLE = (CSV, TSV, NDJSON, ARROW, NPY)
WRITABLE = (JSON, *READABLE)

_ALIASES = {
    **dict.fromkeys(("application/csv", "application/x-csv", "text/x-csv"), CSV),
    **dict.fromkeys(("text/tsv", "text/x-tsv", "application/tsv"), TSV),
    **dict.fromkeys(("application/ndjson", "application/json-lines", "text/x-ndjson"), NDJSON),
    **dict.fromkeys(("application/jsonl", "application/x-jsonl", "text/jsonl"), NDJSON),
    **dict.fromkeys(("application/jsonlines", "application/x-jsonlines"), NDJSON),
}
# Table types, including some that are not supported: their bodies are not JSON.
_TABLE = re.compile(
    r"csv|tsv|separated-values|ndjson|json-?lines?\b|jsonl|json-seq|arrow|feather|parquet|avro|orc\b"
    r"|excel|spreadsheet|numpy|npy|npz|zip|bzip|zstd|x-xz"
)
_CHARSETS = ("utf-8", "utf8", "us-ascii")


def is_table(content_type: str | None) -> bool:
    """Return whether a Content-Type is that of a table, supported or not."""
    if content_type is None or content_type == JSON:
        return False
    return _TABLE.search(content_type.partition(";")[0].lower()) is not None


def media_type(content_type: str) -> str:
    """Return a Content-Type's media type in its canonical spelling.

    Raises:
        ClientError: 415, the charset is not UTF-8.
    """
    name, options = parse_options_header(content_type)
    charset = options.get("charset", "utf-8")
    if charset.lower() not in _CHARSETS:
        raise ClientError(f"Content-Type: expected charset utf-8, got {charset[:40]}", 415)
    name = name.strip().lower()
    return _ALIASES.get(name, name)


def negotiate(accept: str | None, request_type: str) -> str:
    """Return the media type of the response (RFC 9110, 12.5.1).

    Among types of equal quality, the request's own wins.

    Args:
        accept: value of the Accept header, None if absent.
        request_type: media type of the request.

    Raises:
        ClientError: 406, no type in `WRITABLE` is accepted.
    """
    parsed = parse_accept_header(accept or "*/*", MIMEAccept)
    # Names include parameters such as a charset, which `quality` would compare.
    names = ((name.partition(";")[0].strip().lower(), q) for name, q in parsed)
    accepted = MIMEAccept([(_ALIASES.get(name, name), q) for name, q in names])
    order = (request_type, *WRITABLE) if request_type in WRITABLE else WRITABLE
    best = max(order, key=accepted.quality)
    if accepted.quality(best) == 0:
        raise ClientError(
            f'Accept: expected one of {", ".join(WRITABLE)}, got "{(accept or "")[:100]}"', 406
        )
    return best

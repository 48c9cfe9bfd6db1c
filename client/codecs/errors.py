"""Errors in JSON: `{"error": "what was expected, what was received"}` in every dialect."""

from __future__ import annotations

import orjson

from client.errors import ClientError
from client.http.messages import HttpReply

UNAUTHORIZED = 401
# Programs send a bearer token; browsers ask for a login whose password is the key.
LOGIN = 'Bearer, Basic realm="predictions"'
# Messages quote the request; do not return megabytes of it.
MAX_MESSAGE_CHARACTERS = 4000


def json_error(error: ClientError) -> HttpReply:
    """Return the response for an error."""
    headers: tuple[tuple[str, str], ...] = ()
    if error.retry_after is not None:
        headers = (("Retry-After", str(error.retry_after)),)
    if error.status == UNAUTHORIZED:
        headers = (("WWW-Authenticate", LOGIN),)
    message = error.message
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = f"{message[:MAX_MESSAGE_CHARACTERS]}..."
    body = orjson.dumps({"error": message}, option=orjson.OPT_APPEND_NEWLINE)
    return HttpReply(body, error.status, headers=headers)

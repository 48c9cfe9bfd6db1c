"""Replies of the API, all of them JSON."""

from __future__ import annotations

from typing import Any

import orjson

from client.errors import ClientError
from client.http.messages import HttpReply

UNAUTHORIZED = 401
# Programs send a bearer token; of people, browsers ask for a login whose password is the key.
LOGIN = 'Bearer, Basic realm="predictions"'


def json_reply(body: Any, status: int = 200, *headers: tuple[str, str]) -> HttpReply:
    """Return a JSON reply; numbers that JSON has no form for, NaN among them, become null."""
    data = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
    return HttpReply(data, status, headers=headers)


def error_reply(error: ClientError) -> HttpReply:
    """Say what went wrong: `{"error": "what came, what was expected"}`."""
    after = error.retry_after
    headers = () if after is None else (("Retry-After", str(after)),)
    if error.status == UNAUTHORIZED:
        headers = (("WWW-Authenticate", LOGIN),)
    return json_reply({"error": error.message}, error.status, *headers)

"""JSON responses."""

from __future__ import annotations

from typing import Any

import orjson

from client.http.messages import HttpReply

VERSION_HEADER = "X-Model-Version"


def json_reply(body: Any, status: int = 200, *headers: tuple[str, str]) -> HttpReply:
    """Return a JSON response; numbers without a JSON form, NaN among them, become null."""
    data = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
    return HttpReply(data, status, headers=headers)


def with_version(version: int, body: bytes) -> HttpReply:
    """Return a response that names the version that computed it."""
    return HttpReply(body, headers=((VERSION_HEADER, str(version)),))

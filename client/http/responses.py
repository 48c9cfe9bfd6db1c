"""JSON responses, and headers about predictions."""

from __future__ import annotations

from typing import Any

import orjson

from client.arms.split import ARM_HEADER
from client.http.messages import HttpResponse

VERSION_HEADER = "X-Model-Version"
MISSING_HEADER = "X-Missing-Imputed"


def json_response(body: Any, status: int = 200, *headers: tuple[str, str]) -> HttpResponse:
    """Return a JSON response; NaN and infinities become null."""
    data = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
    return HttpResponse(data, status, headers=headers)


def arm_headers(version: int, arm: str | None) -> tuple[tuple[str, str], ...]:
    """Return the headers that name the version that answered, and its arm if it has one."""
    if arm is None:
        return ((VERSION_HEADER, str(version)),)
    return ((VERSION_HEADER, str(version)), (ARM_HEADER, arm))

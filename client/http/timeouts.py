"""Timeouts of requests, which `X-Request-Timeout` may lower."""

from __future__ import annotations

import math

from client.errors import ClientError
from client.http.messages import HttpRequest

TIMEOUT_HEADER = "x-request-timeout"


def request_timeout(request: HttpRequest, max_seconds: float) -> float:
    """Return a request's timeout in seconds: the header's value, but at most the maximum.

    Raises:
        ClientError: the header is not a number greater than 0.
    """
    value = request.headers.get(TIMEOUT_HEADER)
    if value is None:
        return max_seconds
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise ClientError(
            f'X-Request-Timeout: expected a number of seconds greater than 0, got "{value[:40]}"'
        )
    return min(seconds, max_seconds)

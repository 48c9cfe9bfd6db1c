"""Timeouts that requests ask for in `X-Request-Timeout`."""

from __future__ import annotations

import math

from client.errors import ClientError
from client.http.messages import HttpRequest

TIMEOUT_HEADER = "x-request-timeout"


def timeout_of(request: HttpRequest, longest: float) -> float:
    """Return a request's timeout in seconds: its own, but at most the longest.

    Raises:
        ClientError: the header is not a number greater than 0.
    """
    wanted = request.headers.get(TIMEOUT_HEADER)
    if wanted is None:
        return longest
    try:
        seconds = float(wanted)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise ClientError(
            f'X-Request-Timeout: expected seconds greater than 0, got "{wanted[:40]}"'
        )
    return min(seconds, longest)

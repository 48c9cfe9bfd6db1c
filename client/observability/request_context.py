"""What is recorded of requests on their way, for a `Server-Timing` header or a trace.

A context variable leads from a call to the requests it is made for. Nothing is recorded, and the
tuple is empty, unless a header or a trace is wanted.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any


class RequestContext:
    """What is recorded of one request.

    Attributes:
        queued: seconds that it waited for a call.
        served: seconds of the calls that were made for it.
        span: of its trace, None if it has none.
    """

    __slots__ = ("queued", "served", "span")

    def __init__(self, span: Any = None) -> None:
        self.queued = 0.0
        self.served = 0.0
        self.span = span

    def timing(self, seconds: float) -> str:
        """Return the value of a `Server-Timing` header, in milliseconds.

        Args:
            seconds: since the request arrived.
        """
        parts = {"total": seconds, "queue": self.queued, "server": self.served}
        return ", ".join(f"{name};dur={1000 * part:.3f}" for name, part in parts.items())


# The requests that the running task works for.
REQUESTS: ContextVar[tuple[RequestContext, ...]] = ContextVar("requests", default=())

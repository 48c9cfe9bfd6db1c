"""Request contexts: timings and spans for a `Server-Timing` header or a trace.

A context variable links a call to its requests. Without a header or a trace the tuple is empty, and
nothing is recorded.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any


class RequestContext:
    """The recording of one request.

    Attributes:
        queued: seconds spent in the queue.
        served: seconds spent in calls to the model server.
        span: its span; None if it is not traced.
    """

    __slots__ = ("queued", "served", "span")

    def __init__(self, span: Any = None) -> None:
        self.queued = 0.0
        self.served = 0.0
        self.span = span

    def timing(self, seconds: float) -> str:
        """Return the value of a `Server-Timing` header, in milliseconds.

        Args:
            seconds: time since the request arrived.
        """
        parts = {"total": seconds, "queue": self.queued, "server": self.served}
        return ", ".join(f"{name};dur={1000 * part:.3f}" for name, part in parts.items())


# The requests that the current task handles.
REQUESTS: ContextVar[tuple[RequestContext, ...]] = ContextVar("requests", default=())

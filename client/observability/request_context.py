"""Request contexts: timings and spans for a `Server-Timing` header or a trace.

A context variable links a call to its requests. It is empty, and nothing is
recorded, if no header and no trace needs it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any


class RequestContext:
    """The timings and the span of one request.

    Attributes:
        queue_seconds: time spent in the queue.
        server_seconds: time spent in calls to the model server.
        span: the span; None if the request is not traced.
    """

    __slots__ = ("queue_seconds", "server_seconds", "span")

    def __init__(self, span: Any = None) -> None:
        self.queue_seconds = 0.0
        self.server_seconds = 0.0
        self.span = span

    def timing(self, seconds: float) -> str:
        """Return the value of a `Server-Timing` header, in milliseconds.

        Args:
            seconds: time since the request arrived.
        """
        times = {"total": seconds, "queue": self.queue_seconds, "server": self.server_seconds}
        return ", ".join(f"{name};dur={1000 * time:.3f}" for name, time in times.items())


# The requests that the current task handles.
REQUESTS: ContextVar[tuple[RequestContext, ...]] = ContextVar("requests", default=())

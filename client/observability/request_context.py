"""What requests go through on their way, told to whoever wants to know: a caller, or a trace.

A request's journey goes with whatever is done for it, as a context variable; what is done for
several requests at once has all of theirs. When nobody wants to know there are no journeys, and no
cost but that of finding none.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any


class Journey:
    """One request's.

    Attributes:
        queued: seconds that it has waited for a call.
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
            seconds: from the request's arrival on.
        """
        parts = {"total": seconds, "queue": self.queued, "server": self.served}
        return ", ".join(f"{name};dur={1000 * part:.3f}" for name, part in parts.items())


# Of the requests that what runs now is done for.
JOURNEYS: ContextVar[tuple[Journey, ...]] = ContextVar("journeys", default=())

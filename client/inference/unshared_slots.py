"""The limit of calls that are not shared between requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from client.errors import DeadlineExceededError
from client.serving.deadlines import Deadline

_HAS_SLOT: ContextVar[bool] = ContextVar("has_slot", default=False)


class UnsharedSlots:
    """Slots for unshared calls; bound to one event loop."""

    def __init__(self, calls: int) -> None:
        self._semaphore = asyncio.Semaphore(calls)

    @asynccontextmanager
    async def slot(self, deadline: Deadline) -> AsyncIterator[None]:
        """Wait for a slot, unless the current task already has one.

        Raises:
            DeadlineExceededError: no slot was free in time.
        """
        if _HAS_SLOT.get():
            yield
            return
        if self._semaphore.locked():
            try:
                await asyncio.wait_for(self._semaphore.acquire(), deadline.remaining())
            except asyncio.TimeoutError:
                raise DeadlineExceededError("there was no answer in time") from None
        else:
            await self._semaphore.acquire()
        token = _HAS_SLOT.set(True)
        try:
            yield
        finally:
            _HAS_SLOT.reset(token)
            self._semaphore.release()

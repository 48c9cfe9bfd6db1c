"""Dynamic batching.

While a call to a model is in flight, requests for the same model and codec queue undecoded; when
it returns, all queued requests become one batch. There is no timer, so an idle service adds no
latency, and under load more requests share a call.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from client.errors import DeadlineExceededError, ResourceExhaustedError, UnavailableError
from client.inference.unshared_slots import UnsharedSlots
from client.observability.request_context import REQUESTS, RequestContext
from client.serving import deadlines
from client.serving.deadlines import Deadline, Watch

Lane = TypeVar("Lane", bound=Hashable)


@dataclass(frozen=True)
class Limits:
    """Limits of calls and of the queue.

    Attributes:
        rows: rows of one call; a larger request is sent alone. 1 disables batching.
        size: bytes of one batch.
        alone_size: size in bytes at and above which a request is a batch of its own.
        calls: unshared calls in flight at once.
        waiting: queued requests, all models together.
        waiting_size: total bytes of their bodies.
    """

    rows: int = 1024
    size: int = 1_000_000
    alone_size: int = 128 * 1024
    calls: int = 4
    waiting: int = 4096
    waiting_size: int = 64_000_000


class Job:
    """A predict request, from its arrival to its response.

    Attributes:
        size: bytes of its body.
        deadline: when the request times out.
        arrived: when it was queued.
        done: whether it has been answered or cancelled.
        queue: the queue it is in, if any.
        context: its timings and span; None if nothing is recorded.
    """

    __slots__ = ("arrived", "context", "deadline", "done", "queue", "size")

    def __init__(
        self, size: int, deadline: Deadline, context: RequestContext | None = None
    ) -> None:
        self.size = size
        self.deadline = deadline
        self.context = context
        self.arrived = 0.0
        self.done = False
        self.queue: Any = None

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Respond with an error, unless there was a response already."""


class _Queue(Generic[Lane]):
    """The jobs of one lane in order of arrival, and the batches in flight."""

    __slots__ = ("batches", "jobs", "lane")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.jobs: dict[Job, None] = {}
        self.batches = 0


class DynamicBatcher(Generic[Lane]):
    """Queues jobs by lane and runs them in batches; bound to one event loop."""

    def __init__(
        self,
        run: Callable[[Lane, list[Job]], Awaitable[None]],
        limits: Limits,
        unshared_slots: UnsharedSlots,
        slots: Callable[[], int] = lambda: 1,
        observe: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Create an empty batcher.

        Args:
            run: answers jobs of a lane.
            limits: limits of batches and of the queue.
            unshared_slots: slots for requests that are sent alone.
            slots: returns how many batches of a lane may be in flight.
            observe: called with the seconds for which a batch's first job was queued.
        """
        self._run = run
        self._limits = limits
        self._slots = slots
        self._observe = observe
        self._queues: dict[Lane, _Queue[Lane]] = {}
        self._waiting = 0
        self._waiting_size = 0
        self._watch: Watch[Job] = Watch(self._expire)
        self._tasks: set[asyncio.Task[None]] = set()
        self._unshared_slots = unshared_slots

    @property
    def waiting(self) -> int:
        """The number of queued jobs."""
        return self._waiting

    def put(self, lane: Lane, job: Job) -> None:
        """Queue a job, or run it alone if it fills a batch.

        Raises:
            ResourceExhaustedError: too many jobs are queued.
        """
        limits = self._limits
        waiting, size = self._waiting, self._waiting_size + job.size
        if waiting and (waiting >= limits.waiting or size > limits.waiting_size):
            raise ResourceExhaustedError(f"{waiting} requests are already waiting; retry later")
        queue = self._queues.get(lane)
        if queue is None:
            queue = self._queues[lane] = _Queue(lane)
        job.arrived = deadlines.now()
        queue.jobs[job] = None
        job.queue = queue
        self._waiting = waiting + 1
        self._waiting_size = size
        self._watch.add(job, job.deadline.end)
        if limits.rows == 1 or job.size >= limits.alone_size:
            self._start(self._serve_alone(queue, job))
        elif queue.batches < self._slots():
            queue.batches += 1
            self._start(self._serve(queue))

    def remove(self, job: Job) -> None:
        """Remove a cancelled job."""
        job.done = True
        self._watch.remove(job)
        self._dequeue(job)

    async def close(self) -> None:
        """Fail all jobs."""
        for job in [job for queue in self._queues.values() for job in queue.jobs]:
            job.fail(UnavailableError("the client is stopping"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _expire(self, job: Job) -> None:
        self._dequeue(job)
        job.fail(DeadlineExceededError("there was no answer in time"))

    def _dequeue(self, job: Job) -> None:
        queue = job.queue
        if queue is None:
            return
        job.queue = None
        del queue.jobs[job]
        self._waiting -= 1
        self._waiting_size -= job.size
        if not queue.jobs and not queue.batches:
            self._queues.pop(queue.lane, None)

    async def _serve(self, queue: _Queue[Lane]) -> None:
        """Run batches until the queue is empty."""
        try:
            while jobs := self._take(queue):
                await self._answer(queue.lane, jobs)
                # Let answered callers run first: their next requests share the next call.
                await asyncio.sleep(0)
        finally:
            queue.batches -= 1
            if not queue.jobs and not queue.batches:
                self._queues.pop(queue.lane, None)

    async def _serve_alone(self, queue: _Queue[Lane], job: Job) -> None:
        # A job that gets no slot in time expires.
        with suppress(DeadlineExceededError):
            async with self._unshared_slots.slot(job.deadline):
                if not job.done:
                    self._dequeue(job)
                    await self._answer(queue.lane, [job])

    def _take(self, queue: _Queue[Lane]) -> list[Job]:
        """Take as many jobs as fit into a batch; each has at least one row."""
        taken: list[Job] = []
        size = 0
        limits = self._limits
        for job in queue.jobs:
            if job.size >= limits.alone_size:
                continue  # it is a batch of its own
            size += job.size
            if taken and (len(taken) >= limits.rows or size > limits.size):
                break
            taken.append(job)
        for job in taken:
            self._dequeue(job)
        return taken

    async def _answer(self, lane: Lane, jobs: Sequence[Job]) -> None:
        now = deadlines.now()
        self._observe(now - jobs[0].arrived)
        for job in jobs:
            if job.context is not None:
                job.context.queue_seconds += now - job.arrived
        try:
            await self._run_or_bisect(lane, jobs)
        except asyncio.CancelledError:
            for job in jobs:
                job.fail(UnavailableError("the client is stopping"))
            raise
        finally:
            for job in jobs:
                self._watch.remove(job)

    async def _run_or_bisect(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """Run jobs; bisect them on an unexpected error, so that it fails only the job at fault."""
        pending = [job for job in jobs if not job.done]
        if not pending:
            return
        REQUESTS.set(tuple(job.context for job in pending if job.context is not None))
        try:
            await self._run(lane, pending)
        except Exception as error:
            if len(pending) == 1:
                pending[0].fail(error)
                return
            middle = len(pending) // 2
            await self._run_or_bisect(lane, pending[:middle])
            await self._run_or_bisect(lane, pending[middle:])

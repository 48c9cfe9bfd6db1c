"""Requests that wait together travel together.

While a call is under way, requests of the same kind queue; when it returns, all that wait go as one
call, concatenated along the first dimension. There is no timer: who comes first goes at once, so
an idle service adds no latency, and the busier it is the more requests share a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import numpy as np

from client.codecs import Call
from client.errors import (
    ClientError,
    DeadlineExceededError,
    ResourceExhaustedError,
    ServerError,
    UnavailableError,
    server_error,
)
from client.inference.shares import Share, Whole
from client.observability.request_context import JOURNEYS
from client.serving import deadlines
from client.serving.deadlines import Deadline, Watch
from client.serving.flows import Prediction
from client.serving.tensors import Array

Group = TypeVar("Group", bound=Hashable)
Send = Callable[[Group, Call, float], Awaitable[Prediction]]
Observer = Callable[[int, int, float], None]

# These say nothing of the rows, so a part of the call would fare no better than the whole.
SHARED = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNAVAILABLE,
    }
)


@dataclass(frozen=True)
class Limits:
    """How much goes into a call, and how much may wait for one.

    Attributes:
        rows: of one call; a request with more goes alone. 1 turns coalescing off.
        size: bytes of one call's inputs; a request with more goes alone.
        calls: of a kind under way at once.
        waiting: requests that wait, of all kinds together.
        waiting_size: bytes of their inputs.
    """

    rows: int = 1024
    size: int = 4_000_000
    calls: int = 1
    waiting: int = 4096
    waiting_size: int = 64_000_000


class _Member:
    """A request that waits or is under way."""

    __slots__ = ("arrived", "call", "deadline", "future", "journeys", "rows", "size")

    def __init__(self, call: Call, rows: int, size: int, deadline: Deadline) -> None:
        self.call = call
        self.rows = rows
        self.size = size
        self.deadline = deadline
        self.arrived = deadlines.now()
        self.journeys = JOURNEYS.get()
        self.future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()

    def finish(self, prediction: Prediction) -> None:
        if not self.future.done():
            self.future.set_result(prediction)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def expire(self) -> None:
        self.fail(DeadlineExceededError("there was no answer in time"))


class _Lane(Generic[Group]):
    """The requests that may travel together, in the order they came, and the calls under way."""

    __slots__ = ("calls", "group", "key", "signature_name", "waiting")

    def __init__(self, key: Hashable, group: Group, signature_name: str) -> None:
        self.key = key
        self.group = group
        self.signature_name = signature_name
        self.waiting: dict[_Member, None] = {}
        self.calls = 0


class Coalescer(Generic[Group]):
    """Sends requests, together where that is possible; nobody ever gets another's rows.

    It belongs to the event loop it is used on.
    """

    def __init__(
        self,
        send: Send[Group],
        limits: Limits | None = None,
        observe: Observer = lambda requests, rows, waited: None,
    ) -> None:
        """Prepare.

        Args:
            send: makes a call that may take so many seconds.
            limits: of calls and of the queue.
            observe: called before each call with its requests and rows, and the seconds that the
                first of them has waited.
        """
        self._send = send
        self._limits = limits or Limits()
        self._observe = observe
        self._lanes: dict[Hashable, _Lane[Group]] = {}
        # How many rows a signature takes at once, where that turned out to be fewer than allowed.
        self._most_rows: dict[tuple[Group, str], int] = {}
        self._waiting = 0
        self._waiting_size = 0
        self._watch = Watch(_Member.expire)
        self._tasks: set[asyncio.Task[None]] = set()

    async def predict(
        self, group: Group, call: Call, deadline: Deadline, *, batched: bool
    ) -> Prediction:
        """Send a request, perhaps together with others.

        Args:
            group: the model and version it is for.
            call: what is asked of it.
            deadline: when the answer is of no more use.
            batched: whether the signature's first dimension counts rows that do not depend on one
                another.

        Raises:
            ResourceExhaustedError: too many wait already.
            DeadlineExceededError: there was no answer in time.
            ClientError: what the call failed with.
        """
        rows, size = _extent(call.inputs)
        most = self._most(group, call.signature_name)
        if not batched or not rows or rows >= most or size >= self._limits.size:
            self._observe(1, rows, 0.0)
            return await self._send(group, call, deadline.left())
        limits = self._limits
        if self._waiting >= limits.waiting or self._waiting_size + size > limits.waiting_size:
            raise ResourceExhaustedError(f"{self._waiting} requests wait already")
        lane = self._lane(group, call)
        member = _Member(call, rows, size, deadline)
        self._enqueue(lane, member)
        try:
            return await member.future
        finally:
            self._watch.remove(member)
            if member in lane.waiting:
                self._dequeue(lane, member)

    async def close(self) -> None:
        """Give up on all that wait or are under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _lane(self, group: Group, call: Call) -> _Lane[Group]:
        kinds = [(name, array.dtype, array.shape[1:]) for name, array in call.inputs.items()]
        key = (group, call.signature_name, call.output_filter, *kinds)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key, group, call.signature_name)
        return lane

    def _enqueue(self, lane: _Lane[Group], member: _Member) -> None:
        lane.waiting[member] = None
        self._waiting += 1
        self._waiting_size += member.size
        self._watch.add(member, member.deadline.end)
        if lane.calls < self._limits.calls:
            lane.calls += 1
            task = asyncio.get_running_loop().create_task(self._serve(lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _dequeue(self, lane: _Lane[Group], member: _Member) -> None:
        del lane.waiting[member]
        self._waiting -= 1
        self._waiting_size -= member.size

    async def _serve(self, lane: _Lane[Group]) -> None:
        """Make one call after the other until nobody waits."""
        try:
            while members := self._take(lane):
                await self._call(lane, members)
                # Who was answered goes on first, and whatever has arrived shares the next call.
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            for member in lane.waiting:
                member.fail(UnavailableError("the client is stopping"))
            raise
        finally:
            lane.calls -= 1
            if not lane.calls:
                del self._lanes[lane.key]

    def _take(self, lane: _Lane[Group]) -> list[_Member]:
        """Take as many as fit into a call."""
        taken: list[_Member] = []
        rows = size = 0
        most = self._most(lane.group, lane.signature_name)
        for member in lane.waiting:
            if member.future.done():
                continue  # its caller is about to dequeue it
            rows += member.rows
            size += member.size
            if taken and (rows > most or size > self._limits.size):
                break
            taken.append(member)
        for member in taken:
            self._dequeue(lane, member)
            for journey in member.journeys:
                journey.queued += deadlines.now() - member.arrived
        return taken

    async def _call(self, lane: _Lane[Group], members: Sequence[_Member]) -> bool:
        """Make one call for some requests, and tell whether it or its parts succeeded."""
        members = [member for member in members if not member.future.done()]
        if not members:
            return True
        rows = sum(member.rows for member in members)
        self._observe(len(members), rows, deadlines.now() - members[0].arrived)
        seconds = max(member.deadline.left() for member in members)
        # This task goes on for as long as anybody waits; it began with one request's context.
        JOURNEYS.set(tuple(journey for member in members for journey in member.journeys))
        try:
            prediction = await self._send(lane.group, _joined(members), seconds)
        except ServerError as error:
            if len(members) > 1 and error.code not in SHARED:
                return await self._take_apart(lane, members, error)
            for member in members:
                member.fail(server_error(error.code, error.message))
            return False
        except ClientError as error:
            for member in members:
                member.fail(ClientError(error.message, error.status))
            return False
        except asyncio.CancelledError:
            for member in members:
                member.fail(UnavailableError("the client is stopping"))
            raise
        except Exception as error:  # ours to mend; whoever asked will log it
            for member in members:
                member.fail(error)
            return False
        return await self._deliver(lane, members, prediction, rows)

    async def _take_apart(
        self, lane: _Lane[Group], members: Sequence[_Member], error: ServerError
    ) -> bool:
        """Call for one half and then the other, so that only who is at fault fails."""
        middle = len(members) // 2
        halves = (members[:middle], members[middle:])
        succeeded = [await self._call(lane, half) for half in halves]
        if all(succeeded) and error.code is grpc.StatusCode.INVALID_ARGUMENT:
            # Nobody was at fault: the server does not take so many rows, or so we learn.
            most = max(sum(member.rows for member in half) for half in halves)
            self._learn(lane, most)
        return all(succeeded)

    def _most(self, group: Group, signature_name: str) -> int:
        """Return how many rows a call may have."""
        learnt = self._most_rows.get((group, signature_name)) if self._most_rows else None
        return learnt or self._limits.rows

    def _learn(self, lane: _Lane[Group], most_rows: int) -> None:
        key = (lane.group, lane.signature_name)
        self._most_rows[key] = min(most_rows, self._most_rows.get(key, most_rows))

    async def _deliver(
        self,
        lane: _Lane[Group],
        members: Sequence[_Member],
        prediction: Prediction,
        rows: int,
    ) -> bool:
        if len(members) == 1:
            members[0].finish(prediction)
            return True
        if any(not a.ndim or len(a) != rows for a in prediction.outputs.values()):
            # The outputs have no row for each row, whatever the signature says.
            self._learn(lane, 1)
            return all([await self._call(lane, [member]) for member in members])
        whole, start = Whole(prediction.outputs), 0
        for member in members:
            stop = start + member.rows
            member.finish(Prediction(Share(whole, start, stop), prediction.version))
            start = stop
        return True


def _extent(inputs: Mapping[str, Array]) -> tuple[int, int]:
    """Return how many rows the inputs have, 0 if not equally many, and how many bytes."""
    size, rows = 0, -1
    for array in inputs.values():
        length = array.shape[0] if array.ndim else 0
        rows = length if rows in (length, -1) else 0
        size += array.nbytes
        if array.dtype.kind == "O":
            size += sum(map(len, array.flat))
    return max(rows, 0), size


def _joined(members: Sequence[_Member]) -> Call:
    first = members[0].call
    if len(members) == 1:
        return first
    inputs: dict[str, Any] = {
        name: np.concatenate([member.call.inputs[name] for member in members])
        for name in first.inputs
    }
    return Call(first.signature_name, inputs, first.output_filter)

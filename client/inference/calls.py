"""Calls for batches of requests: bounded, bisected on failure, and checked.

Outputs are split between requests only if they have one row for each input row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Any

import grpc

from client.codecs.batches import Batch, Call, row_count
from client.errors import ClientError, ServerError, server_error
from client.inference.batching import Limits
from client.inference.unshared_slots import UnsharedSlots
from client.serving.deadlines import Deadline
from client.serving.flows import Prediction

BatchObserver = Callable[[int, int], None]
# Takes the target, the schema, the call, the timeout in seconds, and the server.
SendCall = Callable[[Any, Any, Call, float, Any], Awaitable[Prediction]]
Answers = list[tuple[Batch, "Prediction | ClientError"]]

# These errors do not depend on the rows, so bisecting the call would not help.
ROW_INDEPENDENT_CODES = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNAVAILABLE,
    }
)


class BatchSender:
    """Sends batches in calls of a bounded number of rows."""

    def __init__(
        self,
        send: SendCall,
        limits: Limits,
        unshared_slots: UnsharedSlots,
        observe: BatchObserver = lambda requests, rows: None,
    ) -> None:
        """Create a sender.

        Args:
            send: makes one call.
            limits: limits of calls.
            unshared_slots: slots for unshared calls.
            observe: called before each call with the numbers of its requests and rows.
        """
        self._send = send
        self._limits = limits
        self._observe = observe
        self._unshared_slots = unshared_slots
        # Maximum rows per call of signatures that take fewer than the limit.
        self._max_rows: dict[Hashable, int] = {}

    async def send(
        self,
        target: Any,
        schema: Any,
        batch: Batch,
        deadline: Deadline,
        server: Any,
        is_done: Callable[[int], bool],
    ) -> AsyncIterator[tuple[Batch, Prediction | ClientError]]:
        """Yield each part of a batch with its prediction or its error."""
        if batch.rows is None:
            try:
                call = batch.call
                yield batch, await self.send_alone(target, schema, call, deadline, server)
            except ClientError as error:
                yield batch, error
            return
        key = (target, batch.call.signature_name)
        pending = batch.split(self._max_rows.get(key, self._limits.rows), self._limits.size)
        for part in pending:
            calls = _BatchCalls(self, target, schema, deadline, server, is_done)
            for answer in await calls.run(part):
                yield answer

    async def send_alone(
        self, target: Any, schema: Any, call: Call, deadline: Deadline, server: Any
    ) -> Prediction:
        """Make an unshared call, once a slot is free.

        Raises:
            ClientError: the call failed.
        """
        async with self._unshared_slots.slot(deadline):
            self._observe(1, row_count(call.inputs))
            return await self._send(target, schema, call, deadline.remaining(), server)

    async def call(
        self, target: Any, schema: Any, batch: Batch, deadline: Deadline, server: Any
    ) -> Prediction:
        """Make one call for a batch."""
        self._observe(len(batch.members), batch.total_rows)
        return await self._send(target, schema, batch.call, deadline.remaining(), server)

    def learn(self, target: Any, batch: Batch, max_rows: int) -> None:
        """Remember how many rows per call a signature takes."""
        key = (target, batch.call.signature_name)
        self._max_rows[key] = min(max_rows, self._max_rows.get(key, max_rows))


class _BatchCalls:
    """The calls for one batch, which is bisected on failure."""

    def __init__(
        self,
        sender: BatchSender,
        target: Any,
        schema: Any,
        deadline: Deadline,
        server: Any,
        is_done: Callable[[int], bool],
    ) -> None:
        self._sender = sender
        self._target = target
        self._schema = schema
        self._deadline = deadline
        self._server = server
        self._is_done = is_done

    async def run(self, batch: Batch) -> Answers:
        """Call with a batch, or with its halves if that fails, to isolate faulty requests."""
        if all(map(self._is_done, batch.members)):
            return []
        sender, target, schema = self._sender, self._target, self._schema
        try:
            prediction = await sender.call(target, schema, batch, self._deadline, self._server)
        except ServerError as error:
            if len(batch.members) > 1 and error.code not in ROW_INDEPENDENT_CODES:
                return await self._halve(batch, error)
            return self._fail_each(batch, error)
        except ClientError as error:
            return [(batch, error)]
        if len(batch.members) > 1 and not _has_rows(prediction, batch.total_rows):
            # The outputs do not have a row for each input row, despite the signature.
            sender.learn(target, batch, 1)
            parts = [batch.slice(i, i + 1) for i in range(len(batch.members))]
            return [answer for part in parts for answer in await self.run(part)]
        return [(batch, prediction)]

    async def _halve(self, batch: Batch, error: ServerError) -> Answers:
        middle = len(batch.members) // 2
        halves = (batch.slice(0, middle), batch.slice(middle, len(batch.members)))
        answers = [await self.run(half) for half in halves]
        flat = [answer for half in answers for answer in half]
        all_succeeded = all(isinstance(answer, Prediction) for _, answer in flat)
        # A request whose caller has left gets no answer, and may have been the faulty one.
        is_complete = sum(len(part.members) for part, _ in flat) == len(batch.members)
        if all_succeeded and is_complete and error.code is grpc.StatusCode.INVALID_ARGUMENT:
            # No request was faulty: the server does not take this many rows.
            self._sender.learn(self._target, batch, max(half.total_rows for half in halves))
        return flat

    def _fail_each(self, batch: Batch, error: ServerError) -> Answers:
        if len(batch.members) == 1:
            return [(batch, error)]
        # Each request gets its own error object, since raising adds a traceback to it.
        return [
            (batch.slice(i, i + 1), server_error(error.code, error.message))
            for i in range(len(batch.members))
        ]


def _has_rows(prediction: Prediction, rows: int) -> bool:
    return all(a.ndim and len(a) == rows for a in prediction.outputs.values())

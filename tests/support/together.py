"""Batches of requests for tests; each request has a future."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from client.codecs import Decoding
from client.codecs.batches import Batch, Call, byte_size, group_into_batches
from client.errors import ClientError
from client.inference.attempts import Attempts
from client.inference.batching import DynamicBatcher, Job, Limits
from client.inference.calls import BatchSender
from client.inference.predictor import Predictor
from client.inference.unshared_slots import UnsharedSlots
from client.serving.client import Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.schema import Schema


class DecodedCall(NamedTuple):
    """A decoded request that consists only of its call."""

    call: Call


class FutureJob(Job):
    """A job that sets the result of a future."""

    __slots__ = ("batched", "future", "request")

    def __init__(self, request: Any, size: int, deadline: Deadline, batched: bool = True) -> None:
        super().__init__(size, deadline)
        self.request = request
        self.batched = batched
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def finish(self, result: Any) -> None:
        self.done = True
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        self.done = True
        if not self.future.done():
            self.future.set_exception(error)


class SharedCalls:
    """Batches calls and sends each batch with a function.

    Attributes:
        batcher: the queue of the calls.
    """

    def __init__(
        self,
        send: Callable[[str, Call, float], Awaitable[Prediction]],
        limits: Limits | None = None,
        slots: int = 1,
        observe: Callable[[int, int], None] = lambda requests, rows: None,
        observe_wait: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        limits = limits or Limits()
        unshared_slots = UnsharedSlots(limits.calls)
        self.batcher: DynamicBatcher[str] = DynamicBatcher(
            self._run, limits, unshared_slots, lambda: slots, observe_wait
        )
        self._sender = BatchSender(
            lambda target, schema, call, seconds, server: send(target, call, seconds),
            limits,
            unshared_slots,
            observe,
        )

    async def predict(
        self, group: str, call: Call, deadline: Deadline, *, batched: bool
    ) -> Prediction:
        size = sum(map(byte_size, call.inputs.values()))
        job = FutureJob(call, size, deadline, batched)
        self.batcher.put(group, job)
        try:
            prediction: Prediction = await job.future
            return prediction
        finally:
            self.batcher.remove(job)

    async def _run(self, group: str, jobs: list[Job]) -> None:
        waiting = [job for job in jobs if isinstance(job, FutureJob)]
        names = {job.request.signature_name: job.batched for job in waiting}
        signatures = {name: SimpleNamespace(batched=value) for name, value in names.items()}
        schema: Any = SimpleNamespace(signatures=signatures)
        batches = group_into_batches(
            {i: DecodedCall(job.request) for i, job in enumerate(waiting)}, schema
        )
        deadline = max((job.deadline for job in waiting), key=lambda deadline: deadline.end)

        async def send(batch: Batch) -> None:
            async for part, result in self._sender.send(
                group, None, batch, deadline, None, lambda i: waiting[i].done
            ):
                for member, prediction in split_result(part, result):
                    settle(waiting[member], prediction)

        await asyncio.gather(*map(send, batches))


class BatchedPredictor:
    """Batches requests to a predictor as the gateway does."""

    def __init__(self, predictor: Predictor, limits: Limits | None = None) -> None:
        self.predictor = predictor
        self.schema = predictor.schema
        self._batcher: DynamicBatcher[Target] = DynamicBatcher(
            self._run, limits or Limits(), predictor.unshared_slots
        )

    async def predict(
        self, target: Target, read: Callable[[Schema], Call], deadline: Deadline
    ) -> tuple[Call, Prediction]:
        """Return the decoded call and its prediction."""
        job = FutureJob(read, 1, deadline)
        self._batcher.put(target, job)
        try:
            result: tuple[Call, Prediction] = await job.future
            return result
        finally:
            self._batcher.remove(job)

    async def _run(self, target: Target, jobs: list[Job]) -> None:
        waiting = [job for job in jobs if isinstance(job, FutureJob)]

        def decode(indexes: Sequence[int], schema: Schema) -> Decoding:
            decoded, errors = {}, {}
            for position, index in enumerate(indexes):
                try:
                    decoded[position] = DecodedCall(waiting[index].request(schema))
                except ClientError as error:
                    errors[position] = error
            return Decoding(group_into_batches(decoded, schema), errors)

        async def run_attempts(attempts: Attempts) -> None:
            while attempt := await attempts.next():
                await attempts.predict(attempt, decode(attempt.indexes, attempt.schema))

        deadline = max((job.deadline for job in waiting), key=lambda deadline: deadline.end)
        outcome = await self.predictor.run(
            target, len(waiting), run_attempts, deadline, lambda index: waiting[index].done
        )
        for result in outcome.results:
            calls = dict(zip(result.batch.members, result.batch.decoded, strict=True))
            for member, prediction in split_result(result.batch, result.prediction):
                assert isinstance(prediction, Prediction)
                settle(waiting[member], (calls[member].call, prediction))
        for index, error in outcome.errors.items():
            waiting[index].fail(error)


def split_result(
    batch: Batch, result: Prediction | ClientError
) -> list[tuple[int, Prediction | ClientError]]:
    """Return the prediction or the error of each request in a batch."""
    if isinstance(result, ClientError) or len(batch.members) == 1:
        return [(member, result) for member in batch.members]
    return [
        (member, result._replace(outputs={n: a[start:stop] for n, a in result.outputs.items()}))
        for member, (start, stop) in zip(batch.members, batch.bounds(), strict=True)
    ]


def settle(job: FutureJob, result: Any) -> None:
    if isinstance(result, ClientError):
        job.fail(result)
    else:
        job.finish(result)

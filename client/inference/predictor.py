"""Predictions: the choice of a server, and hedging of late calls.

Requests are encoded by the schema of the server they go to, since servers do not load a new version
at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from client.codecs.batches import Call
from client.errors import DeadlineExceededError
from client.inference import input_ranges
from client.inference.attempts import Attempts, Checks, Decode, Outcome
from client.inference.batching import Limits
from client.inference.calls import BatchObserver, BatchSender
from client.serving.client import AsyncServingClient, Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.pool import Server
from client.serving.schema import Schema
from client.serving.schema_cache import SchemaCache


class Predictor:
    """Predicts with the models of a `ServingClient`.

    It is bound to one event loop. `async with` keeps its schemas fresh.
    """

    def __init__(
        self,
        client: AsyncServingClient,
        limits: Limits | None = None,
        observe: BatchObserver = lambda requests, rows: None,
        checks: Checks | None = None,
    ) -> None:
        """Create a predictor.

        Args:
            client: the client of the model servers.
            limits: limits of calls.
            observe: called before each call with its requests and rows.
            checks: checks for values not seen in training.
        """
        self.client = client
        self.schemas = SchemaCache(client)
        self._checks = checks or Checks(frozenset(), lambda model, kind, counts: None)
        self._sender = BatchSender(self._call, limits or Limits(), observe)
        self._refreshing: asyncio.Task[None] | None = None

    async def run(
        self,
        target: Target,
        places: Sequence[int],
        decode: Decode,
        deadline: Deadline,
        is_done: Callable[[int], bool] = lambda place: False,
    ) -> Outcome:
        """Decode requests and predict their rows.

        A late call is repeated on another server, and the first answer counts.

        Args:
            target: the model, and the version if one is requested.
            places: indexes of the requests.
            decode: decodes some of the requests.
            deadline: the latest deadline of the requests.
            is_done: whether a request has been answered or cancelled.
        """

        def attempts(server: Server) -> Attempts:
            return Attempts(
                self.schemas, self._sender, self._checks, target, decode, deadline, is_done, server
            )

        pool = self.client.pool
        server = pool.pick()
        if len(pool.servers) == 1:
            return await attempts(server).run(places)
        running = {server: asyncio.create_task(attempts(server).run(places))}
        try:
            while True:
                other = pool.other(server) if len(running) == 1 else None
                late = pool.late_after if other is not None else None
                await asyncio.wait(
                    running.values(), timeout=late, return_when=asyncio.FIRST_COMPLETED
                )
                lost: Outcome | None = None
                for one in [one for one, task in running.items() if task.done()]:
                    outcome = running.pop(one).result()
                    if not outcome.is_unreached:
                        return outcome
                    lost = outcome
                    pool.leave_out(one)
                if lost is None:
                    pool.leave_out(server)
                if other is not None and deadline.left():
                    running[other] = asyncio.create_task(attempts(other).run(places))
                elif lost is not None and not running:
                    return lost
                server = next(reversed(running))
        finally:
            for task in running.values():
                task.cancel()

    async def predict(
        self,
        target: Target,
        schema: Schema,
        call: Call,
        deadline: Deadline,
        rows_before: int = 0,
        findings: list[input_ranges.Finding] | None = None,
    ) -> Prediction:
        """Run one decoded call.

        The reply may be from another version than the schema's.

        Args:
            target: the model, and the version if one is requested.
            schema: the schema that the call was decoded with.
            call: the call.
            deadline: when the call times out.
            rows_before: number of the request's rows in earlier calls, for error messages.
            findings: a list that is extended with values not seen in training.

        Raises:
            ClientError: the server cannot answer, or a value is refused.
        """
        found = input_ranges.find(call, schema)
        if findings is not None:
            findings.extend(found)
        input_ranges.refuse(found, *self._checks.refused, rows_before=rows_before)
        server = self.schemas.server_of(target, schema) or self.client.pool.pick()
        prediction = await self._sender.send_alone(target, schema, call, deadline, server)
        self._checks.count(schema, found)
        return prediction

    async def schema(self, target: Target, deadline: Deadline) -> Schema:
        """Return a model's schema, from the cache or from a server.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return await self.schemas.load(target, self.client.pool.pick(), deadline)

    async def metadata(self, target: Target, deadline: Deadline) -> Schema:
        """Return a model's current schema from a server.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return await self.schemas.ask(target, self.client.pool.pick(), deadline)

    def known_models(self) -> list[str]:
        """Return the names of the models whose latest version was used recently."""
        return self.schemas.models()

    async def status(self, target: Target, deadline: Deadline) -> list[Any]:
        """Return the `ModelVersionStatus` of each version of a model, newest first.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return await self.client.status(target, timeout=deadline.left())

    async def classify(
        self, target: Target, examples: Any, signature_name: str, deadline: Deadline
    ) -> Any:
        """Return the `ClassificationResponse` to an `Input` message.

        Raises:
            ServerError: the server refused the request, or cannot be reached.
        """
        async with self._sender.slot(deadline):
            return await self.client.classify(
                target, examples, signature_name=signature_name, timeout=deadline.left()
            )

    async def regress(
        self, target: Target, examples: Any, signature_name: str, deadline: Deadline
    ) -> Any:
        """Return the `RegressionResponse` to an `Input` message.

        Raises:
            ServerError: the server refused the request, or cannot be reached.
        """
        async with self._sender.slot(deadline):
            return await self.client.regress(
                target, examples, signature_name=signature_name, timeout=deadline.left()
            )

    async def __aenter__(self) -> Predictor:
        self.client.pool.start()
        self._refreshing = asyncio.create_task(self.schemas.keep_fresh())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()

    async def _call(
        self, target: Target, schema: Schema, call: Call, seconds: float, server: Server
    ) -> Prediction:
        if not seconds:
            # gRPC may still return a reply after the deadline.
            raise DeadlineExceededError("there was no answer in time")
        return await self.client.predict(
            target,
            call.inputs,
            signature_name=call.signature_name,
            signature=schema.signatures.get(call.signature_name),
            output_filter=call.output_filter,
            timeout=seconds,
            server=server,
        )

"""Prediction: choosing a server, and hedging late calls.

Requests are decoded with the schema of the server that they go to, since servers do not all load a
new version at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar

from client.codecs.batches import Call
from client.errors import ClientError, DeadlineExceededError, UnavailableError
from client.inference import input_ranges
from client.inference.attempts import Attempts, Checks, Outcome
from client.inference.batching import Limits
from client.inference.calls import BatchObserver, BatchSender
from client.inference.golden import GoldenObserver
from client.inference.unshared_slots import UnsharedSlots
from client.inference.verified_servers import VerifiedServers
from client.serving.async_client import AsyncServingClient
from client.serving.client import Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.pool import Server
from client.serving.schema import Schema

T = TypeVar("T")


class Predictor:
    """Predicts with the models of an `AsyncServingClient`.

    It is bound to one event loop. `async with` keeps its schemas fresh.

    Attributes:
        client: the client of the model servers.
        servers: the servers that may answer for each version.
        schemas: the versions' schemas.
        unshared_slots: slots for unshared calls.
        stable: adds a rollout's stable version to a target without version or label.
    """

    def __init__(
        self,
        client: AsyncServingClient,
        limits: Limits | None = None,
        observe: BatchObserver = lambda requests, rows: None,
        checks: Checks | None = None,
        observe_golden: GoldenObserver = lambda model, version, server, result: None,
    ) -> None:
        """Create a predictor.

        Args:
            client: the client of the model servers.
            limits: limits of calls and of the queue.
            observe: called before each call with the numbers of its requests and rows.
            checks: checks for values not seen in training.
            observe_golden: called with the result of each version's golden rows on a server.
        """
        self.client = client
        self.servers = VerifiedServers(client, observe_golden)
        self.schemas = self.servers.schemas
        self.stable: Callable[[Target], Target] = lambda target: target
        self._checks = checks or Checks(frozenset(), lambda model, kind, counts: None)
        limits = limits or Limits()
        self.unshared_slots = UnsharedSlots(limits.calls)
        self._sender = BatchSender(self._call, limits, self.unshared_slots, observe)
        self._tasks: list[asyncio.Task[None]] = []

    async def run(
        self,
        target: Target,
        count: int,
        run_attempts: Callable[[Attempts], Awaitable[None]],
        deadline: Deadline,
        is_done: Callable[[int], bool] = lambda index: False,
        *,
        on_trial: bool = False,
    ) -> Outcome:
        """Answer requests on one server.

        If it is late, they are sent to another one as well, and the first answer counts.

        Args:
            target: the model, and the version if one is requested.
            count: number of requests.
            run_attempts: decodes and predicts the requests of each attempt on one server.
            deadline: the latest deadline of the requests.
            is_done: whether the request at an index has been answered or cancelled.
            on_trial: whether to avoid servers that failed the version's golden rows or were not
                checked; if not, only those that failed are avoided, while another can answer.
        """

        async def run_on(server: Server) -> Outcome:
            attempts = Attempts(
                self.schemas, self._sender, self._checks, target, count, deadline, is_done, server
            )
            await run_attempts(attempts)
            return attempts.outcome

        pool = self.client.pool
        try:
            avoid = await self.servers.to_avoid(target, deadline, on_trial=on_trial)
        except ClientError as error:
            return Outcome(errors=dict.fromkeys(range(count), error))
        server = pool.pick(avoid)
        if len(pool.servers) == 1:
            return await run_on(server)
        running = {server: asyncio.create_task(run_on(server))}
        try:
            while True:
                other = pool.pick_other(server, avoid) if len(running) == 1 else None
                timeout = pool.late_after if other is not None else None
                await asyncio.wait(
                    running.values(), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                failure: Outcome | None = None
                for finished in [each for each, task in running.items() if task.done()]:
                    outcome = running.pop(finished).result()
                    if not outcome.is_unreachable:
                        return outcome
                    failure = outcome
                    pool.eject(finished)
                if failure is None:
                    pool.eject(server)
                if other is not None and deadline.remaining():
                    running[other] = asyncio.create_task(run_on(other))
                elif failure is not None and not running:
                    return failure
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
        *,
        on_trial: bool = False,
    ) -> Prediction:
        """Run one decoded call.

        The prediction may come from a version other than the schema's.

        Args:
            target: the model, and the version if one is requested.
            schema: the schema that the call was decoded with.
            call: the call.
            deadline: when the call times out.
            rows_before: number of the request's rows in earlier calls, for error messages.
            findings: list to extend with the values not seen in training.
            on_trial: as in `run`.

        Raises:
            ClientError: the server cannot answer, or a value is refused.
        """
        new_findings = input_ranges.find(call, schema)
        if findings is not None:
            findings.extend(new_findings)
        input_ranges.refuse(new_findings, *self._checks.refused, rows_before=rows_before)
        avoid = await self.servers.to_avoid(target, deadline, on_trial=on_trial)
        prediction = await self._call_any(
            lambda server: self._sender.send_alone(target, schema, call, deadline, server),
            avoid,
            self.schemas.pick_server(target, schema, avoid),
        )
        self._checks.count(schema, new_findings)
        return prediction

    async def copy(
        self, target: Target, schema: Schema, call: Call, deadline: Deadline
    ) -> Prediction:
        """Run a decoded call that no caller waits for; it does not take up a slot.

        Raises:
            ClientError: no server may answer for the version, or the call fails.
        """
        server = self.client.pool.pick(await self.servers.to_avoid(target, deadline, on_trial=True))
        return await self._call(target, schema, call, deadline.remaining(), server)

    def find_refused(self, schema: Schema, call: Call, numbers: Sequence[int]) -> dict[int, str]:
        """Return the errors of rows with refused values, by row number.

        Args:
            schema: the schema that the call was decoded with.
            call: the call.
            numbers: number of each of its rows in the request, from 0.
        """
        kinds = self._checks.refused
        errors = {}
        findings = input_ranges.find(call, schema) if kinds else []
        for row in input_ranges.affected_rows(findings, *kinds):
            inputs = {name: values[row : row + 1] for name, values in call.inputs.items()}
            try:
                row_findings = input_ranges.find(call._replace(inputs=inputs), schema)
                input_ranges.refuse(row_findings, *kinds, rows_before=numbers[row])
            except ClientError as error:
                errors[numbers[row]] = error.message
        return errors

    async def schema(self, target: Target, deadline: Deadline) -> Schema:
        """Return a model's schema, from the cache or from a server.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        stable = self.stable(target)
        return await self._call_any(lambda server: self.schemas.load(stable, server, deadline))

    async def metadata(self, target: Target, deadline: Deadline) -> Schema:
        """Return a model's current schema from a server.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        stable = self.stable(target)
        return await self._call_any(lambda server: self.schemas.fetch(stable, server, deadline))

    def known_models(self) -> list[str]:
        """Return the names of the models whose latest version is cached."""
        return self.schemas.models()

    async def status(self, target: Target, deadline: Deadline) -> list[Any]:
        """Return the `ModelVersionStatus` of each version of a model, newest first.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return await self._call_any(
            lambda server: self.client.status(target, timeout=deadline.remaining(), server=server)
        )

    async def classify_or_regress(
        self,
        method: Literal["classify", "regress"],
        target: Target,
        examples: Any,
        signature_name: str,
        deadline: Deadline,
        *,
        on_trial: bool = False,
    ) -> Any:
        """Return the `ClassificationResponse` or `RegressionResponse` to an `Input` message.

        Raises:
            ServerError: the server refused the request, or cannot be reached.
        """
        call = self.client.classify if method == "classify" else self.client.regress
        avoid = await self.servers.to_avoid(target, deadline, on_trial=on_trial)
        async with self.unshared_slots.slot(deadline):
            return await self._call_any(
                lambda server: call(
                    target,
                    examples,
                    signature_name=signature_name,
                    timeout=deadline.remaining(),
                    server=server,
                ),
                avoid,
            )

    async def __aenter__(self) -> Predictor:
        self.client.pool.start()
        polling = (self.schemas.keep_fresh(), self.servers.recheck())
        self._tasks = [asyncio.create_task(coroutine) for coroutine in polling]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()

    async def _call_any(
        self,
        call: Callable[[Server], Awaitable[T]],
        avoid: Collection[Server] = (),
        first: Server | None = None,
    ) -> T:
        """Call a server, and others if it cannot be reached.

        Args:
            call: makes the call to a server.
            avoid: servers that must not answer.
            first: the server to call first.
        """
        pool = self.client.pool
        server = first or pool.pick(avoid)
        while True:
            try:
                return await call(server)
            except UnavailableError:
                pool.eject(server)
                avoid = (*avoid, server)
                other = pool.pick_other(server, avoid)
                if other is None:
                    raise
                server = other

    async def _call(
        self, target: Target, schema: Schema, call: Call, timeout: float, server: Server
    ) -> Prediction:
        if not timeout:
            # gRPC may still return a response after the deadline.
            raise DeadlineExceededError("there was no answer in time")
        return await self.client.predict(
            target,
            call.inputs,
            signature_name=call.signature_name,
            signature=schema.signatures.get(call.signature_name),
            output_filter=call.output_filter,
            timeout=timeout,
            server=server,
        )

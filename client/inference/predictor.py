"""Predictions of any model: schemas, servers, batches and what a failing call means.

A request is decoded by the schema of a version, so it matters which version answers: a column may
have moved. Each server is asked by what it itself has said, since servers do not learn of a new
version at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

from client.codecs import Decoding
from client.codecs.batches import Batch, Call, same_call
from client.errors import ClientError, ServerError, UnavailableError
from client.inference import input_ranges
from client.inference.batching import Limits
from client.inference.calls import BatchObserver, BatchSender
from client.inference.input_ranges import MISSING, OUT_OF_RANGE, UNSEEN, Finding
from client.serving.client import AsyncServingClient, Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.pool import Server
from client.serving.schema import Schema
from client.serving.schema_cache import SchemaCache

# How many versions in a row may answer in place of the one expected before requests are given up.
MAX_ATTEMPTS = 4

# Decodes the requests at some places by a schema.
Decode = Callable[[Sequence[int], Schema], Awaitable[Decoding]]
FindingObserver = Callable[[str, str, Mapping[str, int]], None]


@dataclass(frozen=True)
class Policy:
    """Which values that were not seen in training are refused; the others are counted."""

    refused: frozenset[str] = frozenset()


class Answered(NamedTuple):
    """Requests that one call has answered.

    Attributes:
        batch: the requests.
        prediction: of their rows.
        schema: of the version that computed them.
        missing: missing values in each request, empty if there are none at all.
    """

    batch: Batch
    prediction: Prediction
    schema: Schema
    missing: Mapping[int, int]


@dataclass
class Outcome:
    """What became of some requests, by their places."""

    answered: list[Answered] = field(default_factory=list)
    errors: dict[int, ClientError] = field(default_factory=dict)

    def fail(self, members: Sequence[int], error: ClientError) -> None:
        """Note that requests failed with an error."""
        self.errors.update(dict.fromkeys(members, error))


class Predictor:
    """Predicts with the models of a `ServingClient`.

    It belongs to the event loop it is used on. `async with` keeps its schemas fresh.
    """

    def __init__(
        self,
        client: AsyncServingClient,
        limits: Limits | None = None,
        observe: BatchObserver = lambda requests, rows: None,
        observe_findings: FindingObserver = lambda model, kind, counts: None,
        policy: Policy | None = None,
    ) -> None:
        """Create a predictor.

        Args:
            client: of the model servers.
            limits: of the calls.
            observe: called before each call with its requests and rows.
            observe_findings: called with the model, the kind of finding and the counts by column.
            policy: which values are refused.
        """
        self.client = client
        self.schemas = SchemaCache(client)
        self._observe_findings = observe_findings
        self._policy = policy or Policy()
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

        A call that is late goes to another server too, and the first to answer counts.

        Args:
            target: the model, and the version if one is asked for.
            places: of the requests.
            decode: decodes some of them.
            deadline: of the last request.
            is_done: whether nobody waits for a request any more.
        """
        pool = self.client.pool
        server = pool.pick()
        if len(pool.servers) == 1:
            return await self._run_on(server, target, places, decode, deadline, is_done)
        running = {server: self._start(server, target, places, decode, deadline, is_done)}
        try:
            while True:
                other = pool.other(server) if len(running) == 1 else None
                late = pool.late_after if other is not None else None
                done, _ = await asyncio.wait(
                    running.values(), timeout=late, return_when=asyncio.FIRST_COMPLETED
                )
                outcome = done.pop().result() if done else None
                if outcome is not None and (other is None or not _is_lost(outcome)):
                    return outcome
                # The server is late, or could not be reached.
                pool.leave_out(server)
                if other is not None and deadline.left():
                    if outcome is not None:
                        del running[server]
                    server = other
                    running[other] = self._start(other, target, places, decode, deadline, is_done)
                elif outcome is not None:
                    return outcome
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
    ) -> Prediction:
        """Run one decoded call.

        The reply may be of another version than the schema's.

        Args:
            target: the model, and the version if one is asked for.
            schema: by which the call was decoded.
            call: what is asked.
            deadline: when the reply is of no more use.
            rows_before: rows of the same request in calls before, for what errors say.

        Raises:
            ClientError: the server cannot answer, or a value is refused.
        """
        found = input_ranges.find(call, schema)
        input_ranges.refuse(found, *self._policy.refused, rows_before=rows_before)
        server = self.schemas.server_of(target, schema) or self.client.pool.pick()
        prediction = await self._sender.send_alone(target, schema, call, deadline, server)
        self._count(schema, found)
        return prediction

    async def schema(self, target: Target, deadline: Deadline) -> Schema:
        """Return how a model looks, asking a server only if that is not known.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return await self.schemas.load(target, self.client.pool.pick(), deadline)

    async def metadata(self, target: Target, deadline: Deadline) -> Schema:
        """Ask a server how a model looks now.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return await self.schemas.ask(target, self.client.pool.pick(), deadline)

    def known_models(self) -> list[str]:
        """Return the names of the models whose latest version was asked for lately."""
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

    def _start(self, server: Server, *arguments: Any) -> asyncio.Task[Outcome]:
        return asyncio.create_task(self._run_on(server, *arguments))

    async def _run_on(
        self,
        server: Server,
        target: Target,
        places: Sequence[int],
        decode: Decode,
        deadline: Deadline,
        is_done: Callable[[int], bool],
    ) -> Outcome:
        outcome = Outcome()
        left: Sequence[int] = places
        try:
            schema = await self.schemas.load(target, server, deadline)
            for _ in range(MAX_ATTEMPTS):
                turn = await self._attempt(
                    server, target, schema, left, decode, deadline, is_done, outcome
                )
                left = turn.again
                if turn.failed:
                    first = next(iter(turn.failed.values()))
                    fresh = await self.schemas.refresh(target, server, schema, deadline, first)
                    if fresh is None:
                        outcome.errors.update(turn.failed)
                    else:
                        left = [*left, *turn.failed]
                        schema = fresh
                if not left:
                    return outcome
                schema = turn.schema if turn.again else schema
        except ClientError as error:
            outcome.fail(left, error)
            return outcome
        outcome.fail(
            left, UnavailableError(f"model {target.model} changes faster than it can be asked")
        )
        return outcome

    async def _attempt(
        self,
        server: Server,
        target: Target,
        schema: Schema,
        places: Sequence[int],
        decode: Decode,
        deadline: Deadline,
        is_done: Callable[[int], bool],
        outcome: Outcome,
    ) -> _Turn:
        """Decode and call once; what has to be done again is in the result."""
        decoding = await decode(places, schema)
        errors = {places[index]: error for index, error in decoding.errors.items()}
        turn = _Turn(schema, errors)

        async def answer(whole: Batch) -> None:
            whole.members = [places[index] for index in whole.members]
            batch, found = self._checked(whole, schema, turn.failed)
            if batch is None:
                return
            missing = _missing_by_member(batch, found)
            async for part, reply in self._sender.send(
                target, schema, batch, deadline, server, is_done
            ):
                if isinstance(reply, ClientError):
                    turn.failed.update(dict.fromkeys(part.members, reply))
                elif reply.version == schema.version:
                    outcome.answered.append(Answered(part, reply, schema, missing))
                else:
                    other = await self.schemas.answered_by(target, reply.version, server, deadline)
                    turn.schema = other
                    if _same(part, await decode(part.members, other)):
                        outcome.answered.append(Answered(part, reply, other, missing))
                    else:
                        turn.again.extend(part.members)
            self._count(schema, found)

        if len(decoding.batches) == 1:
            await answer(decoding.batches[0])
        else:
            await asyncio.gather(*map(answer, decoding.batches))
        return turn

    def _checked(
        self, batch: Batch, schema: Schema, failed: dict[int, ClientError]
    ) -> tuple[Batch | None, list[Finding]]:
        """Take out the requests with values that are refused."""
        found = input_ranges.find(batch.call, schema)
        refused = self._policy.refused
        if not any(finding.kind in refused for finding in found):
            return batch, found
        good = []
        for index, member in enumerate(batch.members):
            own = batch.part(index, index + 1) if batch.rows is not None else batch
            try:
                input_ranges.refuse(input_ranges.find(own.call, schema), *refused)
                good.append(index)
            except ClientError as error:
                failed[member] = error
        if not good:
            return None, []
        rest = batch.keep(good)
        return rest, input_ranges.find(rest.call, schema)

    async def _call(
        self, target: Target, schema: Schema, call: Call, seconds: float, server: Server
    ) -> Prediction:
        return await self.client.predict(
            target,
            call.inputs,
            signature_name=call.signature_name,
            signature=schema.signatures.get(call.signature_name),
            output_filter=call.output_filter,
            timeout=seconds,
            server=server,
        )

    def _count(self, schema: Schema, found: list[Finding]) -> None:
        for kind in (OUT_OF_RANGE, UNSEEN, MISSING):
            counts = input_ranges.count(found, kind)
            if counts:
                self._observe_findings(schema.model, kind, counts)


@dataclass
class _Turn:
    """What one attempt left to do: the schema to go on with, errors, and places to do again."""

    schema: Schema
    failed: dict[int, ClientError]
    again: list[int] = field(default_factory=list)


def _is_lost(outcome: Outcome) -> bool:
    """Whether a server could not be reached, so that another is worth a try."""
    return not outcome.answered and all(
        isinstance(error, ServerError) and error.status == 503 for error in outcome.errors.values()
    )


def _same(part: Batch, decoding: Decoding) -> bool:
    """Whether requests mean the same when they are decoded by another schema."""
    if decoding.errors or len(decoding.batches) != 1:
        return False
    other = decoding.batches[0]
    return len(other.members) == len(part.members) and same_call(other.call, part.call)


def _missing_by_member(batch: Batch, found: list[Finding]) -> Mapping[int, int]:
    rows = [row for f in found if f.kind == MISSING for row in f.rows.tolist()]
    if not rows:
        return {}
    if batch.rows is None:
        return {batch.members[0]: len(rows)}
    counts = {}
    for member, (start, stop) in zip(batch.members, batch.bounds(), strict=True):
        count = sum(start <= row < stop for row in rows)
        if count:
            counts[member] = count
    return counts

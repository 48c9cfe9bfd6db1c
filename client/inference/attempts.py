"""Attempts: requests decoded with a server's schema, called, and checked.

Requests are decoded with one version's schema, but another version may answer, with other columns.
Then requests that mean the same to it keep their predictions, and the others are retried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from client.codecs import Decoding
from client.codecs.batches import Batch, same_call
from client.errors import ClientError, ServerError, UnavailableError
from client.inference import input_ranges
from client.inference.calls import BatchSender
from client.inference.input_ranges import MISSING, OUT_OF_RANGE, UNSEEN, Finding
from client.serving.client import Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.pool import Server
from client.serving.schema import Schema
from client.serving.schema_cache import SchemaCache

# Give up after this many successive answers by an unexpected version.
MAX_ATTEMPTS = 4

# Decodes the requests at some indexes with a schema.
Decode = Callable[[Sequence[int], Schema], Awaitable[Decoding]]
FindingObserver = Callable[[str, str, Mapping[str, int]], None]


class Answered(NamedTuple):
    """Requests that one call has answered.

    Attributes:
        batch: the requests.
        prediction: the prediction for their rows.
        schema: schema of the version that computed it.
        missing: number of missing values in each request; empty if there are none.
    """

    batch: Batch
    prediction: Prediction
    schema: Schema
    missing: Mapping[int, int]


@dataclass
class Outcome:
    """Results and errors of requests, by index."""

    answered: list[Answered] = field(default_factory=list)
    errors: dict[int, ClientError] = field(default_factory=dict)

    def fail(self, members: Sequence[int], error: ClientError) -> None:
        """Record an error for some requests."""
        self.errors.update(dict.fromkeys(members, error))

    @property
    def is_unreached(self) -> bool:
        """Whether the server could not be reached, so that another should be tried."""
        return not self.answered and all(
            isinstance(error, ServerError) and error.status == 503 for error in self.errors.values()
        )


class Checks:
    """Counts values not seen in training, and rejects some kinds of them."""

    def __init__(self, refused: frozenset[str], observe: FindingObserver) -> None:
        """Create the checks.

        Args:
            refused: kinds of findings to reject.
            observe: called with the model, the kind of finding and the counts by column.
        """
        self.refused = refused
        self._observe = observe

    def split(
        self, batch: Batch, schema: Schema
    ) -> tuple[Batch | None, list[Finding], dict[int, ClientError]]:
        """Remove the requests with rejected values from a batch.

        Returns:
            The rest, its findings, and the errors of the removed requests.
        """
        found = input_ranges.find(batch.call, schema)
        if not any(finding.kind in self.refused for finding in found):
            return batch, found, {}
        good: list[int] = []
        errors: dict[int, ClientError] = {}
        for index, member in enumerate(batch.members):
            own = batch.part(index, index + 1) if batch.rows is not None else batch
            try:
                input_ranges.refuse(input_ranges.find(own.call, schema), *self.refused)
                good.append(index)
            except ClientError as error:
                errors[member] = error
        if not good:
            return None, [], errors
        rest = batch.keep(good)
        return rest, input_ranges.find(rest.call, schema), errors

    def count(self, schema: Schema, found: list[Finding]) -> None:
        """Count the findings of a call."""
        for kind in (OUT_OF_RANGE, UNSEEN, MISSING):
            counts = input_ranges.count(found, kind)
            if counts:
                self._observe(schema.model, kind, counts)


class Attempts:
    """The attempts to answer some requests on one server."""

    def __init__(
        self,
        schemas: SchemaCache,
        sender: BatchSender,
        checks: Checks,
        target: Target,
        decode: Decode,
        deadline: Deadline,
        is_done: Callable[[int], bool],
        server: Server,
    ) -> None:
        self._schemas = schemas
        self._sender = sender
        self._checks = checks
        self._target = target
        self._decode = decode
        self._deadline = deadline
        self._is_done = is_done
        self._server = server
        self._outcome = Outcome()
        # State of the current attempt: errors, requests to decode again, and the schema for that.
        self._failed: dict[int, ClientError] = {}
        self._again: list[int] = []
        self._newer: Schema | None = None

    async def run(self, places: Sequence[int]) -> Outcome:
        """Answer the requests at some indexes."""
        outcome, deadline = self._outcome, self._deadline
        target, server = self._target, self._server
        left: Sequence[int] = places
        try:
            schema = await self._schemas.load(target, server, deadline)
            for _ in range(MAX_ATTEMPTS):
                await self._attempt(schema, left)
                left = self._again
                if self._failed:
                    first = next(iter(self._failed.values()))
                    fresh = await self._schemas.refresh(target, server, schema, deadline, first)
                    if fresh is None:
                        outcome.errors.update(self._failed)
                    else:
                        left = [*left, *self._failed]
                        self._newer = fresh
                if not left:
                    return outcome
                schema = self._newer or schema
        except ClientError as error:
            outcome.fail(left, error)
            return outcome
        outcome.fail(left, UnavailableError(f"model {target.model} changes versions too fast"))
        return outcome

    async def _attempt(self, schema: Schema, places: Sequence[int]) -> None:
        """Decode and call once."""
        decoding = await self._decode(places, schema)
        self._failed = {places[index]: error for index, error in decoding.errors.items()}
        self._again, self._newer = [], None
        for batch in decoding.batches:
            batch.members = [places[index] for index in batch.members]
        if len(decoding.batches) == 1:
            await self._call(schema, decoding.batches[0])
        else:
            await asyncio.gather(*(self._call(schema, batch) for batch in decoding.batches))

    async def _call(self, schema: Schema, whole: Batch) -> None:
        batch, found, refused = self._checks.split(whole, schema)
        self._failed.update(refused)
        if batch is None:
            return
        missing = _missing_by_member(batch, found)
        async for part, reply in self._sender.send(
            self._target, schema, batch, self._deadline, self._server, self._is_done
        ):
            if isinstance(reply, ClientError):
                self._failed.update(dict.fromkeys(part.members, reply))
            elif reply.version == schema.version:
                self._outcome.answered.append(Answered(part, reply, schema, missing))
            else:
                await self._answered_by_another(part, reply, missing)
        self._checks.count(schema, found)

    async def _answered_by_another(
        self, part: Batch, reply: Prediction, missing: Mapping[int, int]
    ) -> None:
        """Keep predictions of another version if the requests mean the same to it."""
        target, server, deadline = self._target, self._server, self._deadline
        try:
            schema = await self._schemas.answered_by(target, reply.version, server, deadline)
        except ServerError as error:
            if error.status != 404:
                raise
            # The version has gone since it answered.
            self._newer = await self._schemas.ask(target, server, deadline)
            self._again.extend(part.members)
            return
        if _is_same(part, await self._decode(part.members, schema)):
            self._outcome.answered.append(Answered(part, reply, schema, missing))
        else:
            self._newer = schema
            self._again.extend(part.members)


def _is_same(part: Batch, decoding: Decoding) -> bool:
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

"""Attempts: requests decoded with a server's schema, called, and checked.

Requests are decoded with one version's schema, but another version may answer, with other columns.
Then requests that mean the same to it keep their predictions, and the others are retried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from client.codecs import Decoding
from client.codecs.batches import Batch, is_same_call
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

NOT_FOUND = 404

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
        return (
            bool(self.errors)
            and not self.answered
            and all(
                isinstance(error, ServerError) and error.status == 503
                for error in self.errors.values()
            )
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
            own = batch.slice(index, index + 1) if batch.rows is not None else batch
            try:
                input_ranges.refuse(input_ranges.find(own.call, schema), *self.refused)
                good.append(index)
            except ClientError as error:
                errors[member] = error
        if not good:
            return None, [], errors
        rest = batch.select(good)
        return rest, input_ranges.find(rest.call, schema), errors

    def count(self, schema: Schema, found: list[Finding]) -> None:
        """Count the findings of a call."""
        for kind in (OUT_OF_RANGE, UNSEEN, MISSING):
            counts = input_ranges.count(found, kind)
            if counts:
                self._observe(schema.model, kind, counts)


class Attempt(NamedTuple):
    """Some requests, to be decoded with one version's schema.

    Attributes:
        places: indexes of the requests.
        schema: the version's schema.
        given: this version's prediction for the requests as another version reads them, if any.
    """

    places: Sequence[int]
    schema: Schema
    given: Answered | None = None


class Attempts:
    """The attempts to answer some requests on one server.

    Usually there is one. More follow if the server changes its version meanwhile.

    Attributes:
        outcome: the answers and errors so far.
    """

    def __init__(
        self,
        schemas: SchemaCache,
        sender: BatchSender,
        checks: Checks,
        target: Target,
        count: int,
        deadline: Deadline,
        is_done: Callable[[int], bool],
        server: Server,
    ) -> None:
        self.outcome = Outcome()
        self._schemas = schemas
        self._sender = sender
        self._checks = checks
        self._target = target
        self._deadline = deadline
        self._is_done = is_done
        self._server = server
        self._attempts_left = MAX_ATTEMPTS
        self._schema: Schema | None = None
        # State of the current attempt: its requests, their errors, predictions by other versions,
        # requests to decode again, and the schema for that.
        self._places: Sequence[int] = range(count)
        self._failed: dict[int, ClientError] = {}
        self._by_others: list[Answered] = []
        self._again: list[int] = []
        self._newer: Schema | None = None

    async def next(self) -> Attempt | None:
        """Return the next attempt, None if every request has an answer or an error."""
        try:
            return await self._next()
        except ClientError as error:
            self.outcome.fail(self._places, error)
            return None

    async def predict(self, attempt: Attempt, decoding: Decoding) -> None:
        """Predict decoded requests."""
        places, schema, given = attempt
        if given is not None:
            if _is_same(given.batch, decoding):
                self.outcome.answered.append(given)
            else:
                self._newer = schema
                self._again.extend(places)
            return
        self._newer = None
        self._failed = {places[index]: error for index, error in decoding.errors.items()}
        for batch in decoding.batches:
            batch.members = [places[index] for index in batch.members]
        if len(decoding.batches) == 1:
            await self._call(schema, decoding.batches[0])
        else:
            await asyncio.gather(*(self._call(schema, batch) for batch in decoding.batches))

    async def _next(self) -> Attempt | None:
        target, server, deadline = self._target, self._server, self._deadline
        if self._schema is None:
            self._schema = await self._schemas.load(target, server, deadline)
        else:
            while self._by_others:
                attempt = await self._comparison(self._by_others.pop(0))
                if attempt is not None:
                    return attempt
            self._places = await self._remaining(self._schema)
            self._schema = self._newer or self._schema
        if not self._places:
            return None
        if not self._attempts_left:
            raise UnavailableError(f"model {target.model} changes versions too fast")
        self._attempts_left -= 1
        return Attempt(self._places, self._schema)

    async def _comparison(self, given: Answered) -> Attempt | None:
        """Return the attempt that compares how another version reads what it has predicted."""
        target, server, deadline = self._target, self._server, self._deadline
        members, version = given.batch.members, given.prediction.version
        try:
            schema = await self._schemas.answered_by(target, version, server, deadline)
        except ServerError as error:
            if error.status != NOT_FOUND:
                raise
            # The version has gone since it answered.
            self._newer = await self._schemas.ask(target, server, deadline)
            self._again.extend(members)
            return None
        return Attempt(members, schema, given._replace(schema=schema))

    async def _remaining(self, schema: Schema) -> Sequence[int]:
        """Return the requests to attempt again; failed ones only if there is a newer version."""
        again, failed = self._again, self._failed
        self._again, self._failed = [], {}
        if not failed:
            return again
        first = next(iter(failed.values()))
        fresh = await self._schemas.refresh(
            self._target, self._server, schema, self._deadline, first
        )
        if fresh is None:
            self.outcome.errors.update(failed)
            return again
        self._newer = fresh
        return [*again, *failed]

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
                continue
            answered = Answered(part, reply, schema, missing)
            same = reply.version == schema.version
            (self.outcome.answered if same else self._by_others).append(answered)
        self._checks.count(schema, found)


def _is_same(part: Batch, decoding: Decoding) -> bool:
    if decoding.errors or len(decoding.batches) != 1:
        return False
    other = decoding.batches[0]
    return len(other.members) == len(part.members) and is_same_call(other.call, part.call)


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

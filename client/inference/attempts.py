"""Attempts to answer requests on one server.

Requests are decoded with one version's schema, but another version may answer, with other columns.
Requests that both versions read alike keep their predictions; the others are retried.
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

# Maximum number of attempts, in case the server keeps changing versions.
MAX_ATTEMPTS = 4

NOT_FOUND = 404

FindingObserver = Callable[[str, str, Mapping[str, int]], None]


class BatchResult(NamedTuple):
    """A prediction, and the requests that it answers.

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
    """The results of requests, and the errors of the others by index."""

    results: list[BatchResult] = field(default_factory=list)
    errors: dict[int, ClientError] = field(default_factory=dict)

    def fail(self, members: Sequence[int], error: ClientError) -> None:
        """Record an error for some requests."""
        self.errors.update(dict.fromkeys(members, error))

    @property
    def is_unreachable(self) -> bool:
        """Whether all requests failed because the server could not be reached."""
        return (
            bool(self.errors)
            and not self.results
            and all(
                isinstance(error, ServerError) and error.status == 503
                for error in self.errors.values()
            )
        )


class Checks:
    """Counts values not seen in training, and refuses some kinds of them."""

    def __init__(self, refused: frozenset[str], observe: FindingObserver) -> None:
        """Create the checks.

        Args:
            refused: kinds of findings to refuse.
            observe: called with the model, the kind of finding and the counts by column.
        """
        self.refused = refused
        self._observe = observe

    def split(
        self, batch: Batch, schema: Schema
    ) -> tuple[Batch | None, list[Finding], dict[int, ClientError]]:
        """Remove the requests with refused values from a batch.

        Returns:
            The remaining batch, its findings, and the errors of the removed requests.
        """
        findings = input_ranges.find(batch.call, schema)
        if not any(finding.kind in self.refused for finding in findings):
            return batch, findings, {}
        accepted: list[int] = []
        errors: dict[int, ClientError] = {}
        for index, member in enumerate(batch.members):
            single = batch.slice(index, index + 1) if batch.rows is not None else batch
            try:
                input_ranges.refuse(input_ranges.find(single.call, schema), *self.refused)
                accepted.append(index)
            except ClientError as error:
                errors[member] = error
        if not accepted:
            return None, [], errors
        remaining = batch.select(accepted)
        return remaining, input_ranges.find(remaining.call, schema), errors

    def count(self, schema: Schema, findings: list[Finding]) -> None:
        """Count the findings of a call."""
        for kind in (OUT_OF_RANGE, UNSEEN, MISSING):
            counts = input_ranges.count(findings, kind)
            if counts:
                self._observe(schema.model, kind, counts)


class Attempt(NamedTuple):
    """Requests to decode with one version's schema.

    Attributes:
        indexes: indexes of the requests.
        schema: the version's schema.
        candidate: this version's prediction, valid if its schema decodes to the same call.
    """

    indexes: Sequence[int]
    schema: Schema
    candidate: BatchResult | None = None


class Attempts:
    """The attempts to answer some requests on one server.

    Usually there is one. More follow if the server switches to another version in between.

    Attributes:
        outcome: the results and errors so far.
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
        # State of the current attempt: its requests by index, their errors, predictions by other
        # versions, requests to retry, and the schema to retry them with.
        self._indexes: Sequence[int] = range(count)
        self._errors: dict[int, ClientError] = {}
        self._candidates: list[BatchResult] = []
        self._retries: list[int] = []
        self._newer_schema: Schema | None = None

    async def next(self) -> Attempt | None:
        """Return the next attempt, None if every request has an answer or an error."""
        try:
            return await self._next()
        except ClientError as error:
            self.outcome.fail(self._indexes, error)
            return None

    async def predict(self, attempt: Attempt, decoding: Decoding) -> None:
        """Predict an attempt's decoded requests, or accept its candidate if it is valid."""
        indexes, schema, candidate = attempt
        if candidate is not None:
            if _matches(candidate.batch, decoding):
                self.outcome.results.append(candidate)
            else:
                self._newer_schema = schema
                self._retries.extend(indexes)
            return
        self._newer_schema = None
        self._errors = {indexes[position]: error for position, error in decoding.errors.items()}
        for batch in decoding.batches:
            batch.members = [indexes[position] for position in batch.members]
        if len(decoding.batches) == 1:
            await self._call(schema, decoding.batches[0])
        else:
            await asyncio.gather(*(self._call(schema, batch) for batch in decoding.batches))

    async def _next(self) -> Attempt | None:
        target, server, deadline = self._target, self._server, self._deadline
        if self._schema is None:
            self._schema = await self._schemas.load(target, server, deadline)
        else:
            while self._candidates:
                attempt = await self._validate(self._candidates.pop(0))
                if attempt is not None:
                    return attempt
            self._indexes = await self._take_retries(self._schema)
            self._schema = self._newer_schema or self._schema
        if not self._indexes:
            return None
        if not self._attempts_left:
            raise UnavailableError(f"model {target.model} changes versions too fast")
        self._attempts_left -= 1
        return Attempt(self._indexes, self._schema)

    async def _validate(self, candidate: BatchResult) -> Attempt | None:
        """Return an attempt to validate a candidate; None if its version has been unloaded."""
        target, server, deadline = self._target, self._server, self._deadline
        members, version = candidate.batch.members, candidate.prediction.version
        try:
            schema = await self._schemas.load_version(target, version, server, deadline)
        except ServerError as error:
            if error.status != NOT_FOUND:
                raise
            self._newer_schema = await self._schemas.fetch(target, server, deadline)
            self._retries.extend(members)
            return None
        return Attempt(members, schema, candidate._replace(schema=schema))

    async def _take_retries(self, schema: Schema) -> Sequence[int]:
        """Return the requests to retry; failed ones only if there is a newer version."""
        retries, errors = self._retries, self._errors
        self._retries, self._errors = [], {}
        if not errors:
            return retries
        first_error = next(iter(errors.values()))
        newer_schema = await self._schemas.refresh(
            self._target, self._server, schema, self._deadline, first_error
        )
        if newer_schema is None:
            self.outcome.errors.update(errors)
            return retries
        self._newer_schema = newer_schema
        return [*retries, *errors]

    async def _call(self, schema: Schema, batch: Batch) -> None:
        accepted, findings, errors = self._checks.split(batch, schema)
        self._errors.update(errors)
        if accepted is None:
            return
        missing = _count_missing(accepted, findings)
        async for part, answer in self._sender.send(
            self._target, schema, accepted, self._deadline, self._server, self._is_done
        ):
            if isinstance(answer, ClientError):
                self._errors.update(dict.fromkeys(part.members, answer))
                continue
            result = BatchResult(part, answer, schema, missing)
            is_expected = answer.version == schema.version
            (self.outcome.results if is_expected else self._candidates).append(result)
        self._checks.count(schema, findings)


def _matches(batch: Batch, decoding: Decoding) -> bool:
    if decoding.errors or len(decoding.batches) != 1:
        return False
    decoded = decoding.batches[0]
    return len(decoded.members) == len(batch.members) and is_same_call(decoded.call, batch.call)


def _count_missing(batch: Batch, findings: list[Finding]) -> Mapping[int, int]:
    rows = [row for f in findings if f.kind == MISSING for row in f.rows.tolist()]
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

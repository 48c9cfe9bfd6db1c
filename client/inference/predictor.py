"""The core that every way in shares: what is known of the models, and predictions of them.

A request is read by what is known of the model, so it matters which version answers: a column may
have moved. What a version looks like never changes; which version is the latest does, and is
learnt anew when a reply shows it, when a request does not fit, and now and then in any case.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import to_thread
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from client.codecs import Call
from client.errors import ClientError, DeadlineExceededError, ServerError, UnavailableError
from client.inference import input_ranges as ranges
from client.inference.batching import Coalescer, Limits, Observer
from client.serving.client import AsyncModelServer, Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.schema import Schema

# A request that does not fit what is known of the model may fit a version published since; the
# server is asked again, but no more often than this for requests that are just wrong.
SCHEMA_MIN_AGE_SECONDS = 1.0
# How soon a new version is learnt of without any request that shows it.
REFRESH_SECONDS = 5.0
SCHEMAS_KEPT = 256
# Of how many versions in a row a reply may turn out to be before the request is given up.
ATTEMPTS = 4
# Longer bodies are read in a thread: while a fault in one is looked for, others are answered.
LONG_BODY_BYTES = 256 * 1024

Read = Callable[[Schema], Call]
CountOutside = Callable[[str, Mapping[str, int]], None]


@dataclass
class _Known:
    """What is known of a target, when the server was asked for it, and whether it is of use."""

    schema: Schema
    asked_at: float
    used: bool = True


class Predictor:
    """Answers requests with a model server, and keeps what it has learnt of the models.

    It belongs to the event loop it is used on. `async with` keeps what it knows fresh.
    """

    def __init__(
        self,
        server: AsyncModelServer,
        limits: Limits | None = None,
        observe: Observer = lambda requests, rows, waited: None,
        count_outside: CountOutside = lambda model, counts: None,
        *,
        refuse_outside: bool = False,
    ) -> None:
        """Prepare.

        Args:
            server: the model server to ask.
            limits: of the calls that several requests share.
            observe: told of each call's requests, rows and waiting time in seconds.
            count_outside: told of each call's model, and of how many of its numbers are outside the
                range that their column had in training, by column.
            refuse_outside: whether requests with such numbers are refused.
        """
        self.server = server
        self._count_outside = count_outside
        self._refuse_outside = refuse_outside
        self._coalescer = Coalescer(self._send, limits, observe)
        self._known: dict[Target, _Known] = {}
        self._asking: dict[Target, asyncio.Task[Schema]] = {}
        self._refreshing: asyncio.Task[None] | None = None

    async def answer(
        self, target: Target, read: Read, deadline: Deadline, size: int = 0
    ) -> tuple[Call, Prediction]:
        """Predict what a request asks for.

        Args:
            target: the model, and the version if one is asked for.
            read: makes the call out of the request, for a version that looks like this.
            deadline: when the answer is of no more use.
            size: bytes of the request's body; of a long one, `read` runs in a thread.

        Returns:
            The call as it was understood at last, and what the same version has computed.

        Raises:
            ClientError: the request cannot be answered.
        """
        schema = self._schema(target) or await self._ask(target, deadline)
        for _ in range(ATTEMPTS):
            try:
                call = read(schema) if size <= LONG_BODY_BYTES else await to_thread(read, schema)
                prediction = await self.predict(target, schema, call, deadline)
            except ClientError as error:
                fresh = await self._refreshed(target, schema, deadline, error)
                if fresh is None:
                    raise
                schema = fresh
                continue
            if prediction.version == schema.version:
                return call, prediction
            schema = await self._answered_by(target, prediction.version, deadline)
            if _same(call, read(schema)):
                return call, prediction
        raise UnavailableError(f"model {target.model} changes faster than it can be asked")

    async def predict(
        self,
        target: Target,
        schema: Schema,
        call: Call,
        deadline: Deadline,
        rows_before: int = 0,
    ) -> Prediction:
        """Run a call, together with others that wait for the same.

        A request of several calls says how many rows were in those before, for what it is told.

        The reply may be of another version than the schema's; `answer` sees to that.

        Raises:
            ClientError: the server cannot answer, or a number is not to be asked about.
        """
        if self._refuse_outside:
            ranges.refuse_outside(call, schema, rows_before)
        signature = schema.signatures.get(call.signature_name)
        batched = signature is not None and signature.batched
        return await self._coalescer.predict((target, schema), call, deadline, batched=batched)

    async def schema(self, target: Target, deadline: Deadline) -> Schema:
        """Return what is known of a model, asking the server only if nothing is.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return self._schema(target) or await self._ask(target, deadline)

    def known_models(self) -> list[str]:
        """Return the names of the models whose latest version was asked lately."""
        return [t.model for t in self._known if t.version is None and t.label is None]

    async def metadata(self, target: Target, deadline: Deadline) -> Schema:
        """Ask the server what a model looks like now.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return await self._ask(target, deadline)

    async def status(self, target: Target, deadline: Deadline) -> list[Any]:
        """Return the `ModelVersionStatus` of each version of a model, newest first.

        Raises:
            ServerError: there is no such model or version, or the server cannot be reached.
        """
        return await self.server.status(target, timeout=deadline.left())

    async def classify(
        self, target: Target, examples: Any, signature_name: str, deadline: Deadline
    ) -> Any:
        """Return the `ClassificationResponse` to an `Input` message.

        Raises:
            ServerError: the server refused the request, or cannot be reached.
        """
        return await self.server.classify(
            target, examples, signature_name=signature_name, timeout=deadline.left()
        )

    async def regress(
        self, target: Target, examples: Any, signature_name: str, deadline: Deadline
    ) -> Any:
        """Return the `RegressionResponse` to an `Input` message.

        Raises:
            ServerError: the server refused the request, or cannot be reached.
        """
        return await self.server.regress(
            target, examples, signature_name=signature_name, timeout=deadline.left()
        )

    async def __aenter__(self) -> Predictor:
        self._refreshing = asyncio.create_task(self._keep_fresh())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
        await self._coalescer.close()

    async def _send(self, group: tuple[Target, Schema], call: Call, seconds: float) -> Prediction:
        target, schema = group
        prediction = await self.server.predict(
            target,
            call.inputs,
            signature_name=call.signature_name,
            signature=schema.signatures.get(call.signature_name),
            output_filter=call.output_filter,
            timeout=seconds,
        )
        # Only now, so that a call which is taken apart counts once.
        outside = ranges.count_outside(call, schema)
        if outside:
            self._count_outside(schema.model, outside)
        return prediction

    def _schema(self, target: Target) -> Schema | None:
        known = self._known.get(target)
        if known is None:
            return None
        known.used = True
        return known.schema

    async def _refreshed(
        self, target: Target, schema: Schema, deadline: Deadline, error: ClientError
    ) -> Schema | None:
        """Return what the model looks like now, None if that does not explain the error."""
        if error.status not in (400, 404):
            return None
        known = self._known.get(target)
        if known is not None and known.schema is not schema:
            return known.schema
        if known is not None and time.monotonic() - known.asked_at < SCHEMA_MIN_AGE_SECONDS:
            return None
        try:
            fresh = await self._ask(target, deadline)
        except ServerError:
            return None  # the error at hand says more
        return fresh if fresh is not schema else None

    async def _answered_by(self, target: Target, version: int, deadline: Deadline) -> Schema:
        """Return what the version looks like that has answered in place of the one expected."""
        schema = await self.schema(Target(target.model, version), deadline)
        known = self._known.get(target)
        if known is not None:
            known.schema = schema
        return schema

    async def _ask(self, target: Target, deadline: Deadline) -> Schema:
        """Ask the server, once for all who want to know at the same time."""
        asking = self._asking.get(target)
        if asking is None:
            asking = self._asking[target] = asyncio.create_task(self._ask_once(target))
        # Who waits may give up; the others still want to know.
        await asyncio.wait({asking}, timeout=deadline.left())
        if not asking.done():
            raise DeadlineExceededError("there was no answer in time")
        return asking.result()

    async def _ask_once(self, target: Target) -> Schema:
        try:
            schema = await self.server.schema(target)
        except ServerError as error:
            if error.status == 404:
                self._known.pop(target, None)
            raise
        finally:
            del self._asking[target]
        now = time.monotonic()
        known = self._known.get(target)
        if known is None:
            while len(self._known) >= SCHEMAS_KEPT:
                del self._known[next(iter(self._known))]
            self._known[target] = _Known(schema, now)
            return schema
        if not known.schema.looks_like(schema):
            known.schema = schema
        known.asked_at = now
        return known.schema

    async def _keep_fresh(self) -> None:
        """Look for new versions of the models that are being asked."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            for target, known in list(self._known.items()):
                if target.version is None and known.used:
                    known.used = False
                    with suppress(ServerError):
                        await self._ask(target, Deadline(self.server.timeout))


def _same(one: Call, other: Call) -> bool:
    """Tell whether two calls ask the same of the model."""
    return (
        one.signature_name == other.signature_name
        and one.output_filter == other.output_filter
        and one.inputs.keys() == other.inputs.keys()
        and all(
            values.dtype == other.inputs[name].dtype
            # NaN is a missing number, the same in both.
            and np.array_equal(values, other.inputs[name], equal_nan=values.dtype.kind == "f")
            for name, values in one.inputs.items()
        )
    )

"""The pipeline of predictions: decode, predict, encode, record.

All requests that wait for a call are answered together when it can be sent.
"""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

from client.arms.arm_call import ArmCall
from client.arms.arms import Arms
from client.arms.shadow import Copy, Shadow
from client.codecs import Codec, Payload
from client.errors import ClientError, ServerError
from client.http.jobs import ApiJob
from client.http.messages import HttpResponse
from client.http.predictions import Log, Predictions, log_nothing
from client.http.responder import Responder
from client.http.responses import MISSING_HEADER, arm_headers
from client.http.routing import Lane
from client.inference.attempts import Attempts, BatchResult
from client.inference.batching import Job
from client.inference.predictor import Predictor

P = ParamSpec("P")
T = TypeVar("T")

# Longer bodies are decoded in a thread, so that they do not block other requests.
LONG_BODY_BYTES = 128 * 1024
# Responses of more rows are encoded in a thread.
MANY_ROWS = 5000


class Pipeline:
    """Answers the predictions that have waited together for a call."""

    def __init__(
        self,
        predictor: Predictor,
        arms: Arms,
        shadow: Shadow,
        predictions: Predictions,
        responder: Responder,
    ) -> None:
        self._predictor = predictor
        self._arms = arms
        self._shadow = shadow
        self._predictions = predictions
        self._responder = responder

    async def answer(self, lane: Lane, jobs: list[Job]) -> None:
        """Answer predictions with the arm of their lane; one failure does not affect the others."""
        waiting = [job for job in jobs if isinstance(job, ApiJob)]
        deadlines = [job.deadline for job in waiting]
        deadline = max(deadlines, key=lambda d: d.end)
        errors: Mapping[int, ClientError]
        if lane.arm is None:
            errors = await self._predict(lane, waiting, ArmCall(lane.target, None, deadline))
        else:

            async def send_batch(
                indexes: Sequence[int], arm_call: ArmCall
            ) -> Mapping[int, ClientError]:
                failures = await self._predict(
                    lane, [waiting[index] for index in indexes], arm_call
                )
                return {indexes[position]: error for position, error in failures.items()}

            earliest = min(deadlines, key=lambda d: d.end)
            errors = await self._arms.answer(
                lane.arm, range(len(waiting)), earliest, deadline, send_batch
            )
        for index, error in errors.items():
            job = waiting[index]
            if isinstance(error, ServerError):
                error = await _prefer_body_error(lane.codec, job.payload, error)
            job.fail(error)

    async def _predict(
        self, lane: Lane, waiting: Sequence[ApiJob], arm_call: ArmCall
    ) -> Mapping[int, ClientError]:
        """Answer predictions with one version: decode, predict, encode, record.

        Returns:
            The errors of the predictions that it cannot answer, by index.
        """
        codec = lane.codec
        payloads = [job.payload for job in waiting]
        is_long = len(payloads) == 1 and len(payloads[0].body) > LONG_BODY_BYTES

        async def predict(attempts: Attempts) -> None:
            # Loops only if the server changes its version in the meantime.
            while attempt := await attempts.next():
                requests = [payloads[index] for index in attempt.indexes]
                decoding = await _run(is_long, codec.decode, requests, attempt.schema)
                await attempts.predict(attempt, decoding)

        outcome = await self._predictor.run(
            arm_call.target,
            len(waiting),
            predict,
            arm_call.deadline,
            lambda index: waiting[index].done,
            on_trial=arm_call.on_trial,
        )
        for result in outcome.results:
            batch, (outputs, version), schema, missing = result
            headers = arm_headers(version, arm_call.arm)
            is_long = batch.total_rows > MANY_ROWS
            try:
                arm_call.check(outputs)
                responses: Sequence[HttpResponse]
                responses = await _run(is_long, codec.encode, batch, outputs, schema, headers)
            except ClientError as error:
                outcome.fail(batch.members, error)
                continue
            if missing:
                responses = _add_missing_counts(responses, result)
            jobs = [waiting[index] for index in batch.members]
            log: Log = log_nothing
            if lane.recorded:
                responses, log = self._predictions.record(
                    codec, result, jobs, responses, arm_call.arm
                )
            self._responder.respond_all(jobs, responses)
            shadow = self._arms.shadow(lane.arm)
            if shadow is None:
                log(None)
            else:
                copies = [payloads[index] for index in batch.members]
                self._shadow.put(Copy(shadow, codec, copies, result, log))
        return outcome.errors


async def _run(
    in_thread: bool, function: Callable[P, T], *arguments: P.args, **options: P.kwargs
) -> T:
    """Call a function, in a thread if it takes long, so that it does not block other requests."""
    if in_thread:
        return await to_thread(function, *arguments, **options)
    return function(*arguments, **options)


def _add_missing_counts(
    responses: Sequence[HttpResponse], result: BatchResult
) -> list[HttpResponse]:
    """Add the number of missing values to each response that has any."""
    counts = (result.missing.get(member) for member in result.batch.members)
    return [
        response._replace(headers=(*response.headers, (MISSING_HEADER, str(count))))
        if count
        else response
        for response, count in zip(responses, counts, strict=True)
    ]


async def _prefer_body_error(codec: Codec, payload: Payload, error: ClientError) -> ClientError:
    """Return the error that the body has for every model, or else the given error."""
    try:
        await _run(len(payload.body) > LONG_BODY_BYTES, codec.check, payload)
    except ClientError as body_error:
        return body_error
    return error

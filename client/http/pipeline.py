"""The pipeline of API requests: route, limits, key, body, decode, predict, encode, record."""

from __future__ import annotations

import asyncio
import logging
import math
from asyncio import to_thread
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from client.codecs import Decoding, Payload
from client.codecs.errors import json_error
from client.codecs.json.codec import JsonExplanations
from client.codecs.tables.options import TableOptions
from client.errors import ClientError, ServerError, UnavailableError
from client.http.api_keys import ApiKeys
from client.http.endpoints.docs import DocsApi
from client.http.endpoints.oip import OipApi
from client.http.endpoints.operations import OperationsApi
from client.http.endpoints.predict import JsonApi
from client.http.endpoints.tables import MISSING_HEADER, StreamReply, Tables, is_table
from client.http.endpoints.tfs_rest import RestApi
from client.http.jobs import ApiJob, Respond, ignore
from client.http.messages import HttpReply, HttpRequest
from client.http.recorder import Recorder
from client.http.request_body import decoded
from client.http.responses import VERSION_HEADER
from client.http.routing import Lane, Route, Router
from client.http.worker_states import WorkerStates
from client.inference.attempts import Answered, Checks
from client.inference.batching import DynamicBatcher, Job, Limits
from client.inference.input_ranges import MISSING, OUT_OF_RANGE, UNSEEN
from client.inference.predictor import Predictor
from client.observability import tracing
from client.observability.metrics import Metrics
from client.observability.request_context import REQUESTS
from client.serving import deadlines
from client.serving.client import AsyncServingClient
from client.serving.deadlines import Deadline
from client.serving.schema import Schema
from client.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_HEADER = "x-request-timeout"
# Longer bodies are decoded in a thread, so that they do not block other requests.
LONG_BODY_BYTES = 128 * 1024
# Responses of more rows are encoded in a thread.
MANY_ROWS = 5000


class Gateway:
    """Answers requests to the API with a model server.

    Create it on the event loop of the serving process.

    Attributes:
        settings: the application's settings.
        metrics: metrics of this process.
        core: makes the predictions.
    """

    def __init__(self, settings: Settings, states: WorkerStates | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._tracing = tracing.start()
        self._client = AsyncServingClient(
            settings.server,
            timeout=settings.timeout,
            tls=settings.tls,
            observe=self.metrics.observe_call,
            tracing=self._tracing,
        )
        limits = Limits(
            rows=settings.batch_rows, waiting=settings.max_waiting, calls=settings.max_calls
        )
        refused = {OUT_OF_RANGE, UNSEEN} if settings.out_of_range == "refuse" else set()
        refused |= {MISSING} if settings.missing_values == "refuse" else set()
        self.core = Predictor(
            self._client,
            limits,
            self.metrics.observe_batch,
            Checks(frozenset(refused), self.metrics.observe_findings),
        )
        self._batcher: DynamicBatcher[Lane] = DynamicBatcher(
            self._answer, limits, self._client.pool.slots, self.metrics.waiting_seconds.observe
        )
        self._keys = ApiKeys(settings.api_keys) if settings.api_keys else None
        self._recorder = Recorder(settings, self.metrics, self._tracing)
        self._states = states or WorkerStates()
        self._operations = OperationsApi(self.core, self.metrics, settings.model, self._states)
        self._tables = Tables(self.core)
        self._tasks: set[asyncio.Task[None]] = set()
        explanations = JsonExplanations()
        own = JsonApi(settings.model, explanations)
        # The registry of dialects, each for all paths below its first segment.
        router = Router(
            {
                "predict": own,
                "explain": own,
                "v1": RestApi(self.core, explanations, cors=settings.cors),
                "v2": OipApi(self.core, self._operations),
                "livez": self._operations,
                "readyz": self._operations,
                "metrics": self._operations,
                "openapi.json": DocsApi(self.core, settings.model, keys=self._keys is not None),
            }
        )
        self.route = router.route

    async def __aenter__(self) -> Gateway:
        await self.core.__aenter__()
        if self.settings.workers > 1:
            self._start(self._operations.watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._batcher.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.core.__aexit__(kind, error, traceback)
        await self._client.close()
        if self._tracing is not None:
            self._tracing.close()

    def admit(self, request: HttpRequest, route: Route | None) -> str | None:
        """Check the limit of requests and the API key, before the body is read.

        Returns:
            The name of the API key, None if no keys are required.

        Raises:
            ClientError: 503, too many requests are in flight; 401, the key is missing or unknown.
        """
        if route is None or route.limited:
            if self.metrics.in_flight >= self.settings.max_requests:
                raise UnavailableError(f"{self.metrics.in_flight} requests are already in flight")
            if self._keys is not None:
                return self._keys.caller(request.headers)
        return None

    def submit(
        self, request: HttpRequest, route: Route | None, caller: str | None, respond: Respond
    ) -> ApiJob:
        """Handle an admitted request; the response may come later.

        Predictions wait together for the call that answers them, see `_answer`.

        Args:
            request: the request with its body as sent.
            route: its route.
            caller: the name of its API key.
            respond: called with the response.
        """
        job = ApiJob(self, request, route, respond, caller, Deadline(self.settings.timeout))
        try:
            if TIMEOUT_HEADER in request.headers:
                job.deadline = Deadline(self._seconds(request))
            if route is None:
                raise ClientError(f"{request.method} {request.path}: Not Found", 404)
            if route.methods and not _is_allowed(request, route.methods):
                self.respond(job, self._not_allowed(request, route))
                return job
            job.context = self._recorder.follow(request, route)
            table = request.method == "POST" and is_table(request.headers)
            if table and route.table is None:
                raise ClientError("Content-Type: only predictions take tables", 415)
            if request.query and route.table is not None:
                TableOptions.from_query(request.query)  # wrong values are refused for any body
            if route.lane is None or table or "content-encoding" in request.headers:
                self._work(job, self._answer_alone(job, route))
            else:
                self._batcher.put(route.lane, job)
        except Exception as error:
            job.fail(error)
        return job

    async def _answer(self, lane: Lane, jobs: list[Job]) -> None:
        """Answer predictions that wait together."""
        target, codec = lane
        waiting = [job for job in jobs if isinstance(job, ApiJob)]
        payloads = [job.payload for job in waiting]
        is_long = len(payloads) == 1 and len(payloads[0].body) > LONG_BODY_BYTES

        async def decode(places: Sequence[int], schema: Schema) -> Decoding:
            some = [payloads[place] for place in places]
            if is_long:
                return await to_thread(codec.decode, some, schema)
            return codec.decode(some, schema)

        deadline = max((job.deadline for job in waiting), key=lambda one: one.end)
        outcome = await self.core.run(
            target, range(len(waiting)), decode, deadline, lambda place: waiting[place].done
        )
        for answered in outcome.answered:
            try:
                replies = await self._encode(lane, answered)
            except ClientError as error:
                outcome.fail(answered.batch.members, error)
                continue
            self._respond_all([waiting[place] for place in answered.batch.members], replies)
        for place, fault in outcome.errors.items():
            if isinstance(fault, ServerError):
                fault = await _first_fault(lane, payloads[place], fault)
            waiting[place].fail(fault)

    async def _encode(self, lane: Lane, answered: Answered) -> list[HttpReply]:
        batch, (outputs, version) = answered.batch, answered.prediction
        headers = ((VERSION_HEADER, str(version)),)
        arguments = (batch, outputs, answered.schema, headers)
        if batch.total_rows > MANY_ROWS:
            replies = await to_thread(lane.codec.encode, *arguments)
        else:
            replies = lane.codec.encode(*arguments)
        for index, member in enumerate(batch.members if answered.missing else ()):
            missing = answered.missing.get(member)
            if missing:
                reply = replies[index]
                header = (MISSING_HEADER, str(missing))
                replies[index] = reply._replace(headers=(*reply.headers, header))
        return replies

    async def _answer_alone(self, job: ApiJob, route: Route) -> None:
        """Answer a request that is not a prediction, or whose body is compressed."""
        request = job.request
        REQUESTS.set((job.context,) if job.context is not None else ())
        encoding = request.headers.get("content-encoding")
        if encoding is not None and request.body:
            limit = self.settings.max_body_bytes
            request.body = await to_thread(decoded, request.body, encoding, limit)
            job.size = len(request.body)
        if route.table is not None and request.method == "POST" and is_table(request.headers):
            self.respond(job, await self._answer_table(job, route))
        elif route.lane is not None:
            self._batcher.put(route.lane, job)
        else:
            assert route.handle is not None
            self.respond(job, await route.handle(request, job.deadline))

    async def _answer_table(self, job: ApiJob, route: Route) -> HttpReply:
        """Answer a table that has arrived whole, from a server without streaming."""

        async def chunks() -> AsyncIterator[bytes]:
            yield job.request.body

        seconds = self._seconds(job.request)
        assert route.table is not None
        reply = await self._tables.answer(route.table, job.request, chunks(), seconds)
        body = b"".join([piece async for piece in reply.pieces])
        return HttpReply(body, 200, reply.content_type, reply.headers)

    async def stream(
        self,
        request: HttpRequest,
        route: Route,
        caller: str | None,
        chunks: AsyncIterator[bytes],
    ) -> HttpReply | StreamReply:
        """Begin to answer a table that is still arriving; an error is an unstreamed response.

        Args:
            request: the request without its body.
            route: its route, which takes tables.
            caller: the name of its API key.
            chunks: the body.
        """
        job = ApiJob(self, request, route, ignore, caller, Deadline(self.settings.timeout))
        job.context = self._recorder.follow(request, route)
        REQUESTS.set((job.context,) if job.context is not None else ())
        assert route.table is not None
        reply: HttpReply | StreamReply
        try:
            seconds = self._seconds(request)
            reply = await self._tables.answer(route.table, request, chunks, seconds)
        except asyncio.CancelledError:
            self._recorder.gone(job.context)
            raise
        except Exception as error:
            reply = self.error_reply(request, route, error)
        if isinstance(reply, StreamReply):
            reply = replace(reply, pieces=self._recorder.until_end(job.context, reply.pieces))
            return replace(reply, headers=self._headers_of(job, 200, reply.headers, None))
        headers = self._headers_of(job, reply.status, reply.headers, reply.body)
        self._recorder.end(job.context, reply.status)
        return reply._replace(headers=headers)

    async def handle(self, request: HttpRequest) -> HttpReply:
        """Answer a request that has arrived whole, for other HTTP servers."""
        future: asyncio.Future[HttpReply] = asyncio.get_running_loop().create_future()
        route = self.route(request)
        self.metrics.in_flight += 1
        try:
            caller = self.admit(request, route)
            self.submit(request, route, caller, future.set_result)
            return await future
        except ClientError as error:
            return self.refuse(request, route, error)
        finally:
            self.metrics.in_flight -= 1

    def refuse(self, request: HttpRequest, route: Route | None, error: ClientError) -> HttpReply:
        """Return and record the error response of a rejected request."""
        reply = self.error_reply(request, route, error)
        job = ApiJob(self, request, route, ignore, None, Deadline(0))
        headers = self._headers_of(job, reply.status, reply.headers, reply.body)
        return reply._replace(headers=headers)

    def cancel(self, job: ApiJob) -> None:
        """Cancel a request whose caller has disconnected."""
        if job.done:
            return
        self._recorder.gone(job.context)
        self._batcher.remove(job)
        if job.task is not None:
            job.task.cancel()

    def respond(self, job: ApiJob, reply: HttpReply) -> None:
        """Deliver a response, and record it."""
        if job.done:
            return
        job.done = True
        headers = reply.headers
        if job.route is not None and job.route.headers:
            headers = (*headers, *job.route.headers)
        headers = self._headers_of(job, reply.status, headers, reply.body)
        self._recorder.end(job.context, reply.status)
        job.respond(reply._replace(headers=headers))

    def error_reply(self, request: HttpRequest, route: Route | None, error: Exception) -> HttpReply:
        """Return the response for an error; only internal errors are logged."""
        if not isinstance(error, ClientError):
            log.error("%s %s failed", request.method[:100], request.path[:1000], exc_info=error)
            error = ClientError("internal error; the log has the details", 500)
        if route is not None and route.lane is not None:
            return route.lane.codec.encode_error(error)
        return json_error(error)

    def _respond_all(self, jobs: Sequence[ApiJob], replies: Sequence[HttpReply]) -> None:
        """Deliver responses; plain ones are recorded together."""
        now = deadlines.now()
        seconds: defaultdict[Any, list[float]] = defaultdict(list)
        plain = self._recorder.is_plain
        for job, reply in zip(jobs, replies, strict=True):
            route = job.route
            if job.context is not None or (route and route.headers) or not plain(job.request):
                self.respond(job, reply)
            elif not job.done:
                job.done = True
                seconds[job.request.method, route].append(now - job.started)
                job.respond(reply)
        for (method, route), durations in seconds.items():
            self.metrics.observe_requests(method, route.name, 200, durations)

    def _headers_of(
        self, job: ApiJob, status: int, headers: Any, body: bytes | None
    ) -> tuple[tuple[str, str], ...]:
        return self._recorder.record(
            job.request,
            job.route,
            status,
            headers,
            body,
            caller=job.caller,
            context=job.context,
            seconds=deadlines.now() - job.started,
        )

    def _not_allowed(self, request: HttpRequest, route: Route) -> HttpReply:
        message = f"{request.method} {request.path}: Method Not Allowed"
        reply = self.error_reply(request, route, ClientError(message, 405))
        assert route.methods is not None
        return reply._replace(headers=(("Allow", ", ".join(route.methods)),))

    def _seconds(self, request: HttpRequest) -> float:
        """Return a prediction's timeout: the lower of the setting and the request's own."""
        seconds = self.settings.timeout
        wanted = request.headers.get(TIMEOUT_HEADER)
        if wanted is not None:
            try:
                asked = float(wanted)
            except ValueError:
                asked = math.nan
            if not asked > 0:
                raise ClientError(
                    f'X-Request-Timeout: expected seconds greater than 0, got "{wanted[:40]}"'
                )
            seconds = min(seconds, asked)
        return seconds

    def _work(self, job: ApiJob, work: Any) -> None:
        async def answer() -> None:
            try:
                await work
            except Exception as error:
                job.fail(error)

        job.task = self._start(answer())

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _first_fault(lane: Lane, payload: Payload, error: ClientError) -> ClientError:
    """Return the body's own error if it has one, else the given error."""
    try:
        if len(payload.body) > LONG_BODY_BYTES:
            await to_thread(lane.codec.check, payload)
        else:
            lane.codec.check(payload)
    except ClientError as fault:
        return fault
    return error


def _is_allowed(request: HttpRequest, methods: Sequence[str]) -> bool:
    return request.method in methods or (request.method == "HEAD" and "GET" in methods)

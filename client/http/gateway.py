"""The gateway: requests to the API, up to the pipeline that makes their predictions.

`route` and `admit` run when the head of a request has arrived, and `submit` when its body has. The
pipeline runs when a call can be sent, for all queued requests.
"""

from __future__ import annotations

import asyncio
from asyncio import to_thread
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any

from client.arms.arms import Arms
from client.arms.shadow import Shadow
from client.codecs.tables.options import TableOptions
from client.errors import ClientError, UnavailableError
from client.http.api_keys import ApiKeys
from client.http.endpoints.operations import OperationsApi
from client.http.endpoints.registry import api_router
from client.http.endpoints.tables import Tables, is_table
from client.http.jobs import ApiJob, Respond
from client.http.messages import HttpRequest, HttpResponse
from client.http.pipeline import Pipeline
from client.http.predictions import Predictions, is_recorded
from client.http.recorder import Recorder
from client.http.request_body import decompress
from client.http.responder import Responder
from client.http.routing import Lane, Route
from client.http.table_requests import TableRequests
from client.http.timeouts import TIMEOUT_HEADER, request_timeout
from client.http.worker_states import WorkerStates
from client.inference.attempts import Checks
from client.inference.batching import DynamicBatcher, Limits
from client.inference.input_ranges import MISSING, OUT_OF_RANGE, UNSEEN
from client.inference.predictor import Predictor
from client.observability import tracing
from client.observability.arm_metrics import ArmMetrics
from client.observability.metrics import Metrics
from client.observability.prediction_log import PredictionLog
from client.observability.request_context import REQUESTS
from client.serving.async_client import AsyncServingClient
from client.serving.deadlines import Deadline
from client.settings import Settings


class Gateway:
    """Answers requests to the API with a model server.

    Create it on the event loop of the serving process.

    Attributes:
        settings: the application's settings.
        metrics: metrics of this process.
        predictor: makes the predictions.
        responder: delivers and records responses.
        tables: answers tables and feedback as they arrive.
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
        refused_kinds = {OUT_OF_RANGE, UNSEEN} if settings.out_of_range == "refuse" else set()
        refused_kinds |= {MISSING} if settings.missing_values == "refuse" else set()
        self.predictor = Predictor(
            self._client,
            limits,
            self.metrics.observe_batch,
            Checks(frozenset(refused_kinds), self.metrics.observe_findings),
            self.metrics.observe_golden,
        )
        self._recorder = Recorder(settings, self.metrics, self._tracing)
        arm_metrics = ArmMetrics(self.metrics.registry)
        self._arms = Arms(
            settings.rollout,
            settings.sticky_header,
            arm_metrics,
            learn=lambda target: self.predictor.servers.learn(target, Deadline(settings.timeout)),
            record_arm=self._recorder.record_arm,
        )
        self.predictor.stable = self._arms.stable
        self._shadow = Shadow(self.predictor, arm_metrics, settings.timeout)
        self._keys = ApiKeys(settings.api_keys) if settings.api_keys else None
        self._operations = OperationsApi(
            self.predictor, self.metrics, settings.model, states or WorkerStates()
        )
        self.responder = Responder(self._recorder, self.metrics)
        self._log = PredictionLog.from_settings(settings, self.metrics)
        predictions = Predictions(self.metrics, self._log)
        pipeline = Pipeline(self.predictor, self._arms, self._shadow, predictions, self.responder)
        self._batcher: DynamicBatcher[Lane] = DynamicBatcher(
            pipeline.answer,
            limits,
            self.predictor.unshared_slots,
            self._client.pool.slots,
            self.metrics.waiting_seconds.observe,
        )
        self.metrics.waiting = lambda: self._batcher.waiting
        self.tables = TableRequests(
            Tables(self.predictor, self._arms, predictions),
            self._recorder,
            self.responder,
            settings.timeout,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self.route = api_router(
            self.predictor, self._arms, self.metrics, self._operations, self._log, settings
        ).route

    async def __aenter__(self) -> Gateway:
        await self.predictor.__aenter__()
        if self._log is not None:
            self._log.start()
        if self.settings.workers > 1:
            self._start_task(self._operations.watch())
        if self.settings.rollout is not None:
            self._start_task(self._arms.watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._batcher.close()
        await self._shadow.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.predictor.__aexit__(kind, error, traceback)
        await self._client.close()
        self.metrics.drift.publish()
        if self._log is not None:
            await to_thread(self._log.close)
        if self._tracing is not None:
            self._tracing.close()

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer a complete request, for other HTTP servers."""
        future: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
        route = self.route(request)
        try:
            caller = self.admit(request, route)
        except ClientError as error:
            return self.responder.refuse(request, route, error)
        self.metrics.in_flight += 1
        job = self.submit(request, route, caller, future.set_result)
        try:
            return await future
        except asyncio.CancelledError:
            self.cancel(job)
            raise
        finally:
            self.metrics.in_flight -= 1

    def admit(self, request: HttpRequest, route: Route | None) -> str | None:
        """Check the request limit and the API key before the body is read.

        Returns:
            The name of the API key, None if no keys are required.

        Raises:
            ClientError: 503, too many requests are in flight; 401, the key is missing or unknown.
        """
        if route is None or route.limited:
            if self.metrics.in_flight >= self.settings.max_requests:
                raise UnavailableError(
                    f"{self.metrics.in_flight} requests are already in flight; retry later"
                )
            if self._keys is not None:
                return self._keys.authenticate(request.headers)
        return None

    def submit(
        self, request: HttpRequest, route: Route | None, caller: str | None, respond: Respond
    ) -> ApiJob:
        """Handle an admitted request; the response may come later.

        Args:
            request: the request with its body as sent.
            route: its route.
            caller: the name of its API key.
            respond: called with the response.
        """
        job = ApiJob(
            request, route, caller, Deadline(self.settings.timeout), respond, self.responder.fail
        )
        try:
            if TIMEOUT_HEADER in request.headers:
                job.deadline = Deadline(request_timeout(request, self.settings.timeout))
            if route is None:
                raise ClientError(f"{request.method} {request.path}: Not Found", 404)
            if route.methods and not _is_allowed(request, route.methods):
                self.responder.respond(job, self.responder.not_allowed(request, route))
                return job
            job.context = self._recorder.begin(request, route)
            is_streamed = route.is_streamed(request.method, request.headers)
            if not is_streamed and request.method == "POST" and is_table(request.headers):
                raise ClientError("Content-Type: only predictions take tables", 415)
            if request.query and route.table is not None:
                TableOptions.from_query(request.query)  # refuse invalid values for any body
            if route.lane is None or is_streamed or "content-encoding" in request.headers:
                self._run(job, self._answer_unbatched(job, route))
            else:
                self._enqueue(job, route.lane)
        except Exception as error:
            job.fail(error)
        return job

    def _enqueue(self, job: ApiJob, lane: Lane) -> None:
        """Queue a prediction for the next shared call."""
        arm = self._arms.choose(lane.target, job.request.headers)
        if arm is not None:
            lane = Lane(arm.target, lane.codec, arm)
        if not is_recorded(job.request.headers):
            lane = lane._replace(recorded=False)
        self._batcher.put(lane, job)

    async def _answer_unbatched(self, job: ApiJob, route: Route) -> None:
        """Answer a request that is not a prediction, or whose body is compressed."""
        request = job.request
        REQUESTS.set((job.context,) if job.context is not None else ())
        encoding = request.headers.get("content-encoding")
        if encoding is not None and request.body:
            limit = self.settings.max_body_bytes
            request.body = await to_thread(decompress, request.body, encoding, limit)
            job.size = len(request.body)
        if route.is_streamed(request.method, request.headers):
            self.responder.respond(job, await self.tables.answer(request, route, job.caller))
        elif route.lane is not None:
            self._enqueue(job, route.lane)
        else:
            assert route.handle is not None
            self.responder.respond(job, await route.handle(request, job.deadline))

    def cancel(self, job: ApiJob) -> None:
        """Cancel a request whose caller has disconnected."""
        if job.done:
            return
        self._recorder.cancel(job.context)
        self._batcher.remove(job)
        if job.task is not None:
            job.task.cancel()

    def _run(self, job: ApiJob, coroutine: Coroutine[Any, Any, None]) -> None:
        async def answer() -> None:
            try:
                await coroutine
            except Exception as error:
                job.fail(error)

        job.task = self._start_task(answer())

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_allowed(request: HttpRequest, methods: Sequence[str]) -> bool:
    return request.method in methods or (request.method == "HEAD" and "GET" in methods)

"""Routes for operators: liveness, readiness, metrics."""

from __future__ import annotations

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST

from client.errors import ClientError, UnavailableError
from client.http import paths
from client.http.errors import error_response
from client.http.messages import HttpRequest, HttpResponse
from client.http.responses import json_response
from client.http.routing import Route
from client.http.worker_states import WorkerStates
from client.inference.predictor import Predictor
from client.observability.metrics import Metrics
from client.serving.client import Target
from client.serving.deadlines import Deadline
from client.serving.protos import ModelVersionStatus

AVAILABLE = ModelVersionStatus.State.Value("AVAILABLE")
# Probes time out early, so the status request must too.
READY_TIMEOUT_SECONDS = 1.0
WATCH_SECONDS = 1.0


class OperationsApi:
    """`/livez`, `/readyz` and `/metrics`."""

    def __init__(
        self, predictor: Predictor, metrics: Metrics, model: str, states: WorkerStates
    ) -> None:
        self._predictor = predictor
        self._metrics = metrics
        self._model = model
        self._states = states
        handlers = {
            paths.LIVEZ: self._livez,
            paths.READYZ: self._readyz,
            paths.METRICS: self._exposition,
        }
        self._routes = {
            path: Route(path, ("GET",), handle=handle, limited=False)
            for path, handle in handlers.items()
        }

    def route(self, request: HttpRequest) -> Route | None:
        """Return the route of a request."""
        return self._routes.get(request.path)

    async def _livez(self, request: HttpRequest, deadline: Deadline) -> HttpResponse:
        """Report that the process responds; a missing model must not restart it."""
        return json_response({"status": "alive"})

    async def _readyz(self, request: HttpRequest, deadline: Deadline) -> HttpResponse:
        try:
            available = await self._check(deadline)
        except ClientError as error:
            return error_response(UnavailableError(error.message), request.path)
        return json_response({"status": "ready", "model": self._model, "versions": available})

    async def is_ready(self, deadline: Deadline) -> bool:
        """Return whether the model is available and the service is not stopping."""
        try:
            return bool(await self._check(deadline))
        except ClientError:
            return False

    async def watch(self) -> None:
        """Keep this worker's state up to date for probes that reach other workers."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.is_ready(Deadline(READY_TIMEOUT_SECONDS))

    async def _check(self, deadline: Deadline) -> list[int]:
        """Return the available versions.

        Raises:
            ClientError: there are none, or a worker is not ready or is stopping.
        """
        if self._states.draining:
            raise UnavailableError("the client is stopping")
        probe_deadline = Deadline(min(READY_TIMEOUT_SECONDS, deadline.remaining()))
        target = self._predictor.stable(Target(self._model))
        try:
            available = await available_versions(
                self._predictor, Target(self._model), probe_deadline
            )
            if not available:
                raise UnavailableError(f"model {self._model} has no version that is AVAILABLE")
            if target.version is not None and target.version not in available:
                raise UnavailableError(
                    f"version {target.version} of model {self._model}, the stable one of its "
                    "rollout, is not AVAILABLE"
                )
            await self._predictor.servers.verify(target, probe_deadline)
        except ClientError:
            self._states.set_ready(False)
            raise
        self._states.set_ready(True)
        others = self._states.others_not_ready()
        if others:
            raise UnavailableError(f"{others} of the other workers are not ready")
        return available

    async def _exposition(self, request: HttpRequest, deadline: Deadline) -> HttpResponse:
        return HttpResponse(self._metrics.exposition(), content_type=CONTENT_TYPE_LATEST)


async def available_versions(predictor: Predictor, target: Target, deadline: Deadline) -> list[int]:
    """Return the available versions of a model, newest first.

    Raises:
        ServerError: there is no such model or version, or the server cannot be reached.
    """
    versions = await predictor.status(target, deadline)
    return [version.version for version in versions if version.state == AVAILABLE]

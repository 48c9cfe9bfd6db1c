"""Routes for operators: liveness, readiness, metrics."""

from __future__ import annotations

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST

from client.codecs.errors import json_error
from client.errors import ClientError, UnavailableError
from client.http.messages import HttpReply, HttpRequest
from client.http.responses import json_reply
from client.http.routing import Route
from client.http.worker_states import WorkerStates
from client.inference.predictor import Predictor
from client.observability.metrics import Metrics
from client.serving.client import Target
from client.serving.deadlines import Deadline
from client.serving.protos import ModelVersionStatus

AVAILABLE = ModelVersionStatus.State.Value("AVAILABLE")
# Probes give up early; so does the question behind the answer.
READY_TIMEOUT_SECONDS = 1.0
WATCH_SECONDS = 1.0


class OperationsApi:
    """`/livez`, `/readyz` and `/metrics`."""

    def __init__(self, core: Predictor, metrics: Metrics, model: str, states: WorkerStates) -> None:
        self._core = core
        self._metrics = metrics
        self._model = model
        self._states = states
        handlers = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._exposition}
        self._routes = {
            path: Route(path, ("GET",), handle=handle, limited=False)
            for path, handle in handlers.items()
        }

    def route(self, request: HttpRequest) -> Route | None:
        """Return what answers a request."""
        return self._routes.get(request.path)

    async def _livez(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        """Say that the process answers; nothing else, so that it is not restarted in vain."""
        return json_reply({"status": "alive"})

    async def _readyz(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        try:
            available = await self._check(deadline)
        except ClientError as error:
            return json_error(UnavailableError(error.message))
        return json_reply({"status": "ready", "model": self._model, "versions": available})

    async def is_ready(self, deadline: Deadline) -> bool:
        """Whether the model can be asked, and the service is not about to stop."""
        try:
            return bool(await self._check(deadline))
        except ClientError:
            return False

    async def watch(self) -> None:
        """Keep this worker's state up to date for the probes that other workers answer."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.is_ready(Deadline(READY_TIMEOUT_SECONDS))

    async def _check(self, deadline: Deadline) -> list[int]:
        """Return the versions that can be asked.

        Raises:
            ClientError: there is none, or a worker cannot answer or is about to stop.
        """
        if self._states.draining:
            raise UnavailableError("the client is stopping")
        within = Deadline(min(READY_TIMEOUT_SECONDS, deadline.left()))
        try:
            available = await available_versions(self._core, Target(self._model), within)
            if not available:
                raise UnavailableError(f"model {self._model} has no version that is AVAILABLE")
        except ClientError:
            self._states.set_ready(False)
            raise
        self._states.set_ready(True)
        others = self._states.others_not_ready()
        if others:
            raise UnavailableError(f"{others} other workers cannot reach the model")
        return available

    async def _exposition(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        return HttpReply(self._metrics.exposition(), content_type=CONTENT_TYPE_LATEST)


async def available_versions(core: Predictor, target: Target, deadline: Deadline) -> list[int]:
    """Return the versions of a model that can be asked, newest first.

    Raises:
        ServerError: there is no such model or version, or the server cannot be reached.
    """
    versions = await core.status(target, deadline)
    return [version.version for version in versions if version.state == AVAILABLE]

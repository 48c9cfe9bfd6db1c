"""Routes for whoever operates the client: liveness, readiness, metrics."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST

from client.errors import ClientError, UnavailableError
from client.http.messages import HttpReply, HttpRequest
from client.http.replies import error_reply, json_reply
from client.http.routing import Route
from client.inference.predictor import Predictor
from client.observability.metrics import Metrics
from client.serving.client import Target
from client.serving.deadlines import Deadline
from client.serving.protos import ModelVersionStatus

AVAILABLE = ModelVersionStatus.State.Value("AVAILABLE")
# Probes give up early; so does the question behind the answer.
READY_TIMEOUT_SECONDS = 1.0


class OperationsApi:
    """`/livez`, `/readyz` and `/metrics`.

    Attributes:
        draining: whether the process is about to stop, so that nothing new should be sent to it.
    """

    def __init__(self, core: Predictor, metrics: Metrics, model: str) -> None:
        self._core = core
        self._metrics = metrics
        self._model = model
        self.draining = False
        handlers = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._exposition}
        self._routes = {
            path: Route(path, handle, ("GET",), limited=False) for path, handle in handlers.items()
        }

    def route(self, path: str) -> Route | None:
        """Return what answers a path."""
        return self._routes.get(path)

    async def _livez(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        """Tell that the process answers; nothing else, so that nobody restarts it in vain."""
        return json_reply({"status": "alive"})

    async def _readyz(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        """Tell whether the model can be asked."""
        try:
            if self.draining:
                raise UnavailableError("the client is stopping")
            available = await self._available(deadline)
            if not available:
                raise UnavailableError(f"model {self._model} has no version that is AVAILABLE")
        except ClientError as error:
            return error_reply(UnavailableError(error.message))
        return json_reply({"status": "ready", "model": self._model, "versions": available})

    async def is_ready(self, deadline: Deadline) -> bool:
        """Tell whether the model can be asked, and this process is not about to stop."""
        try:
            return not self.draining and bool(await self._available(deadline))
        except ClientError:
            return False

    async def _available(self, deadline: Deadline) -> list[int]:
        within = Deadline(min(READY_TIMEOUT_SECONDS, deadline.left()))
        return await available_versions(self._core, Target(self._model), within)

    async def _exposition(self, request: HttpRequest, deadline: Deadline) -> HttpReply:
        return HttpReply(self._metrics.exposition(), content_type=CONTENT_TYPE_LATEST)


async def available_versions(core: Predictor, target: Target, deadline: Deadline) -> list[int]:
    """Return the versions of a model that can be asked, newest first.

    Raises:
        ServerError: there is no such model or version, or the server cannot be reached.
    """
    versions = await core.status(target, deadline)
    return [version.version for version in versions if version.state == AVAILABLE]

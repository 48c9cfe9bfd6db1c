"""Routes for whoever operates the client: liveness, readiness, metrics."""

from __future__ import annotations

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from client.errors import RETRY_AFTER_SECONDS, ClientError
from client.messages import ModelVersionStatus
from client.metrics import Metrics
from client.model_server import ModelServer
from client.responses import json_response
from client.settings import Settings

AVAILABLE = ModelVersionStatus.State.Value("AVAILABLE")
# Probes give up early; so does the question behind the answer.
READY_TIMEOUT_SECONDS = 1.0


def blueprint(server: ModelServer, metrics: Metrics, settings: Settings) -> Blueprint:
    """Return the routes.

    Args:
        server: the model server whose readiness counts.
        metrics: what `/metrics` shows.
        settings: of the application.
    """
    routes = Blueprint("operations", __name__)

    @routes.get("/livez")
    def livez() -> Response:
        """Tell that the process answers; nothing else, so that nobody restarts it in vain."""
        return json_response({"status": "alive"})

    @routes.get("/readyz")
    def readyz() -> Response:
        """Tell whether the model can be asked."""
        try:
            versions = server.status(
                settings.model, timeout=min(READY_TIMEOUT_SECONDS, settings.timeout)
            )
        except ClientError as error:
            return _not_ready(error.message)
        available = [v.version for v in versions if v.state == AVAILABLE]
        if not available:
            return _not_ready(f"model {settings.model} has no version that is AVAILABLE")
        return json_response({"status": "ready", "model": settings.model, "versions": available})

    @routes.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.exposition(), content_type=CONTENT_TYPE_LATEST)

    return routes


def _not_ready(reason: str) -> Response:
    response = json_response({"status": "not ready", "error": reason}, 503)
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response

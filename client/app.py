"""The Flask application."""

from __future__ import annotations

import logging
import time

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from client import api, operations, page
from client.errors import ClientError
from client.metrics import Metrics
from client.model_server import ModelServer
from client.prediction import Predictor
from client.responses import json_response
from client.settings import Settings

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> Flask:
    """Make the application.

    Call it in the process that serves: the gRPC channel must not be carried over a fork.

    Args:
        settings: read from the environment if left out.
    """
    settings = settings or Settings()
    metrics = Metrics()
    server = ModelServer(settings.server, timeout=settings.timeout, observe=metrics.observe_call)
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    predictor = Predictor(server)
    app.register_blueprint(api.blueprint(predictor, settings))
    app.register_blueprint(operations.blueprint(server, metrics, settings))
    app.register_blueprint(page.blueprint(predictor, settings))
    _measure_requests(app, metrics)
    _answer_errors(app, settings)
    return app


def _measure_requests(app: Flask, metrics: Metrics) -> None:
    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        metrics.in_flight.inc()

    @app.after_request
    def end(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.url_rule else "any"
        metrics.requests.labels(method, route, response.status_code).inc()
        metrics.request_seconds.labels(route).observe(time.perf_counter() - g.started)
        return response

    @app.teardown_request
    def leave(error: BaseException | None) -> None:
        metrics.in_flight.dec()


def _answer_errors(app: Flask, settings: Settings) -> None:
    """Answer every error as the dialect does: `{"error": "what came, what was expected"}`."""

    @app.errorhandler(ClientError)
    def client_error(error: ClientError) -> Response:
        response = json_response({"error": error.message}, error.status)
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        return response

    @app.errorhandler(RequestEntityTooLarge)
    def too_large(error: RequestEntityTooLarge) -> Response:
        message = f"the body is too large; expected at most {settings.max_body_bytes} bytes"
        return json_response({"error": message}, 413)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        message = f"{request.method} {request.path}: {error.name}"
        response = json_response({"error": message}, error.code or 500)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.exception("%s %s failed", request.method, request.path, exc_info=error)
        return json_response({"error": "internal error; the log has the details"}, 500)

"""The Flask application: the page, and every route of the API as well."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from urllib.parse import quote

from flask import Flask, Response, g, request
from flask_swagger_ui import get_swaggerui_blueprint
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from client.errors import ClientError
from client.http import access_log as access
from client.http import page
from client.http.endpoints import docs
from client.http.flask_bridge import Background, Bridge
from client.http.messages import HttpReply, HttpRequest
from client.http.replies import error_reply
from client.http.request_body import decoded, too_large
from client.settings import Settings

log = logging.getLogger(__name__)

# The paths of the API; what lies below them is for the gateway to say.
API = (
    "/predict",
    "/explain",
    "/v1/<path:below>",
    "/v2",
    "/v2/<path:below>",
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
)
PAGE_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
# Swagger's page has its settings in a script of its own, and draws with styles in place.
DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'"
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def create_app(
    settings: Settings | None = None, bridge: Callable[[], Bridge] | None = None
) -> Flask:
    """Make the application.

    Args:
        settings: read from the environment if left out.
        bridge: leads to the gateway that already answers the API on an event loop; if left out, one
            is started in a thread with the first request.
    """
    settings = settings or Settings()
    bridge = bridge or Background(settings).bridge
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    _answer_api(app, bridge, settings.max_body_bytes)
    app.register_blueprint(page.blueprint(bridge, settings))
    app.register_blueprint(get_swaggerui_blueprint("/docs", docs.PATH, {"app_name": docs.TITLE}))
    _measure_requests(app, bridge)
    _protect(app, bridge)
    _answer_errors(app, settings.max_body_bytes)
    return app


def _answer_api(app: Flask, bridge: Callable[[], Bridge], most_bytes: int) -> None:
    def api(**below: str) -> Response:
        sent = request.environ.get("RAW_URI") or request.environ.get("REQUEST_URI")
        path = sent.partition("?")[0] if sent else quote(request.path)
        headers = _headers()
        body = request.get_data(cache=False)
        if len(body) >= most_bytes:
            request.stream.read(1)  # a chunked body was cut at the limit; reading on is a 413
        body = decoded(body, headers.get("content-encoding"), most_bytes)
        query = request.query_string.decode("latin-1")
        to = bridge()
        reply = to.gateway.handle(HttpRequest(request.method, path, query, headers, body))
        return _response(to.run(reply))

    for rule in API:
        app.add_url_rule(
            rule, "api", api, methods=METHODS, provide_automatic_options=False, strict_slashes=False
        )


def _protect(app: Flask, bridge: Callable[[], Bridge]) -> None:
    """Let in who has a key, and tell browsers what pages may do."""

    @app.before_request
    def check_key() -> None:
        if request.endpoint != "api":  # the API's requests are checked by the gateway
            bridge().gateway.caller(_headers())

    @app.after_request
    def restrict(response: Response) -> Response:
        is_docs = (request.endpoint or "").startswith("swagger_ui.")
        response.headers["Content-Security-Policy"] = DOCS_POLICY if is_docs else PAGE_POLICY
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _measure_requests(app: Flask, bridge: Callable[[], Bridge]) -> None:
    """Count what the gateway does not see."""

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
        if request.endpoint != "api":
            route = request.url_rule.rule if request.url_rule else "none"
            method = request.method if request.url_rule else "any"
            seconds = time.perf_counter() - g.started
            bridge().gateway.metrics.observe_request(method, route, response.status_code, seconds)
            identity = access.request_id(_headers())
            if identity is not None:
                response.headers[access.ID_HEADER] = identity
        return response


def _answer_errors(app: Flask, most_bytes: int) -> None:
    """Answer every error as the API does: `{"error": "what came, what was expected"}`."""

    @app.errorhandler(ClientError)
    def client_error(error: ClientError) -> Response:
        return _response(error_reply(error))

    @app.errorhandler(RequestEntityTooLarge)
    def large(error: RequestEntityTooLarge) -> Response:
        return _response(error_reply(too_large(most_bytes)))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        message = f"{request.method} {request.path}: {error.name}"
        response = _response(error_reply(ClientError(message, error.code or 500)))
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.exception("%s %s failed", request.method, request.path, exc_info=error)
        return _response(error_reply(ClientError("internal error; the log has the details", 500)))


def _headers() -> dict[str, str]:
    """Return the request's headers by name in lower case."""
    return {name.lower(): value for name, value in request.headers.items()}


def _response(reply: HttpReply) -> Response:
    response = Response(reply.body, reply.status, content_type=reply.content_type)
    response.headers.extend(reply.headers)
    return response

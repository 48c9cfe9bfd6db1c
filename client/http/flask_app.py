"""The Flask application: the page, and every route of the API.

Behind the project's own HTTP server it serves only the page, the docs, training reports and static
files; under `flask run` or another WSGI server it serves everything, with the same gateway.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from urllib.parse import quote

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from client.errors import ClientError
from client.http import access_log as access
from client.http import docs_page, page, reports
from client.http.errors import error_response
from client.http.flask_bridge import BackgroundGateway, Bridge
from client.http.messages import HttpRequest, HttpResponse
from client.http.request_body import too_large
from client.observability.prediction_ids import PREDICTION_ID_HEADER
from client.settings import Settings

log = logging.getLogger(__name__)

PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
# Characters besides letters, digits and "-._~" that stand for themselves in a path (RFC 3986).
PATH_CHARACTERS = "/:@!$&'()*+,;="


def create_app(
    settings: Settings | None = None, get_bridge: Callable[[], Bridge] | None = None
) -> Flask:
    """Create the application.

    Args:
        settings: read from the environment if omitted.
        get_bridge: returns the bridge to the gateway of the project's own HTTP server, which has
            checked each request; if omitted, a gateway is started in a thread on the first
            request.
    """
    settings = settings or Settings()
    app = Flask(__name__)
    # Flask silently truncates a chunked body at its limit, so allow one more byte.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes + 1
    is_standalone = get_bridge is None
    get_bridge = get_bridge or BackgroundGateway(settings).bridge
    _record_requests(app, get_bridge)
    if is_standalone:
        _answer_api(app, settings.max_body_bytes)
    app.register_blueprint(page.blueprint(get_bridge, settings))
    app.register_blueprint(docs_page.blueprint)
    if settings.reports is not None:
        app.register_blueprint(reports.blueprint(settings.reports))
    _answer_errors(app)
    return app


def _answer_api(app: Flask, max_bytes: int) -> None:
    """Route every path of the API to the gateway."""

    @app.before_request
    def answer() -> Response | None:
        raw_uri = request.environ.get("RAW_URI") or request.environ.get("REQUEST_URI")
        path = raw_uri.partition("?")[0] if raw_uri else quote(request.path, safe=PATH_CHARACTERS)
        query = request.query_string.decode("latin-1")
        api_request = HttpRequest(request.method, path, query, _request_headers())
        bridge: Bridge = g.bridge
        route = bridge.gateway.route(api_request)
        if route is None:
            bridge.gateway.admit(api_request, None)
            return None
        try:
            # Check before the body is read; `handle` checks again when it counts the request.
            bridge.gateway.admit(api_request, route)
            api_request.body = _read_body(max_bytes)
        except ClientError as error:
            response = bridge.gateway.responder.refuse(api_request, route, error)
        else:
            response = bridge.run(bridge.gateway.handle(api_request))
        g.by_gateway = True
        return _to_flask(response)


def _record_requests(app: Flask, get_bridge: Callable[[], Bridge]) -> None:
    """Record requests that the gateway does not handle, and set the pages' security headers."""

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        g.bridge = get_bridge()

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        if g.get("by_gateway"):
            return response
        response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"
        if "bridge" not in g:  # the gateway could not start
            return response
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.url_rule else "any"
        seconds = time.perf_counter() - g.started
        g.bridge.gateway.metrics.observe_request(method, route, response.status_code, seconds)
        request_id = access.read_request_id(_request_headers())
        if request_id is not None:
            response.headers[access.ID_HEADER] = request_id
        return response


def _answer_errors(app: Flask) -> None:
    """Return every error in the form of the API."""

    @app.errorhandler(ClientError)
    def client_error(error: ClientError) -> Response:
        return _to_flask(error_response(error, request.path))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        message = f"{request.method} {request.path}: {error.name}"
        failure = ClientError(message, error.code or 500)
        response = _to_flask(error_response(failure, request.path))
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.exception("%s %s failed", request.method, request.path, exc_info=error)
        failure = ClientError("internal error; the log has the details", 500)
        return _to_flask(error_response(failure, request.path))


def _read_body(max_bytes: int) -> bytes:
    """Return the request's body.

    Raises:
        ClientError: the body is too large.
    """
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise too_large(max_bytes) from None
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    return body


def _request_headers() -> dict[str, str]:
    """Return the request's headers by name in lower case."""
    return {name.lower(): value for name, value in request.headers.items()}


def _to_flask(response: HttpResponse) -> Response:
    converted = Response(response.body, response.status, content_type=response.content_type)
    converted.headers.extend(response.headers)
    if response.prediction_id is not None:
        converted.headers[PREDICTION_ID_HEADER] = response.prediction_id
    return converted
